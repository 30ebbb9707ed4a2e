//! The one table of keys: it feeds dispatch, the hint line, the help screen and the README.

mod key;
mod table;

pub use key::{Code, Key};
pub use table::{Keymap, Pane, Row};

/// The table that is built in.
pub(crate) const DEFAULT: &str = include_str!("../../../assets/keymap.toml");

/// The key table of the README, from the built-in keymap. What only edits a line of text is left out: those keys are
/// everybody's.
#[must_use]
pub fn markdown() -> String {
    let keymap = Keymap::built_in();
    let mut out = String::from("| key | where | what it does |\n|---|---|---|\n");
    for row in keymap.rows().iter().filter(|row| !row.action.edits_text()) {
        let keys: Vec<String> = row.keys.iter().map(|key| format!("`{key}`")).collect();
        out.push_str(&format!("| {} | {} | {} |\n", keys.join(" "), row.places(), row.description));
    }
    out
}
