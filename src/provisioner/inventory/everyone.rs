//! The default places of every user's stores.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::shown;
use crate::machine::{Home, homes};
use crate::model::StoreKind;
use crate::store::hf::is_hub;
use crate::store::lm_studio;

/// How long the homes together may take to answer: one may lie on a server that is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Homes that are looked at side by side, so that a few that hang do not stop the others.
const THREADS: usize = 8;
/// Names that one line lists.
const MAX_NAMED: usize = 20;

/// What the homes hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Folders that are there, in the order of the homes.
    pub(super) folders: Vec<(StoreKind, PathBuf)>,
    /// What could not be looked at, a line each.
    pub(super) notes: Vec<String>,
}

/// What one home holds.
#[derive(Debug, Default)]
struct Answer {
    folders: Vec<(StoreKind, PathBuf)>,
    /// Whether something in it may not be read.
    closed: bool,
    /// Folders of other users that it leads to.
    foreign: Vec<PathBuf>,
}

/// Looks at the homes of the system whose root folder is `system`.
pub(super) fn look(system: &Path) -> Found {
    let homes = homes(system);
    let todo: Arc<Mutex<VecDeque<usize>>> = Arc::new(Mutex::new((0..homes.len()).collect()));
    let (sender, answers) = channel();
    for _ in 0..THREADS.min(homes.len()) {
        let (todo, sender, homes) = (Arc::clone(&todo), sender.clone(), homes.clone());
        // One that hangs is left behind, and ends with the program.
        let spawned = std::thread::Builder::new().name("homes".to_owned()).spawn(move || {
            loop {
                let next = todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(home) = next else { return };
                if sender.send((home, ask(&homes[home]))).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!("no thread to look at homes with: {error}");
        }
    }
    drop(sender);
    let until = Instant::now() + PATIENCE;
    let mut found: Vec<Option<Answer>> = homes.iter().map(|_| None).collect();
    // Until every home has answered, or the time is over.
    while let Ok((home, answer)) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
        found[home] = Some(answer);
    }
    told(&homes, found)
}

fn told(homes: &[Home], found: Vec<Option<Answer>>) -> Found {
    let mut all = Found::default();
    let (mut closed, mut silent) = (Vec::new(), Vec::new());
    for (home, answer) in homes.iter().zip(found) {
        let Some(answer) = answer else {
            silent.push(home);
            continue;
        };
        if answer.closed {
            closed.push(home);
        }
        for folder in answer.foreign {
            all.notes.push(format!(
                "{} of {} is left out: it is another user's; name it in the configuration to see it",
                shown(&folder),
                home.user
            ));
        }
        all.folders.extend(answer.folders);
    }
    let mut note = |homes: &[&Home], what: &str| {
        if homes.is_empty() {
            return;
        }
        let mut names: Vec<String> =
            homes.iter().take(MAX_NAMED).map(|home| format!("{} ({})", shown(&home.path), home.user)).collect();
        if let Some(more) = homes.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
            names.push(format!("and {more} more"));
        }
        all.notes.push(format!("homes that {what}: {}", names.join(", ")));
    };
    note(&closed, "cannot be read, or not all of them; root can");
    note(&silent, "did not answer");
    all
}

