//! Ollama's server on this host, asked over its API.
//!
//! Only what can be told to work on a store is used: the folder that the environment of the listening process names, or, where
//! that may not be read, the one that the service is configured to use. A server behind another address than loopback is
//! another host's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::hub::loopback_client;
use crate::machine::{self, Listener, homes, ollama_servers, user_label};
use crate::model::{Holder, text};
use crate::store::ollama::service;
use crate::store::ollama::{Served, Server, Serving};

const DEFAULT_PORT: u16 = 11434;
/// A server on loopback that does not answer a question in this time is as good as none.
const QUESTION: Duration = Duration::from_secs(2);
/// Removing hundreds of gigabytes takes some file systems a while. After it the files are removed one by one, while the server
/// may still be at it: safe, as every step looks again whether its name still stands for the file of the plan, and a name
/// that the server removed first is only found gone.
const DELETION: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// The servers of one host.
#[derive(Clone, Debug)]
pub(super) struct OllamaApi {
    /// `OLLAMA_HOST`, if it is set.
    host: Option<String>,
    /// Root folder of the system.
    system: PathBuf,
    /// What a deletion waits for now, and since when. Clones share it.
    waits: Arc<Mutex<Option<(String, Instant)>>>,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    models: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    name: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    digest: String,
}

impl Listed {
    fn name(&self) -> &str {
        if self.name.is_empty() { &self.model } else { &self.name }
    }
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
}

/// A server that may answer.
struct Candidate {
    address: String,
    port: u16,
}

/// What is known of the folder that a server works on.
enum Works {
    /// It is this one, by the environment of the process.
    Here,
    /// It is this one, by the configuration of the service.
    HereByConfiguration,
    Elsewhere,
}

impl OllamaApi {
    pub(super) fn new(host: Option<String>, system: PathBuf) -> Self {
        Self { host, system, waits: Arc::default() }
    }

    /// Where a server may listen: at `OLLAMA_HOST`, else at the default, and where the running ones say.
    fn candidates(&self) -> Vec<Candidate> {
        let mut hosts = vec![self.host.clone().unwrap_or_default()];
        let running = ollama_servers(&self.system.join("proc"));
        hosts.extend(
            running.into_iter().filter_map(|server| server.environment).map(|set| set.host.unwrap_or_default()),
        );
        let mut found: Vec<Candidate> = Vec::new();
        for candidate in hosts.iter().filter_map(|host| on_loopback(host)) {
            if found.iter().all(|known| known.address != candidate.address) {
                found.push(candidate);
            }
        }
        found
    }

    /// Whether the listener on the port of `candidate` works on `root`.
    fn works(&self, listener: Listener, root: &Path) -> Works {
        let proc = self.system.join("proc");
        if let Some(environment) = listener.pid.and_then(|pid| machine::ollama_environment(&proc, pid)) {
            return match environment.models {
                Some(models) if is_same(&models, root) => Works::Here,
                _ => Works::Elsewhere,
            };
        }
        let configured = service::configured(&self.system).or_else(|| {
            let home = homes(&self.system).into_iter().find(|home| home.uid == listener.uid)?;
            Some(home.path.join(".ollama/models"))
        });
        match configured {
            Some(models) if is_same(&models, root) => Works::HereByConfiguration,
            _ => Works::Elsewhere,
        }
    }

    /// The server of `root`, with who listens there and whether its process says so itself.
    fn find(&self, root: &Path) -> Option<(Candidate, Listener, bool)> {
        self.candidates().into_iter().find_map(|candidate| {
            let listener = machine::listener(&self.system.join("proc"), candidate.port)?;
            match self.works(listener, root) {
                Works::Here => Some((candidate, listener, true)),
                Works::HereByConfiguration => Some((candidate, listener, false)),
                Works::Elsewhere => None,
            }
        })
    }
}

impl Server for OllamaApi {
    fn of(&self, root: &Path) -> Option<Serving> {
        let (candidate, _, certain) = self.find(root)?;
        let listing: Listing = ask(&candidate.address, "/api/tags")?;
        let version: Option<Version> = ask(&candidate.address, "/api/version");
        let models = listing.models.iter().map(|listed| Served {
            name: listed.name().to_owned(),
            digest: listed.digest.trim_start_matches("sha256:").to_ascii_lowercase(),
        });
        Some(Serving {
            address: candidate.address,
            models: models.collect(),
            knows_both_trees: version.is_some_and(|version| is_recent(&version.version)),
            certain,
        })
    }

    fn loaded(&self, root: &Path) -> Vec<(String, Holder)> {
        let Some((candidate, listener, _)) = self.find(root) else { return Vec::new() };
        let Some(listing) = ask::<Listing>(&candidate.address, "/api/ps") else { return Vec::new() };
        let holder = Holder {
            // 0 is no process: which one it is may not be read.
            pid: listener.pid.unwrap_or(0),
            user: user_label(listener.uid),
            command: format!("Ollama's server at {} has it loaded", candidate.address),
        };
        listing.models.iter().map(|listed| (listed.name().to_owned(), holder.clone())).collect()
    }

