//! Which rows are shown, and in which order. Pure over rows and a time, so that every front end agrees.

use std::cmp::Ordering;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::memory::Verdict;
use super::{Bytes, Model, Quantization, StoreKind, text};

/// A filter as people type it: words, and conditions such as `size>10G`, `age>30d`, `store:hf`, `quant:q4`, `owner:alice`,
/// `mount:/data`, `kind:dataset`, `fits`, `fits:gpu`, `fits:no`, `idle`, `damaged`, `duplicate`, `protected`. Every one must hold.
///
/// A word matches where it occurs in the id, the reference, the quantization, the architecture or the path's last part,
/// whatever the case. A condition of a name that is none is refused, never taken for a word that is found nowhere; since ids
/// may have a `:`, that goes for a `:` only where what is before it is nearly such a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Word(String),
    Size(Compare, u64),
    Age(Compare, Duration),
    Store(StoreKind),
    Quantization(String),
    Owner(String),
    Mount(String),
    Kind(String),
    Fits(Fits),
    Idle,
    Damaged,
    Duplicate,
    Protected,
}

/// Where a model is to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    Somewhere,
    Gpu,
    Cpu,
    No,
    Unknown,
}

impl Fits {
    fn holds(self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Fits | Verdict::Tight | Verdict::Split(_) => matches!(self, Self::Somewhere | Self::Gpu),
            Verdict::CpuOnly => matches!(self, Self::Somewhere | Self::Cpu),
            Verdict::No => self == Self::No,
            Verdict::Unknown => self == Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl Compare {
    /// Splits `>=10G` into the comparison and the rest; the longer sign first.
    fn split(text: &str) -> Option<(Self, &str)> {
        let signs = [
            (">=", Self::GreaterOrEqual),
            ("<=", Self::LessOrEqual),
            (">", Self::Greater),
            ("<", Self::Less),
            ("=", Self::Equal),
        ];
        signs.into_iter().find_map(|(sign, compare)| text.strip_prefix(sign).map(|rest| (compare, rest)))
    }

    fn holds<T: Ord>(self, value: &T, limit: &T) -> bool {
        match value.cmp(limit) {
            Ordering::Less => matches!(self, Self::Less | Self::LessOrEqual),
            Ordering::Equal => matches!(self, Self::LessOrEqual | Self::Equal | Self::GreaterOrEqual),
            Ordering::Greater => matches!(self, Self::Greater | Self::GreaterOrEqual),
        }
    }
}

impl Filter {
    /// Reads the terms of `text`, separated by white space.
    ///
    /// # Errors
    /// A line that says which condition is malformed, and how it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split_whitespace().map(Term::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Every term of every text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut terms = Vec::new();
        for text in texts {
            terms.extend(Self::parse(text)?.0);
        }
        Ok(Self(terms))
    }

    /// Whether it lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it can only be answered after somebody looked which processes hold the models.
    #[must_use]
    pub fn needs_holders(&self) -> bool {
        self.0.contains(&Term::Idle)
    }

    /// Whether it can only be answered after somebody asked for the memory of this host.
    #[must_use]
    pub fn needs_fits(&self) -> bool {
        self.0.iter().any(|term| matches!(term, Term::Fits(_)))
    }

    /// Whether every term holds for `model` at `now`. What is not known does not match, so nothing that asks for fits does.
    #[must_use]
    pub fn matches(&self, model: &Model, now: Timestamp) -> bool {
        self.matches_on(model, now, || None)
    }

    /// [`Self::matches`] where `fits` says whether the model fits this host: `None` for what is no model, or while nobody knows
    /// the memory of the host. It is asked only where that matters.
    #[must_use]
    pub fn matches_on(&self, model: &Model, now: Timestamp, fits: impl Fn() -> Option<Verdict>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Fits(wanted) => fits().is_some_and(|verdict| wanted.holds(verdict)),
            term => term.matches(model, now),
        })
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Term {
    fn parse(word: &str) -> Result<Self, String> {
        let lower = word.to_lowercase();
        if let Some((compare, value)) = lower.strip_prefix("size").and_then(Compare::split) {
            let bytes = Bytes::parse(value).ok_or_else(|| malformed(word, "size>10G"))?;
            return Ok(Self::Size(compare, bytes.0));
        }
        if let Some((compare, value)) = lower.strip_prefix("age").and_then(Compare::split) {
            return Ok(Self::Age(compare, parse_age(value).ok_or_else(|| malformed(word, "age>30d"))?));
        }
        match lower.as_str() {
            "idle" => return Ok(Self::Idle),
            "damaged" => return Ok(Self::Damaged),
            "duplicate" => return Ok(Self::Duplicate),
            "protected" => return Ok(Self::Protected),
            "fits" => return Ok(Self::Fits(Fits::Somewhere)),
            _ => {}
        }
        // Values keep their case where they name a user or a folder.
        if let Some((name, value)) = word.split_once(':') {
            let examples = [
                ("store", "store:hf"),
                ("quant", "quant:q4"),
                ("owner", "owner:alice"),
                ("mount", "mount:/data"),
                ("kind", "kind:dataset"),
                ("fits", "fits:gpu"),
            ];
            let name = name.to_lowercase();
            if let Some((_, example)) = examples.iter().find(|(known, _)| *known == name && value.is_empty()) {
                return Err(malformed(word, example));
            }
            match name.as_str() {
                "store" => return Ok(Self::Store(value.to_lowercase().parse()?)),
                "quant" => return Ok(Self::Quantization(value.to_lowercase())),
                "owner" => return Ok(Self::Owner(value.to_owned())),
                "mount" => return Ok(Self::Mount(value.to_owned())),
                "kind" => {
                    let kind = value.to_lowercase();
                    if !["model", "dataset", "space", "other"].contains(&kind.as_str()) {
                        return Err(malformed(word, "kind:model, kind:dataset, kind:space or kind:other"));
                    }
                    return Ok(Self::Kind(kind));
                }
                "fits" => {
                    return Ok(Self::Fits(match value.to_lowercase().as_str() {
                        "gpu" => Fits::Gpu,
                        "cpu" => Fits::Cpu,
                        "no" => Fits::No,
                        "unknown" => Fits::Unknown,
                        _ => return Err(malformed(word, "fits, fits:gpu, fits:cpu, fits:no or fits:unknown")),
                    }));
                }
                _ => {}
            }
        }
        match unknown_condition(&lower) {
            true => Err(format!("'{}' is no filter; the conditions are {CONDITIONS}", text::printable(word))),
            false => Ok(Self::Word(lower)),
        }
    }

    fn matches(&self, model: &Model, now: Timestamp) -> bool {
        match self {
            Self::Word(word) => {
                let found = |text: &str| text.to_lowercase().contains(word);
                found(&model.identity.id)
                    || model.reference.as_deref().is_some_and(found)
                    || model.architecture.as_deref().is_some_and(found)
                    || labels(model).any(|label| found(label.as_str()))
                    || model.path.file_name().is_some_and(|name| found(&text::escape(name)))
            }
            Self::Size(compare, bytes) => model.measured && compare.holds(&model.disk_bytes, bytes),
            Self::Age(compare, limit) => last_use(model).is_some_and(|used| {
                let age = Duration::try_from(now.duration_since(used)).unwrap_or_default();
                compare.holds(&age, limit)
            }),
            Self::Store(kind) => model.identity.store == *kind,
            Self::Quantization(part) => labels(model).any(|label| label.as_str().to_lowercase().contains(part)),
            Self::Owner(name) => model.owner.as_deref() == Some(name),
            Self::Mount(path) => {
                // A folder stands for the part of its file system that lies below it.
                let path = Path::new(path);
                model
                    .mount
                    .as_deref()
                    .is_some_and(|mount| mount == path || (path.starts_with(mount) && model.path.starts_with(path)))
            }
            Self::Kind(kind) => {
                use super::ModelKind::{Dataset, Model, Other, Space};
                kind == match model.kind {
                    Model => "model",
                    Dataset => "dataset",
                    Space => "space",
                    Other => "other",
                }
            }
            Self::Idle => model.in_use_by.as_ref().is_some_and(Vec::is_empty),
            Self::Damaged => !model.complete,
            Self::Duplicate => model.duplicate,
            Self::Protected => model.protected,
            // Answered from the memory of the host.
            Self::Fits(_) => false,
        }
    }
}

/// Every label by which people may look for a row: those that are shown, and those that select.
fn labels(model: &Model) -> impl Iterator<Item = &Quantization> {
    model.quantizations.iter().chain(&model.selects)
}

/// The conditions with an example of each.
const CONDITIONS: &str = "size>10G, age>30d, store:hf, quant:q4, owner:alice, mount:/data, kind:dataset, fits:gpu, idle, damaged, duplicate, protected";

/// Whether a word is meant as a condition and is none: letters and a comparison, or nearly a known name and a colon.
fn unknown_condition(word: &str) -> bool {
    let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
    let (name, rest) = word.split_at(end);
    if name.is_empty() {
        return false;
    }
    if rest.starts_with(['<', '>']) {
        return true;
    }
    // `size:10G`, `stor:hf`, `age=..`: but `llama3:8b` and `gemma:2b` are ids.
    let names = ["size", "age", "store", "quant", "owner", "mount", "kind", "fits"];
    let nearly = |known: &&str| distance(name, known) <= usize::from(name.len().max(known.len()) > 3);
    rest.starts_with([':', '=']) && names.iter().any(nearly)
}

/// How many letters have to be put in, taken out or changed to make one of the other, or neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn malformed(word: &str, example: &str) -> String {
    format!("'{}' is no filter; write it like {example}", text::printable(word))
}

