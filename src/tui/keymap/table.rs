//! Reading keymap files, laying a person's own over the built-in one, and looking keys up.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Key;
use crate::model::text::printable;
use crate::tui::action::Action;

macro_rules! panes {
    ($($(#[$doc:meta])* $pane:ident = $name:literal, $title:literal;)*) => {
        /// Where keys go.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Pane {
            $($(#[$doc])* $pane,)*
        }

        impl Pane {
            /// Every pane.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$pane),*];

            /// The name in keymap files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$pane => $name,)* }
            }

            /// The heading in the help.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$pane => $title,)* }
            }

            /// The pane of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$pane),)* _ => None }
            }
        }
    };
}

panes! {
    /// The table of models.
    Models = "models", "models";
    /// The detail of a model or a job.
    Detail = "detail", "detail";
    /// The queue.
    Queue = "queue", "queue";
    /// The line in which a filter is typed.
    Filter = "filter", "filter line";
    /// A deletion plan.
    Plan = "plan", "deletion plan";
    /// The second question about a deletion.
    Sure = "sure", "second question";
    /// The line in which a reference or words to search for are typed.
    Pull = "pull", "pull: what to fetch";
    /// What the search found.
    Hits = "hits", "pull: search results";
    /// What a repository offers.
    Files = "files", "pull: files";
    /// What nothing can use any more.
    Sweep = "sweep", "sweep";
    /// The help.
    Help = "help", "help";
    /// The question whether to quit.
    Quit = "quit", "quit question";
}

impl Pane {
    /// Whether characters are typed into it.
    #[must_use]
    pub fn takes_text(self) -> bool {
        matches!(self, Self::Filter | Self::Pull)
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Keys that mean the same.
    pub keys: Vec<Key>,
    /// What they mean.
    pub action: Action,
    /// Where they mean it.
    pub panes: Vec<Pane>,
    /// What it does, for the help and the README.
    pub description: String,
    /// A word or two for the hint line; empty keeps it out of there.
    pub hint: String,
    /// Hints with a high rank give way first when the line is short.
    pub rank: u8,
}

impl Row {
    /// The panes in which it works, in words.
    #[must_use]
    pub fn places(&self) -> String {
        if self.panes.len() == Pane::ALL.len() {
            return "everywhere".to_owned();
        }
        let main = [Pane::Models, Pane::Detail, Pane::Queue];
        if self.panes.len() > main.len() && main.iter().all(|pane| self.panes.contains(pane)) {
            return "every list".to_owned();
        }
        self.panes.iter().map(|pane| pane.title()).collect::<Vec<_>>().join(", ")
    }
}

/// The keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keymap {
    rows: Vec<Row>,
    by_key: BTreeMap<(Pane, Key), Action>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<FileRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRow {
    keys: Vec<String>,
    action: String,
    panes: Vec<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    hint: String,
    #[serde(default = "last_rank")]
    rank: u8,
}

fn last_rank() -> u8 {
    9
}

impl Keymap {
    /// The built-in table.
    #[must_use]
    pub fn built_in() -> Self {
        // A test proves that it has nothing to complain about.
        Self::read(super::DEFAULT).0
    }

    /// The table of a keymap file with everything that is wrong in it, one line each: rows with an unknown key, action or
    /// pane are left out, and of two meanings of one key in one pane the first holds.
    #[must_use]
    pub fn read(file: &str) -> (Self, Vec<String>) {
        let mut keymap = Self::default();
        let mut wrong = Vec::new();
        let file: File = match toml::from_str(file) {
            Ok(file) => file,
            Err(error) => return (keymap, vec![printable(error.message())]),
        };
        for row in file.key {
            match row.check() {
                Ok(row) => {
                    for (pane, key) in row.panes.iter().flat_map(|pane| row.keys.iter().map(move |key| (*pane, *key))) {
                        if let Some(first) = keymap.by_key.get(&(pane, key)) {
                            wrong.push(format!(
                                "{key} in {} is both {} and {}",
                                pane.name(),
                                first.name(),
                                row.action.name()
                            ));
                        } else {
                            keymap.by_key.insert((pane, key), row.action);
                        }
                    }
                    keymap.rows.push(row);
                }
                Err(line) => wrong.push(line),
            }
        }
        (keymap, wrong)
    }

