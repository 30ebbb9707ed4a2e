//! Where LM Studio keeps its models.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::disk::folder::Folder;

const POINTER: &str = ".lmstudio-home-pointer";
const OLD_HOME: &str = ".cache/lm-studio";
const HOME: &str = ".lmstudio";
/// Longest pointer and settings that are read.
const MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Settings {
    #[serde(rename = "downloadsFolder")]
    downloads_folder: Option<String>,
}

/// The models folder for the user whose home is `home`: the one in LM Studio's settings, else `models` in its own folder, which
/// is where a pointer file says, else the former place if that exists. It need not exist.
#[must_use]
pub fn models_folder(home: &Path) -> PathBuf {
    let studio = pointed_to(home).unwrap_or_else(|| {
        let old = home.join(OLD_HOME);
        if old.is_dir() { old } else { home.join(HOME) }
    });
    let set = read(&studio, "settings.json")
        .and_then(|bytes| serde_json::from_slice::<Settings>(&bytes).ok())
        .and_then(|settings| settings.downloads_folder)
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    set.unwrap_or_else(|| studio.join("models"))
}

fn pointed_to(home: &Path) -> Option<PathBuf> {
    let bytes = read(home, POINTER)?;
    Some(PathBuf::from(OsStr::from_bytes(bytes.trim_ascii()))).filter(|folder| folder.is_absolute())
}

/// What cannot be read says nothing, and the default counts.
fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    Folder::open(folder).ok()?.read(OsStr::new(name), MAX).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_then_old_home_then_new_home_and_the_setting_over_all() {
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        assert_eq!(models_folder(home), home.join(".lmstudio/models"));
        std::fs::create_dir_all(home.join(OLD_HOME)).unwrap();
        assert_eq!(models_folder(home), home.join(".cache/lm-studio/models"));
        let elsewhere = home.join("else where");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(home.join(POINTER), format!("{}\n", elsewhere.display())).unwrap();
        assert_eq!(models_folder(home), elsewhere.join("models"));
        for (settings, models) in [
            (r#"{"downloadsFolder":"/data/lm"}"#, PathBuf::from("/data/lm")),
            (r#"{"downloadsFolder":"relative"}"#, elsewhere.join("models")),
            ("not json", elsewhere.join("models")),
            (r#"{"language":"de"}"#, elsewhere.join("models")),
        ] {
            std::fs::write(elsewhere.join("settings.json"), settings).unwrap();
            assert_eq!(models_folder(home), models, "{settings}");
        }
        std::fs::write(home.join(POINTER), "relative").unwrap();
        assert_eq!(models_folder(home), home.join(".cache/lm-studio/models"));
    }
}
