//! Servers of Ollama that run on this host, as `/proc` shows them.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest environment or command line that is read.
const MAX: u64 = 1 << 20;
const NAME: &[u8] = b"ollama";

/// A running server of Ollama.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaServer {
    /// The process.
    pub pid: u32,
    /// Its environment, as far as it concerns models; `None` where this user may not read it.
    pub environment: Option<OllamaEnvironment>,
}

/// What the environment of a server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OllamaEnvironment {
    /// Where it keeps its models: `OLLAMA_MODELS` (quotes and blanks around it taken off), else `.ollama/models` in `HOME`.
    pub models: Option<PathBuf>,
    /// `OLLAMA_HOST`: the address that it listens on.
    pub host: Option<String>,
}

/// The servers below `proc` (`/proc`, but for tests). Those that see another file system, as in a container, are left out: what
/// they call a folder is another one here.
#[must_use]
pub fn ollama_servers(proc: &Path) -> Vec<OllamaServer> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let mut servers: Vec<OllamaServer> = pids.filter_map(|pid| server(proc, pid)).collect();
    servers.sort_by_key(|server| server.pid);
    servers
}

fn server(proc: &Path, pid: u32) -> Option<OllamaServer> {
    let folder = proc.join(pid.to_string());
    let name = read(&folder.join("comm"))?;
    if name.trim_ascii_end() != NAME {
        return None;
    }
    let arguments = read(&folder.join("cmdline"))?;
    // Its runners and its client have the same name.
    if !arguments.split(|byte| *byte == 0).any(|argument| argument == b"serve") {
        return None;
    }
    if !sees_what_we_see(proc, &folder) {
        return None;
    }
    Some(OllamaServer { pid, environment: environment_of(&folder) })
}

/// What the environment of process `pid` below `proc` says of Ollama; `None` where it may not be read, or where the process sees
/// another file system.
#[must_use]
pub fn ollama_environment(proc: &Path, pid: u32) -> Option<OllamaEnvironment> {
    let folder = proc.join(pid.to_string());
    sees_what_we_see(proc, &folder).then(|| environment_of(&folder)).flatten()
}

/// Whether a process is in no other mount namespace, as far as that can be told.
fn sees_what_we_see(proc: &Path, process: &Path) -> bool {
    let namespace = |folder: &Path| std::fs::read_link(folder.join("ns/mnt"));
    !matches!((namespace(process), namespace(&proc.join("self"))), (Ok(theirs), Ok(ours)) if theirs != ours)
}

/// What the environment of a process says of Ollama; `None` where it cannot be read.
fn environment_of(process: &Path) -> Option<OllamaEnvironment> {
    let content = read(&process.join("environ"))?;
    let value = |name: &str| {
        let mut values = content.split(|byte| *byte == 0).filter_map(|pair| {
            let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
            (key == name.as_bytes()).then_some(&value[1..])
        });
        values.next().map(trimmed).filter(|value| !value.is_empty())
    };
    let path = |bytes: &[u8]| Some(PathBuf::from(OsStr::from_bytes(bytes))).filter(|path| path.is_absolute());
    let models = match value("OLLAMA_MODELS") {
        Some(set) => path(set),
        None => value("HOME").and_then(path).map(|home| home.join(".ollama/models")),
    };
    let host = value("OLLAMA_HOST").and_then(|host| std::str::from_utf8(host).ok()).map(str::to_owned);
    Some(OllamaEnvironment { models, host })
}

/// Without blanks and quotes around it, as Ollama reads its variables.
fn trimmed(value: &[u8]) -> &[u8] {
    let plain = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'');
    let start = value.iter().position(|byte| !plain(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !plain(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// A process that has ended meanwhile, or that is another user's, says nothing.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX).read_to_end(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, comm: &str, arguments: &str, environment: Option<&[u8]>) {
        let folder = proc.join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        std::fs::write(folder.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
        if let Some(environment) = environment {
            std::fs::write(folder.join("environ"), environment).unwrap();
        }
    }

    #[test]
    fn servers_and_what_their_environment_says() {
        let proc = tempfile::tempdir().unwrap();
        let environ = b"PATH=/bin\0OLLAMA_MODELS= \"/data/my models\" \0HOME=/h\0OLLAMA_HOST=0.0.0.0:8080\0";
        process(proc.path(), 10, "ollama", "/usr/bin/ollama serve", Some(environ));
        process(proc.path(), 11, "ollama", "ollama runner --model /x", Some(b""));
        process(proc.path(), 12, "bash", "ollama serve", Some(b""));
        process(proc.path(), 13, "ollama", "ollama serve", Some(b"HOME=/usr/share/ollama\0"));
        process(proc.path(), 14, "ollama", "ollama serve", None);
        let found = ollama_servers(proc.path());
        let says = |models: &str, host: Option<&str>| {
            Some(OllamaEnvironment { models: Some(models.into()), host: host.map(str::to_owned) })
        };
        assert_eq!(
            found,
            [
                OllamaServer { pid: 10, environment: says("/data/my models", Some("0.0.0.0:8080")) },
                OllamaServer { pid: 13, environment: says("/usr/share/ollama/.ollama/models", None) },
                OllamaServer { pid: 14, environment: None },
            ]
        );
    }
}