    /// The built-in table with a person's own rows over it: a key that theirs names in a pane means that, everything else
    /// stays. Gives what is wrong with theirs, one line each.
    #[must_use]
    pub fn with_overrides(file: &str) -> (Self, Vec<String>) {
        let (own, wrong) = Self::read(file);
        let mut keymap = Self::built_in();
        for ((pane, key), action) in &own.by_key {
            keymap.by_key.insert((*pane, *key), *action);
        }
        // The rows show what holds: a built-in row loses the keys that mean something else now.
        let mut rows = Vec::new();
        for row in keymap.rows.iter().chain(own.rows.iter().filter(|row| !keymap.rows.contains(row))) {
            for pane in &row.panes {
                let keys: Vec<Key> = row
                    .keys
                    .iter()
                    .filter(|key| keymap.by_key.get(&(*pane, **key)) == Some(&row.action))
                    .copied()
                    .collect();
                if !keys.is_empty() {
                    push(&mut rows, Row { keys, panes: vec![*pane], ..row.clone() });
                }
            }
        }
        keymap.rows = rows;
        (keymap, wrong)
    }

    /// Every row, in the order of the file.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What `key` means in `pane`.
    #[must_use]
    pub fn action(&self, pane: Pane, key: Key) -> Option<Action> {
        self.by_key.get(&(pane, key)).copied()
    }

    /// The first key that means `action` in `pane`.
    #[must_use]
    pub fn key(&self, pane: Pane, action: Action) -> Option<Key> {
        self.rows.iter().find(|row| row.action == action && row.panes.contains(&pane))?.keys.first().copied()
    }

    /// Key and word of each hint for `pane`, in the order of the file, with its rank.
    pub fn hints(&self, pane: Pane) -> impl Iterator<Item = (Key, &str, u8)> {
        self.hints_with_actions(pane).map(|(_, key, word, rank)| (key, word, rank))
    }

