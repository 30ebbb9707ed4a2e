//! One process, as `/proc` shows it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::user_label;
use crate::model::{Holder, text};

/// A command line longer than this is cut before anything is done with it.
const MAX_COMMAND: u64 = 64 * 1024;
/// How much of a command line is shown, in characters.
const SHOWN: usize = 160;

/// "process 4711 (llorch-models, user alice)", with what can be found out.
#[must_use]
pub fn describe_process(pid: u32) -> String {
    match (name(pid), owner(pid)) {
        (Some(name), Some(uid)) => format!("process {pid} ({name}, user {})", user_label(uid)),
        (Some(name), None) => format!("process {pid} ({name})"),
        _ => format!("process {pid}"),
    }
}

/// This program as it runs, also when its file was replaced meanwhile.
#[must_use]
pub fn own_program() -> Option<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Some(own.to_owned()) } else { std::env::current_exe().ok() }
}

/// The signals that this process ignores, as bits from signal 1; none where the system does not say.
#[must_use]
pub fn ignored_signals() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The name that the kernel keeps, at most 15 bytes.
pub(super) fn name(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(text::printable(String::from_utf8_lossy(&name).trim_end_matches('\n')))
}

/// The effective user. The owner of `/proc/<pid>` would be root for every process that may not be dumped.
pub(super) fn owner(pid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The process that started it.
pub(super) fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 1)?.parse().ok()
}

/// Whether it is a thread of the kernel, which holds no file of a person's.
pub(super) fn is_kernel_thread(pid: u32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    stat_field(pid, 6).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// A field of `/proc/<pid>/stat`, counted from the one after the name, which may itself hold blanks and parentheses.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = String::from_utf8_lossy(&stat[after + 1..]).into_owned();
    fields.split_ascii_whitespace().nth(index).map(str::to_owned)
}

/// Its arguments; empty for a thread of the kernel.
pub(super) fn arguments(pid: u32) -> Vec<OsString> {
    let mut content = Vec::new();
    // A process that has ended meanwhile holds nothing.
    let _ = std::fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(MAX_COMMAND).read_to_end(&mut content));
    while content.last() == Some(&0) {
        content.pop();
    }
    if content.is_empty() {
        return Vec::new();
    }
    content.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect()
}

/// A holder for the screen and for JSON.
pub(super) fn holder(pid: u32, arguments: &[OsString]) -> Holder {
    let command = if arguments.is_empty() {
        name(pid).map_or_else(|| "unknown".to_owned(), |name| format!("[{name}]"))
    } else {
        shown_command(arguments)
    };
    Holder { pid, user: owner(pid).map_or_else(|| "unknown".to_owned(), user_label), command }
}

/// The arguments in one printable line, cut, without the values of arguments that name a secret.
fn shown_command(arguments: &[OsString]) -> String {
    const SECRETS: [&str; 5] = ["token", "api-key", "api_key", "password", "secret"];
    let mut shown = String::new();
    let mut hide_next = false;
    for argument in arguments {
        let argument = text::printable(&argument.to_string_lossy());
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_str(), None),
        };
        let is_secret = flag.starts_with('-') && {
            let flag = flag.to_ascii_lowercase();
            SECRETS.iter().any(|secret| flag.ends_with(secret))
        };
        if !shown.is_empty() {
            shown.push(' ');
        }
        match (hide_next || argument.starts_with("hf_"), is_secret, value) {
            (true, _, _) => shown.push_str("***"),
            (false, true, Some(_)) => shown.push_str(&format!("{flag}=***")),
            _ => shown.push_str(&argument),
        }
        hide_next = is_secret && value.is_none();
        if shown.len() > SHOWN * 4 {
            break;
        }
    }
    match shown.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &shown[..at]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &[&str]) -> String {
        shown_command(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_are_printable_cut_and_without_secrets() {
        assert_eq!(shown(&["llama-server", "-m", "/m/x.gguf"]), "llama-server -m /m/x.gguf");
        assert_eq!(shown(&["x", "--api-key", "abc", "--hf-token=abc", "y"]), "x --api-key *** --hf-token=*** y");
        assert_eq!(shown(&["x", "hf_abcdef"]), "x ***");
        assert_eq!(shown(&["a\u{1b}b\n"]), "a\\u{1b}b\\n");
        let long = shown(&["x".repeat(1000).as_str()]);
        assert_eq!(long.chars().count(), SHOWN + 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_described() {
        let pid = std::process::id();
        let words = describe_process(pid);
        assert!(words.starts_with(&format!("process {pid} (")) && words.contains(", user "), "{words}");
        assert_eq!(owner(pid), Some(super::super::current_user()));
        assert_eq!(parent(pid), Some(std::os::unix::process::parent_id()));
        assert!(!is_kernel_thread(pid));
        assert!(!arguments(pid).is_empty());
    }

    #[test]
    fn a_process_that_is_gone_is_only_a_number() {
        assert_eq!(describe_process(u32::MAX), format!("process {}", u32::MAX));
    }
}
