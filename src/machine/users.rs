//! User names.

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use crate::model::text;

/// More than any password file holds.
const MAX_BYTES: u64 = 16 << 20;

/// The name of a user id, from the password file; `None` if it has none there (users of a directory service are not in
/// that file). The file is read once.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    static NAMES: OnceLock<HashMap<u32, String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let mut content = Vec::new();
        // Without the file nobody has a name, and the numbers are shown.
        let _ = std::fs::File::open("/etc/passwd").and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content));
        parse(&String::from_utf8_lossy(&content))
    });
    names.get(&uid).cloned()
}

/// [`user_name`], or the number where there is no name.
#[must_use]
pub fn user_label(uid: u32) -> String {
    user_name(uid).unwrap_or_else(|| uid.to_string())
}

/// The effective user id of this process.
#[must_use]
pub fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `name:password:uid:…` a line; of two names of one number the first counts.
fn parse(content: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in content.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(Ok(uid))) = (fields.next(), fields.next(), fields.next().map(str::parse))
            && !name.is_empty()
        {
            names.entry(uid).or_insert_with(|| text::printable(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_number() {
        let names =
            parse("root:x:0:0::/root:/bin/sh\n# no\nalice:x:1000:1000::/home/alice:\ntoor:x:0:0::/:\nbad:x:abc:\n");
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&1000).map(String::as_str), Some("alice"));
        assert_eq!(names.len(), 2);
        assert_eq!(user_label(u32::MAX - 7), (u32::MAX - 7).to_string());
    }
}