    /// The same, with what each key does.
    pub fn hints_with_actions(&self, pane: Pane) -> impl Iterator<Item = (Action, Key, &str, u8)> {
        self.rows
            .iter()
            .filter(move |row| row.panes.contains(&pane) && !row.hint.is_empty())
            .filter_map(|row| row.keys.first().map(|key| (row.action, *key, row.hint.as_str(), row.rank)))
    }
}

/// Adds a row, joined to one that differs only in its pane.
fn push(rows: &mut Vec<Row>, row: Row) {
    let same =
        |other: &&mut Row| other.keys == row.keys && other.action == row.action && other.description == row.description;
    match rows.iter_mut().find(same) {
        Some(other) => other.panes.extend(row.panes),
        None => rows.push(row),
    }
}

impl FileRow {
    fn check(self) -> Result<Row, String> {
        let keys: Vec<Key> = self.keys.iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
        let action =
            Action::from_name(&self.action).ok_or_else(|| format!("'{}' is no action", printable(&self.action)))?;
        let panes = self
            .panes
            .iter()
            .map(|pane| Pane::from_name(pane).ok_or_else(|| format!("'{}' is no pane", printable(pane))))
            .collect::<Result<Vec<Pane>, String>>()?;
        if keys.is_empty() || panes.is_empty() {
            return Err(format!("{}: no key or no pane", action.name()));
        }
        Ok(Row { keys, action, panes, description: self.description, hint: self.hint, rank: self.rank })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::keymap::DEFAULT;

    #[test]
    fn the_built_in_table_is_right() {
        let (keymap, wrong) = Keymap::read(DEFAULT);
        assert_eq!(wrong, Vec::<String>::new());
        for row in keymap.rows() {
            assert!(!row.description.is_empty(), "{} has no description", row.action.name());
            assert_eq!(row.description, printable(&row.description));
        }
    }

    #[test]
    fn every_action_has_a_key() {
        let keymap = Keymap::built_in();
        for action in Action::ALL {
            assert!(keymap.rows().iter().any(|row| row.action == action), "{} has no key", action.name());
        }
    }

    #[test]
    fn every_pane_can_be_left() {
        let keymap = Keymap::built_in();
        for pane in Pane::ALL {
            let leaves = [Key::ctrl('c'), Key::plain(super::super::Code::Esc)];
            for key in leaves {
                let action = keymap.action(pane, key);
                let fine = matches!(action, Some(Action::Close | Action::Back | Action::Quit | Action::Open));
                assert!(fine, "{key} in {}: {action:?}", pane.name());
            }
        }
    }

    #[test]
    fn escape_and_enter_never_confirm_quit_or_cancel() {
        let keymap = Keymap::built_in();
        for pane in Pane::ALL {
            for key in [Key::plain(super::super::Code::Esc), Key::plain(super::super::Code::Enter)] {
                let action = keymap.action(pane, key);
                let bad = [Action::Confirm, Action::Quit, Action::Cancel, Action::Discard, Action::Delete];
                assert!(!action.is_some_and(|action| bad.contains(&action)), "{key} in {}", pane.name());
            }
        }
    }

    #[test]
    fn half_a_page_is_what_control_d_means_wherever_something_scrolls() {
        let keymap = Keymap::built_in();
        for pane in [Pane::Models, Pane::Detail, Pane::Queue, Pane::Plan, Pane::Hits, Pane::Files, Pane::Help] {
            assert_eq!(keymap.action(pane, Key::ctrl('d')), Some(Action::HalfPageDown), "{}", pane.name());
        }
    }

    #[test]
    fn two_meanings_of_a_key_are_reported() {
        let file = r#"
            [[key]]
            keys = ["j"]
            action = "down"
            panes = ["models"]
            [[key]]
            keys = ["k", "j"]
            action = "up"
            panes = ["models", "queue"]
        "#;
        let (keymap, wrong) = Keymap::read(file);
        assert_eq!(wrong, ["j in models is both down and up"]);
        assert_eq!(keymap.action(Pane::Models, Key::char('j')), Some(Action::Down));
        assert_eq!(keymap.action(Pane::Queue, Key::char('j')), Some(Action::Up));
    }

    #[test]
    fn a_persons_own_keys_lie_over_the_built_in_ones() {
        let own = "[[key]]\nkeys = [\"e\"]\naction = \"delete\"\npanes = [\"models\"]\ndescription = \"delete\"\n\
                   [[key]]\nkeys = [\"d\"]\naction = \"down\"\npanes = [\"models\"]\ndescription = \"down\"\n\
                   [[key]]\nkeys = [\"z\"]\naction = \"fly\"\npanes = [\"models\"]\n";
        let (keymap, wrong) = Keymap::with_overrides(own);
        assert_eq!(wrong, ["'fly' is no action"]);
        assert_eq!(keymap.action(Pane::Models, Key::char('e')), Some(Action::Delete));
        assert_eq!(keymap.action(Pane::Models, Key::char('d')), Some(Action::Down));
        assert_eq!(keymap.action(Pane::Models, Key::char('j')), Some(Action::Down));
        let deletes: Vec<String> = keymap
            .rows()
            .iter()
            .filter(|row| row.action == Action::Delete && row.panes.contains(&Pane::Models))
            .flat_map(|row| row.keys.iter().map(ToString::to_string))
            .collect();
        assert_eq!(deletes, ["e"], "the help shows what holds");
    }

    #[test]
    fn a_broken_file_leaves_the_built_in_table() {
        let (keymap, wrong) = Keymap::with_overrides("[[key]\n");
        assert_eq!(wrong.len(), 1);
        assert_eq!(keymap.action(Pane::Models, Key::char('d')), Some(Action::Delete));
    }
}