    fn waits(&self) -> Option<(String, Duration)> {
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.as_ref().map(|(what, since)| (what.clone(), since.elapsed()))
    }

    fn delete(&self, address: &str, name: &str, cancel: &CancellationToken) -> Result<(), String> {
        let shown = address.trim_start_matches("http://");
        let what = format!("Ollama at {shown} to delete {}", text::printable(name));
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, Instant::now()));
        let result = delete(address, name, cancel);
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result
    }
}

fn delete(address: &str, name: &str, cancel: &CancellationToken) -> Result<(), String> {
    let url = format!("{address}/api/delete");
    // Older servers read `name`, newer ones `model`.
    let body = serde_json::json!({ "model": name, "name": name });
    let cancel = cancel.clone();
    on_a_thread(DELETION, move || async move {
        let ask = async {
            let client = loopback_client()?;
            let answer = client.delete(url).json(&body).send().await.map_err(|error| error.to_string())?;
            let status = answer.status();
            if status.is_success() {
                return Ok(());
            }
            let why = read(answer).await.unwrap_or_default();
            let why: String = text::printable(String::from_utf8_lossy(&why).trim()).chars().take(200).collect();
            Err(format!("Ollama's server answered {status}: {why}"))
        };
        tokio::select! {
            answer = ask => answer,
            () = cancel.cancelled() => Err("it was cancelled before Ollama's server answered".to_owned()),
        }
    })
    .unwrap_or_else(|| Err(format!("Ollama's server did not answer in {} s", DELETION.as_secs())))
}

/// A question whose answer is JSON; `None` for no answer, or another one.
fn ask<T: DeserializeOwned + Send + 'static>(address: &str, path: &str) -> Option<T> {
    let url = format!("{address}{path}");
    on_a_thread(QUESTION, move || async move {
        let answer = loopback_client().ok()?.get(url).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        serde_json::from_slice(&read(answer).await?).ok()
    })
    .flatten()
}

async fn read(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.ok()? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_ANSWER {
            return None;
        }
    }
    Some(bytes)
}

/// Runs a question on a thread with a runtime of its own, for callers on any thread; `None` when its time is over.
fn on_a_thread<T, F>(patience: Duration, question: impl FnOnce() -> F + Send + 'static) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let answer = runtime.block_on(async { tokio::time::timeout(patience, question()).await.ok() });
        runtime.shutdown_background();
        answer
    };
    std::thread::Builder::new().name("ollama".to_owned()).spawn(body).ok()?.join().ok().flatten()
}

/// The address of `OLLAMA_HOST` if it is one of loopback, or every address of this host. As the server reads it: scheme, name and
/// port may each be left out.
fn on_loopback(host: &str) -> Option<Candidate> {
    let host = host.trim().trim_matches(['"', '\'']).trim();
    let (rest, default) = match host.split_once("://") {
        Some(("http", rest)) => (rest, 80),
        Some(_) => return None,
        None => (host, DEFAULT_PORT),
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let (name, port) = match rest.rsplit_once(':') {
        // The colons of an IPv6 address without a port.
        Some((name, _)) if name.contains(':') && !name.ends_with(']') => (rest, default),
        Some((name, port)) => (name, port.parse().ok()?),
        None => (rest, default),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name = match name {
        "" | "localhost" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "::1" => "[::1]".to_owned(),
        name if name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()) => name.to_owned(),
        _ => return None,
    };
    Some(Candidate { address: format!("http://{name}:{port}"), port })
}

/// Whether a version is 0.40 or later; one that cannot be read is none.
fn is_recent(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(minor))) => minor >= 40,
        (Some(Ok(_)), Some(Ok(_))) => true,
        _ => false,
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_of_this_host_are_asked() {
        let address = |host: &str| on_loopback(host).map(|candidate| candidate.address);
        let default = Some("http://127.0.0.1:11434".to_owned());
        for host in ["", "127.0.0.1", "localhost:11434", "0.0.0.0", "http://localhost:11434/", " \"127.0.0.1:11434\" "]
        {
            assert_eq!(address(host), default, "{host}");
        }
        assert_eq!(address("0.0.0.0:8080").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(address(":8080").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(address("[::1]:8080").as_deref(), Some("http://[::1]:8080"));
        assert_eq!(address("::1").as_deref(), Some("http://[::1]:11434"));
        assert_eq!(address("http://127.0.0.1").as_deref(), Some("http://127.0.0.1:80"));
        for host in ["gpu02", "10.0.0.1:11434", "https://localhost", "127.0.0.1:x", "localhost.evil.example"] {
            assert_eq!(address(host), None, "{host}");
        }
    }

    #[test]
    fn versions() {
        for (version, recent) in
            [("0.40.0", true), ("0.39.2", false), ("0.41.0-rc1", true), ("1.0", true), ("x", false)]
        {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
