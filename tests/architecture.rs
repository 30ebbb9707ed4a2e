//! Holds the source to the layer table of `src/lib.rs` and to the doors that only one module may use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Layer and extra permissions of each module, as the table in `src/lib.rs` states them.
struct Layers(BTreeMap<String, (u32, BTreeSet<String>)>);

impl Layers {
    fn read() -> Self {
        let source = fs::read_to_string(root().join("src/lib.rs")).unwrap();
        let mut modules = BTreeMap::new();
        for line in source.lines().filter_map(|line| line.strip_prefix("//! | L")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [layer, module, _, extra, ..] = cells[..] else { panic!("a row of the layer table is short: {line}") };
            let names = |cell: &str| {
                cell.split(',').map(|n| n.trim().trim_matches('`').to_owned()).filter(|n| !n.is_empty()).collect()
            };
            modules.insert(module.trim_matches('`').to_owned(), (layer.parse().unwrap(), names(extra)));
        }
        Self(modules)
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        let (Some((from_layer, extra)), Some((to_layer, _))) = (self.0.get(from), self.0.get(to)) else { return false };
        from == to || to_layer < from_layer || extra.contains(to)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect();
    files.sort();
    files
}

/// The top-level module that a file of `src/` belongs to.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Source without line comments and without test modules, which may use anything that they test with. Test modules are the
/// last thing in a file, or in a module of it.
fn code(path: &Path) -> String {
    if path.file_name().is_some_and(|name| name == "tests.rs") {
        return String::new();
    }
    let source = fs::read_to_string(path).unwrap();
    let mut code = Vec::new();
    let mut skipping: Option<usize> = None;
    let mut marked = false;
    for line in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        match skipping {
            Some(depth) if indent == depth && text == "}" => skipping = None,
            Some(_) => {}
            None if text == "#[cfg(test)]" => marked = true,
            None if marked && text.starts_with("#[") => {}
            None if marked && text.starts_with("mod ") && text.ends_with('{') => {
                (skipping, marked) = (Some(indent), false);
            }
            None => {
                marked = false;
                code.push(line.split_once("//").map_or(line, |(code, _)| code));
            }
        }
    }
    code.join("\n")
}

/// First segments of every `crate::…` path, also in groups like `crate::{disk, model::{A, B}}`.
fn crate_uses(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && depth == 0 && !c.is_whitespace() => {
                    used.insert(identifier(&group[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_layer_table_names_every_module_and_nothing_else() {
    let layers = Layers::read();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<String> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(identifier).collect();
    assert_eq!(declared, layers.0.keys().cloned().collect());
}

#[test]
fn no_module_uses_what_stands_above_or_beside_it() {
    let layers = Layers::read();
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let from = module_of(&path);
        if from == "lib" || from == "main" {
            continue;
        }
        for to in crate_uses(&code(&path)) {
            // `crate::Error` and `crate::Result` are re-exports of `error`.
            let to = if matches!(to.as_str(), "Error" | "Result") { "error".to_owned() } else { to };
            if !layers.allows(&from, &to) {
                wrong.push(format!("{}: {from} uses {to}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What may be called from where: a word that must not occur, and the files (by prefix) that may have it.
#[test]
fn doors_are_used_by_their_keepers_only() {
    let doors: [(&str, &[&str]); 7] = [
        ("env::var", &["src/config/environment.rs"]),
        ("env::vars", &["src/config/environment.rs"]),
        ("remove_file(", &["src/disk/"]),
        ("remove_dir", &["src/disk/"]),
        ("unlinkat(", &["src/disk/"]),
        ("process::exit(", &["src/main.rs", "src/tui/", "src/cli/"]),
        ("println!(", &["src/cli/"]),
    ];
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let code = code(&path);
        for (word, keepers) in doors {
            if code.contains(word) && !keepers.iter().any(|keeper| relative.starts_with(keeper)) {
                wrong.push(format!("{relative} has {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_checks_themselves_see_what_they_should() {
    let layers = Layers::read();
    assert!(layers.allows("tui", "model") && !layers.allows("model", "tui"));
    assert!(!layers.allows("hub", "store"), "peers stay apart");
    let uses = crate_uses("use crate::{disk::{a, b}, model}; fn f() { crate::hub::X; mycrate::no }");
    assert_eq!(uses.into_iter().collect::<Vec<_>>(), ["disk", "hub", "model"]);
}