/// `30d`, `12h`, `2w`, `6mo`, `1y`, `45m`, `90s`: months count 30 days and years 365.
fn parse_age(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "mo" => 30 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// The later of the last access and the last change: file systems note accesses late or not at all.
#[must_use]
pub fn last_use(model: &Model) -> Option<Timestamp> {
    model.accessed.max(model.modified)
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortKey {
    /// The id, whatever the case.
    #[default]
    Name,
    /// The store, then the id.
    Store,
    /// Bytes on disk, most first.
    Size,
    /// Bytes that deleting frees, most first.
    Reclaimable,
    /// The last use, longest ago first; unknown last.
    Used,
    /// The last change, newest first; unknown last.
    Modified,
    /// Parameters, most first; unknown last.
    Parameters,
    /// The quantization's label.
    Quantization,
    /// The owner's name.
    Owner,
}

impl SortKey {
    /// Every key, in the order in which a screen goes through them.
    pub const ALL: [Self; 9] = [
        Self::Name,
        Self::Store,
        Self::Size,
        Self::Reclaimable,
        Self::Used,
        Self::Modified,
        Self::Parameters,
        Self::Quantization,
        Self::Owner,
    ];

    /// The word on the command line and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Store => "store",
            Self::Size => "size",
            Self::Reclaimable => "reclaimable",
            Self::Used => "used",
            Self::Modified => "modified",
            Self::Parameters => "parameters",
            Self::Quantization => "quantization",
            Self::Owner => "owner",
        }
    }

    /// The next key, after the last one the first.
    #[must_use]
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|key| *key == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// The order of two rows. It is total: rows that are equal by the key are ordered by name, store and root.
    #[must_use]
    pub fn compare(self, a: &Model, b: &Model) -> Ordering {
        let by_key = match self {
            Self::Name => Ordering::Equal,
            Self::Store => a.identity.store.cmp(&b.identity.store),
            Self::Size => b.disk_bytes.cmp(&a.disk_bytes),
            Self::Reclaimable => b.reclaimable_bytes.cmp(&a.reclaimable_bytes),
            Self::Used => unknown_last(last_use(a), last_use(b), Ord::cmp),
            Self::Modified => unknown_last(a.modified, b.modified, |a, b| b.cmp(a)),
            Self::Parameters => unknown_last(a.some_parameters(), b.some_parameters(), |a, b| b.cmp(a)),
            Self::Quantization => a.quantization_label().cmp(&b.quantization_label()),
            Self::Owner => unknown_last(a.owner.as_deref(), b.owner.as_deref(), Ord::cmp),
        };
        by_key.then_with(|| compare_folded(&a.identity.id, &b.identity.id)).then_with(|| a.identity.cmp(&b.identity))
    }
}

