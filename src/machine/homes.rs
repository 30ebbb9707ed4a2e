//! The home folders of this host's users.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::user_label;
use crate::model::text;

/// More than any password file holds.
const MAX_BYTES: u64 = 16 << 20;
/// Most homes that are looked at.
const MAX_HOMES: usize = 4096;
/// The number of the first ordinary user: where their homes lie, those of users of a directory service lie too.
const FIRST_USER: u32 = 1000;

/// A home folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// The folder; it may not exist.
    pub path: PathBuf,
    /// Number of its user.
    pub uid: u32,
    /// Name of its user; the number where no name is known.
    pub user: String,
}

/// The homes of the password file of the system whose root folder is `system` (`/`, but for demonstrations and tests), and the
/// folders beside them: users of a directory service are not in that file. One folder once, in the order of the paths, at
/// most a few thousand.
#[must_use]
pub fn homes(system: &Path) -> Vec<Home> {
    let mut content = Vec::new();
    // Without the file only the usual place is looked at.
    let _ =
        std::fs::File::open(system.join("etc/passwd")).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content));
    let mut homes: BTreeMap<PathBuf, Home> = BTreeMap::new();
    let mut around = BTreeSet::from([system.join("home")]);
    for home in content.split(|byte| *byte == b'\n').filter_map(parse) {
        if homes.len() >= MAX_HOMES {
            break;
        }
        if home.uid >= FIRST_USER
            && let Some(parent) = home.path.parent().filter(|parent| parent.parent().is_some())
        {
            around.insert(parent.to_owned());
        }
        // Of several users of one home the first counts, as everywhere in that file.
        homes.entry(home.path.clone()).or_insert(home);
    }
    for folder in around {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.take(MAX_HOMES) {
            let path = entry.path();
            if homes.len() >= MAX_HOMES || homes.contains_key(&path) {
                continue;
            }
            if let Ok(status) = entry.metadata().map_err(drop)
                && status.is_dir()
            {
                homes.insert(path.clone(), Home { path, uid: status.uid(), user: user_label(status.uid()) });
            }
        }
    }
    homes.into_values().collect()
}

/// A line such as `alice:x:1000:1000:Alice:/home/alice:/bin/bash`; the root folder is nobody's home.
fn parse(line: &[u8]) -> Option<Home> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, uid, _, _, home, ..] = fields.as_slice() else { return None };
    let path = PathBuf::from(OsStr::from_bytes(home));
    if name.is_empty() || !path.is_absolute() || path.parent().is_none() {
        return None;
    }
    let uid = std::str::from_utf8(uid).ok()?.parse().ok()?;
    Some(Home { path, uid, user: text::printable(&String::from_utf8_lossy(name)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_of_the_password_file_and_those_beside_them() {
        let system = tempfile::tempdir().unwrap();
        let at = |path: &str| system.path().join(path);
        for folder in ["etc", "home/alice", "home/guest", "srv/people/bob", "srv/people/carol"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("home/file"), "").unwrap();
        let lines = [
            "root:x:0:0::/root:/bin/sh".to_owned(),
            "sys:x:3:3::/:/sbin/nologin".to_owned(),
            format!("alice:x:1000:1000::{}:/bin/sh", at("home/alice").display()),
            format!("again:x:1001:1001::{}:/bin/sh", at("home/alice").display()),
            format!("bob:x:1002:1002::{}:/bin/sh", at("srv/people/bob").display()),
            "relative:x:1003:1003::home:/bin/sh".to_owned(),
            "short:x:1".to_owned(),
        ];
        std::fs::write(at("etc/passwd"), lines.join("\n")).unwrap();
        let found: Vec<(PathBuf, String)> =
            homes(system.path()).into_iter().map(|home| (home.path, home.user)).collect();
        let paths: Vec<&PathBuf> = found.iter().map(|(path, _)| path).collect();
        let expected =
            [at("home/alice"), at("home/guest"), at("srv/people/bob"), at("srv/people/carol"), PathBuf::from("/root")];
        for home in &expected {
            assert!(paths.contains(&home), "{}: {found:?}", home.display());
        }
        assert_eq!(found.len(), expected.len(), "{found:?}");
        let alice = found.iter().find(|(path, _)| *path == at("home/alice")).unwrap();
        assert_eq!(alice.1, "alice");
    }

    #[test]
    fn a_system_without_users_has_no_homes() {
        assert!(homes(Path::new("/nonexistent/system")).is_empty());
    }
}
