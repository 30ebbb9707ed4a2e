//! The host's own memory, within the limits of the group that this process is in.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Roots, number};
use crate::model::memory::Ram;

/// More than these files hold.
const MAX_BYTES: u64 = 1 << 20;

/// All memory and what of it is available; `None` where the system does not tell.
pub(super) fn ram(roots: &Roots) -> Option<Ram> {
    let text = text(&roots.proc.join("meminfo"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let mut ram = Ram { total_bytes: figure("MemTotal")?, available_bytes: figure("MemAvailable")? };
    for (limit, used) in limits(roots) {
        ram.total_bytes = ram.total_bytes.min(limit);
        ram.available_bytes = ram.available_bytes.min(limit.saturating_sub(used));
    }
    Some(ram)
}

/// The limits of the groups around this process, and what counts against each: cached files do not, because they give way.
fn limits(roots: &Roots) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let groups = text(&roots.proc.join("self/cgroup")).unwrap_or_default();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    if let Some(group) = unified {
        let mut folder: PathBuf = roots.cgroup.join(group.trim_start_matches('/'));
        while folder.starts_with(&roots.cgroup) {
            let used = number(&folder.join("memory.current"));
            if let (Some(limit), Some(used)) = (number(&folder.join("memory.max")), used) {
                found.push((limit, used.saturating_sub(stat(&folder, "inactive_file"))));
            }
            if !folder.pop() {
                break;
            }
        }
    }
    let old = roots.cgroup.join("memory");
    if let (Some(limit), Some(used)) =
        (number(&old.join("memory.limit_in_bytes")), number(&old.join("memory.usage_in_bytes")))
    {
        found.push((limit, used.saturating_sub(stat(&old, "total_inactive_file"))));
    }
    found
}

fn stat(folder: &Path, name: &str) -> u64 {
    let text = text(&folder.join("memory.stat")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::fixtures::roots;

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       16000 kB\nMemFree:  10 kB\nMemAvailable:   12000 kB\n");

    #[test]
    fn what_is_available_is_told_by_the_kernel() {
        let (_scratch, roots) = roots(&[MEMINFO]);
        assert_eq!(ram(&roots), Some(Ram { total_bytes: 16_000 << 10, available_bytes: 12_000 << 10 }));
    }

    #[test]
    fn a_limit_around_the_process_holds() {
        let (_scratch, roots) = roots(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("cgroup/a/b/memory.max", "max\n"),
            ("cgroup/a/b/memory.current", "1\n"),
            ("cgroup/a/memory.max", "4096000\n"),
            ("cgroup/a/memory.current", "3000000\n"),
            ("cgroup/a/memory.stat", "anon 1\ninactive_file 1000000\n"),
        ]);
        assert_eq!(ram(&roots), Some(Ram { total_bytes: 4_096_000, available_bytes: 2_096_000 }));
    }

    #[test]
    fn what_is_not_told_is_unknown() {
        for text in ["", "MemTotal: x kB\n", "MemTotal: 99999999999999999999 kB\nMemAvailable: 1 kB\n"] {
            let (_scratch, roots) = roots(&[("proc/meminfo", text)]);
            assert_eq!(ram(&roots), None, "{text}");
        }
        let (_scratch, roots) = roots(&[]);
        assert_eq!(ram(&roots), None);
    }
}