/// As the lower-case forms compare, without making them where there is nothing but ASCII: tables sort thousands of rows.
fn compare_folded(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.bytes().map(|byte| byte.to_ascii_lowercase()).cmp(b.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    a.to_lowercase().cmp(&b.to_lowercase())
}

fn unknown_last<T>(a: Option<T>, b: Option<T>, compare: impl Fn(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => compare(&a, &b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl FromStr for SortKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|key| key.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|key| key.name()).collect();
            format!("'{}' is no sort key; use one of {}", text::printable(text), names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::super::{Holder, ModelId, ModelKind, Quantization};
    use super::*;

    #[test]
    fn where_a_model_fits_is_asked_only_where_it_matters() {
        let all = [Verdict::Fits, Verdict::Tight, Verdict::Split(2), Verdict::CpuOnly, Verdict::No, Verdict::Unknown];
        for (text, expected) in [
            ("fits", &all[..4]),
            ("FITS:GPU", &all[..3]),
            ("fits:cpu", &all[3..4]),
            ("fits:no", &all[4..5]),
            ("fits:unknown", &all[5..]),
        ] {
            let filter = Filter::parse(text).unwrap();
            assert!(filter.needs_fits());
            let held: Vec<Verdict> =
                all.into_iter().filter(|verdict| filter.matches_on(&model("m"), now(), || Some(*verdict))).collect();
            assert_eq!(held, expected, "{text}");
            assert!(!filter.matches(&model("m"), now()), "what is not known does not match");
        }
        let other = Filter::parse("m idle").unwrap();
        assert!(!other.needs_fits());
        let _ = other.matches_on(&model("m"), now(), || panic!("nobody asked"));
        for wrong in ["fits:", "fits:maybe", "fits>1"] {
            assert!(Filter::parse(wrong).unwrap_err().contains("fits:gpu"), "{wrong}");
        }
    }

    fn now() -> Timestamp {
        "2026-01-31T00:00:00Z".parse().unwrap()
    }

    fn model(id: &str) -> Model {
        let identity = ModelId { store: StoreKind::Flat, store_path: PathBuf::from("/data/models"), id: id.to_owned() };
        Model {
            kind: ModelKind::Model,
            reference: Some("TheBloke/TinyLlama-GGUF".to_owned()),
            owner: Some("alice".to_owned()),
            mount: Some(PathBuf::from("/data")),
            quantizations: vec![Quantization::new("Q4_K_M"), Quantization::new("F16")],
            architecture: Some("llama".to_owned()),
            file_count: 1,
            size_bytes: 20 << 30,
            disk_bytes: 20 << 30,
            reclaimable_bytes: 20 << 30,
            modified: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ..Model::new(identity, PathBuf::from("/data/models").join(id))
        }
    }

    #[test]
    fn every_condition_decides() {
        let model = model("tinyllama");
        let yes = [
            "",
            "TINY",
            "thebloke q4",
            "size>10G",
            "size>=20G",
            "size<1T",
            "age>29d",
            "age<5w",
            "store:flat",
            "quant:q4",
            "quant:F16",
            "owner:alice",
            "mount:/data",
            "mount:/data/",
            "mount:/data//models/",
            "mount:/data/models/tinyllama",
            "kind:model",
            "tiny size>1G store:flat",
        ];
        for text in yes {
            assert!(Filter::parse(text).unwrap().matches(&model, now()), "{text}");
        }
        let no = [
            "mistral",
            "tiny mistral",
            "size>20G",
            "age>30d",
            "store:hf",
            "quant:q8",
            "owner:bob",
            "owner:Alice",
            "mount:/",
            "mount:/dat",
            "mount:/data/other",
            "mount:/data/models/tiny",
            "kind:dataset",
            "idle",
            "damaged",
        ];
        for text in no {
            assert!(!Filter::parse(text).unwrap().matches(&model, now()), "{text}");
        }
    }

    #[test]
    fn idle_means_that_somebody_looked() {
        let idle = Filter::parse("idle").unwrap();
        assert!(idle.needs_holders());
        let mut model = model("m");
        assert!(!idle.matches(&model, now()));
        model.in_use_by = Some(Vec::new());
        assert!(idle.matches(&model, now()));
        model.in_use_by = Some(vec![Holder { pid: 1, user: "root".to_owned(), command: "vllm".to_owned() }]);
        assert!(!idle.matches(&model, now()));
    }

    #[test]
    fn malformed_conditions_say_how_they_are_written() {
        for (text, hint) in
            [("size>big", "size>10G"), ("age>30", "age>30d"), ("store:x", "flat, hf"), ("kind:x", "kind:")]
        {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_slip_in_a_condition_is_no_word() {
        for text in [
            "siz>1",
            "weight<5G",
            "Size:10G",
            "stroe:hf",
            "stor:hf",
            "quants:q4",
            "age:30d",
            "owne:me",
            "kind=model",
            "fit:no",
            "fist:no",
            "fits=no",
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains("store:hf") && error.contains(text), "{error}");
        }
        for id in ["llama3:8b", "gemma:2b", "phi:latest", "store-x:1", "<unk>", "a<b", "registry.io/x:1"] {
            assert_eq!(Filter::parse(id).is_ok(), !id.contains("a<"), "{id}");
        }
    }

    #[test]
    fn ids_with_a_colon_are_words() {
        assert!(Filter::parse("llama3:8b").unwrap().matches(&model("llama3:8b"), now()));
    }

    #[test]
    fn sizes_go_from_most_to_least_and_the_unknown_comes_last() {
        let (mut a, mut b, mut c) = (model("a"), model("b"), model("c"));
        (a.disk_bytes, b.disk_bytes, c.disk_bytes) = (1, 3, 2);
        (a.parameters, b.parameters, c.parameters) = (None, Some(1), Some(2));
        let sorted = |key: SortKey| {
            let mut models = vec![a.clone(), b.clone(), c.clone()];
            models.sort_by(|x, y| key.compare(x, y));
            models.into_iter().map(|model| model.identity.id).collect::<String>()
        };
        assert_eq!(sorted(SortKey::Size), "bca");
        assert_eq!(sorted(SortKey::Parameters), "cba");
        assert_eq!(sorted(SortKey::Name), "abc");
        assert_eq!("size".parse(), Ok(SortKey::Size));
        assert!("x".parse::<SortKey>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(text in any::<String>()) {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches(&model("m"), now());
            }
        }
    }
}