/// The default folders in a home, without its user's variables, which nobody else knows.
fn ask(home: &Home) -> Answer {
    let mut answer = Answer::default();
    let mut is_folder = |path: &Path| match std::fs::metadata(path) {
        Ok(status) => status.is_dir().then_some(status),
        Err(error) => {
            answer.closed |= error.kind() == ErrorKind::PermissionDenied;
            None
        }
    };
    if is_folder(&home.path).is_none() {
        return answer;
    }
    let at = |path: &str| home.path.join(path);
    let llama = at(".cache/llama.cpp");
    let mut candidates = vec![
        (StoreKind::Flat, at(".local/share/llorch-models/models")),
        (StoreKind::Hf, at(".cache/huggingface/hub")),
        (StoreKind::Ollama, at(".ollama/models")),
        (StoreKind::LmStudio, lm_studio::root::models_folder(&home.path)),
        (StoreKind::LlamaCpp, llama.clone()),
    ];
    if is_hub(&llama) {
        candidates.push((StoreKind::Hf, llama));
    }
    let mut folders = Vec::new();
    let mut foreign = Vec::new();
    for (kind, folder) in candidates {
        let Some(status) = is_folder(&folder) else { continue };
        // A pointer or a link of one user must not lead others to what is not that user's.
        let inside = || match (folder.canonicalize(), home.path.canonicalize()) {
            (Ok(folder), Ok(home)) => folder.starts_with(home),
            _ => false,
        };
        if [home.uid, 0].contains(&status.uid()) || inside() {
            folders.push((kind, folder));
        } else {
            foreign.push(folder);
        }
    }
    answer.folders = folders;
    answer.foreign = foreign;
    answer
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn system() -> tempfile::TempDir {
        let system = tempfile::tempdir().unwrap();
        for user in ["alice", "bob"] {
            std::fs::create_dir_all(system.path().join("home").join(user)).unwrap();
        }
        system
    }

    #[test]
    fn every_kind_is_found_in_every_home() {
        let system = system();
        let alice = system.path().join("home/alice");
        let bob = system.path().join("home/bob");
        for folder in [
            ".local/share/llorch-models/models",
            ".cache/huggingface/hub",
            ".ollama/models",
            ".lmstudio/models",
            ".cache/llama.cpp/models--org--name",
        ] {
            std::fs::create_dir_all(alice.join(folder)).unwrap();
        }
        let elsewhere = bob.join("studio");
        std::fs::create_dir_all(elsewhere.join("models")).unwrap();
        std::fs::write(bob.join(".lmstudio-home-pointer"), elsewhere.as_os_str().as_encoded_bytes()).unwrap();
        let found = look(system.path());
        let expected = [
            (StoreKind::Flat, alice.join(".local/share/llorch-models/models")),
            (StoreKind::Hf, alice.join(".cache/huggingface/hub")),
            (StoreKind::Ollama, alice.join(".ollama/models")),
            (StoreKind::LmStudio, alice.join(".lmstudio/models")),
            (StoreKind::LlamaCpp, alice.join(".cache/llama.cpp")),
            (StoreKind::Hf, alice.join(".cache/llama.cpp")),
            (StoreKind::LmStudio, elsewhere.join("models")),
        ];
        assert_eq!(found, Found { folders: expected.into(), notes: Vec::new() });
    }

    #[test]
    fn a_pointer_into_what_is_not_its_users_is_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let system = system();
        let bob = system.path().join("home/bob");
        let victim = system.path().join("home/alice/secret");
        std::fs::create_dir_all(victim.join("models")).unwrap();
        for (path, uid) in [(bob.clone(), 12345), (victim.join("models"), 12346)] {
            std::os::unix::fs::chown(path, Some(uid), None).unwrap();
        }
        std::fs::write(bob.join(".lmstudio-home-pointer"), victim.as_os_str().as_encoded_bytes()).unwrap();
        let found = look(system.path());
        assert!(found.folders.is_empty(), "{found:?}");
        assert!(found.notes[0].contains("secret/models of 12345 is left out"), "{found:?}");
    }

    /// The folder in the variable is looked at by this test in a process of another user.
    const SYSTEM: &str = "LLORCH_TEST_HOMES";

    #[test]
    fn looked_at_by_another_user() {
        let Some(system) = std::env::var_os(SYSTEM) else { return };
        println!("answer: {:?}", look(Path::new(&system)));
    }

    #[test]
    fn homes_that_cannot_be_read_are_said_once() {
        use std::os::unix::process::CommandExt;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let system = system();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(system.path(), 0o755);
        let alice = system.path().join("home/alice");
        std::fs::create_dir_all(alice.join(".ollama/models")).unwrap();
        mode(&system.path().join("home/bob"), 0o700);
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "provisioner::inventory::everyone::tests::looked_at_by_another_user", "--nocapture"])
            .env(SYSTEM, system.path())
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output();
        // Where another user may not run this program, nothing can be shown.
        let Ok(output) = output else { return };
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((_, answer)) = output.split_once("answer: ") else { return };
        assert!(answer.contains(".ollama/models"), "{answer}");
        assert!(answer.contains("homes that cannot be read") && answer.contains("home/bob"), "{answer}");
        assert!(!answer.contains("home/alice ("), "{answer}");
    }
}
