//! Who listens on a port of this host.

use std::io::Read;
use std::path::Path;

/// Longest table of sockets that is read.
const MAX: u64 = 64 << 20;
/// `TCP_LISTEN` in the tables.
const LISTEN: &str = "0A";

/// A process that accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its user.
    pub uid: u32,
    /// The process; `None` where its descriptors may not be read.
    pub pid: Option<u32>,
}

/// The listener on a TCP port of any address, by the tables below `proc` (`/proc`).
#[must_use]
pub fn listener(proc: &Path, port: u16) -> Option<Listener> {
    let (uid, inode) = ["net/tcp", "net/tcp6"].iter().find_map(|table| {
        let mut text = String::new();
        std::fs::File::open(proc.join(table)).ok()?.take(MAX).read_to_string(&mut text).ok()?;
        text.lines().skip(1).find_map(|line| entry(line, port))
    })?;
    Some(Listener { uid, pid: process_of(proc, inode) })
}

/// User and inode of a line such as `0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 998 0 12345 1 …`.
fn entry(line: &str, port: u16) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
    let listens = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()? == port;
    (listens && *state == LISTEN).then_some(())?;
    Some((uid.parse().ok()?, inode.parse().ok()?))
}

/// The process that has the socket open, among those whose descriptors can be read.
fn process_of(proc: &Path, inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let entries = std::fs::read_dir(proc).ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let mut found: Vec<u32> = pids
        .filter(|pid| {
            let descriptors = std::fs::read_dir(proc.join(pid.to_string()).join("fd")).into_iter().flatten().flatten();
            descriptors.into_iter().any(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|leads_to| leads_to.as_os_str() == wanted.as_str())
            })
        })
        .collect();
    found.sort_unstable();
    found.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table() {
        let line =
            "   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 12345 1 0 100";
        assert_eq!(entry(line, 11434), Some((998, 12345)));
        assert_eq!(entry(line, 11435), None);
        assert_eq!(entry(&line.replace(" 0A ", " 01 "), 11434), None);
        assert_eq!(entry("nonsense", 11434), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = listener(Path::new("/proc"), port).unwrap();
        assert_eq!(found, Listener { uid: super::super::current_user(), pid: Some(std::process::id()) });
        drop(socket);
        assert_eq!(listener(Path::new("/proc"), port), None);
    }
}
