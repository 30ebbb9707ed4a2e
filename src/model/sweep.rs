//! What a sweep finds: files and folders that nothing can use any more, as data, and the plan that removes a choice of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Blocked, Inode, Kept, Operation, Plan, Step, StoreKind, text};

/// What something dead is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Garbage {
    /// What a download that ended early has left.
    Partial,
    /// A temporary file or folder that a crash has left.
    Temporary,
    /// A payload that nothing names.
    OrphanBlob,
    /// A revision that no branch and no tag names.
    DetachedRevision,
    /// A link that leads to nothing.
    DanglingLink,
    /// A branch, tag or manifest that names something that is not there.
    DanglingReference,
    /// Bookkeeping about something that is gone.
    Leftover,
    /// A folder with nothing in it, or with bookkeeping only.
    AbandonedFolder,
}

impl Garbage {
    /// The name in JSON and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Partial => "partial",
            Self::Temporary => "temporary",
            Self::OrphanBlob => "orphan-blob",
            Self::DetachedRevision => "detached-revision",
            Self::DanglingLink => "dangling-link",
            Self::DanglingReference => "dangling-reference",
            Self::Leftover => "leftover",
            Self::AbandonedFolder => "abandoned-folder",
        }
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How sure it is that nobody misses something. The surest is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Somebody may have put it there on purpose, or may be about to use it: nothing on disk can tell. Taken only when asked for.
    Possible,
    /// Nothing uses it; what is lost is that a download begins anew instead of going on, or that something is fetched again.
    Likely,
    /// No program can use it any more.
    Certain,
}

impl Certainty {
    /// Every certainty, the surest first.
    pub const ALL: [Self; 3] = [Self::Certain, Self::Likely, Self::Possible];

    /// What a sweep takes when nothing else is said: this and everything surer.
    pub const USUAL: Self = Self::Likely;

    /// The name in JSON, on the command line and on screens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Certainty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|certainty| certainty.name() == text)
            .ok_or_else(|| format!("'{}' is no certainty; use one of certain, likely, possible", text::printable(text)))
    }
}

/// Something dead, to be taken or left as one. Serialises as an element of `items` in `sweep --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepItem {
    /// Where it is: of several files that belong together, the one that stands for them.
    #[serde(with = "text::escaped")]
    pub path: PathBuf,
    /// What it is.
    pub kind: Garbage,
    /// Why it is dead, in words.
    pub why: String,
    /// How sure that is.
    pub certainty: Certainty,
    /// `st_blocks * 512` that removing it, and nothing else, frees. A payload that another item keeps alive comes free only
    /// when both are taken.
    pub bytes: u64,
    /// The kind of the store that it lies in.
    pub store: StoreKind,
    /// Root of that store.
    #[serde(with = "text::escaped")]
    pub store_path: PathBuf,
    /// Id of the row that it belongs to, if it belongs to one.
    pub id: Option<String>,
}

/// One removal of a sweep, with what decides whether it is part of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepStep {
    /// The removal; its `bytes` are those of the whole sweep's plan, and its `requires` are indices of the sweep's steps.
    pub step: Step,
    /// The items, by index, that all have to be chosen for it to run.
    pub items: BTreeSet<usize>,
    /// Items of which one is enough: the folder around it goes with all that is in it.
    pub with: BTreeSet<usize>,
    /// `st_nlink` of a regular file, else 0.
    pub links: u64,
    /// `st_blocks * 512` of a regular file, else 0.
    pub disk_bytes: u64,
}

/// What a sweep found in one store or in several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// What can be taken, by store, then by path.
    pub items: Vec<SweepItem>,
    /// Removals in the order in which they run.
    pub steps: Vec<SweepStep>,
    /// What looks dead and is not offered, with the reason: somebody works on it, or it is too young.
    pub kept: Vec<Kept>,
    /// What permissions forbid. Items are offered all the same; a plan that contains them tells these.
    pub blocked: Vec<Blocked>,
    /// Links that are alive: what they lead to is not dead, whatever its own store says.
    pub links: Vec<PathBuf>,
    /// What could not be looked at, one line each: nothing is offered there.
    pub warnings: Vec<String>,
    /// Processes that could not be looked into: they may hold what is offered.
    pub unreadable_processes: usize,
}

impl Sweep {
    /// The items that a person who says nothing means: those that are [`Certainty::USUAL`] or surer.
    #[must_use]
    pub fn usual(&self) -> BTreeSet<usize> {
        self.at_least(Certainty::USUAL)
    }

    /// The items that are as sure as `least`, or surer.
    #[must_use]
    pub fn at_least(&self, least: Certainty) -> BTreeSet<usize> {
        self.items.iter().enumerate().filter(|(_, item)| item.certainty >= least).map(|(at, _)| at).collect()
    }

    /// The plan that removes the chosen items, by index, and nothing else.
    #[must_use]
    pub fn plan(&self, chosen: &BTreeSet<usize>) -> Plan {
        let stays: BTreeSet<&Path> = self.blocked.iter().map(|blocked| blocked.path.as_path()).collect();
        let mut plan = Plan { unreadable_processes: self.unreadable_processes, ..Plan::default() };
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.steps.len());
        let mut names: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
        // Folders around something that stays.
        let mut held: BTreeSet<PathBuf> = BTreeSet::new();
        for (at, found) in self.steps.iter().enumerate() {
            let path = found.step.path();
            let wanted = found.items.is_subset(chosen) || !found.with.is_disjoint(chosen);
            let goes = wanted
                && !stays.contains(path.as_path())
                && found.step.requires.iter().all(|required| places.get(*required).is_some_and(Option::is_some))
                && !(found.step.operation == Operation::RemoveFolder && held.contains(&path));
            if !goes {
                places.push(None);
                held.extend(path.ancestors().skip(1).map(Path::to_path_buf));
                let touched = found.items.iter().any(|item| chosen.contains(item));
                if touched {
                    self.say_why_it_stays(found, &path, chosen, &mut plan);
                }
                if wanted {
                    plan.blocked.extend(self.blocked.iter().filter(|blocked| blocked.path == path).cloned());
                }
                continue;
            }
            places.push(Some(plan.steps.len()));
            if found.links > 0 {
                names.entry(found.step.target).or_default().push(at);
            }
            let requires = found.step.requires.iter().filter_map(|required| places.get(*required).copied().flatten());
            plan.steps.push(Step { bytes: 0, requires: requires.collect(), ..found.step.clone() });
        }
        for steps in names.values() {
            let Some(&last) = steps.last() else { continue };
            let Some(place) = places.get(last).copied().flatten() else { continue };
            if let Some(step) = plan.steps.get_mut(place)
                && steps.len() as u64 >= self.steps[last].links
            {
                step.bytes = self.steps[last].disk_bytes;
            }
        }
        plan.expected_bytes = plan.steps.iter().map(|step| step.bytes).sum();
        plan
    }

    /// What the chosen items free together: the bytes of [`Self::plan`] without the plan.
    #[must_use]
    pub fn frees(&self, chosen: &BTreeSet<usize>) -> u64 {
        if !self.blocked.is_empty() {
            return self.plan(chosen).expected_bytes;
        }
        let mut names: BTreeMap<Inode, (u64, u64, u64)> = BTreeMap::new();
        for found in self.steps.iter().filter(|found| found.links > 0) {
            if found.items.is_subset(chosen) || !found.with.is_disjoint(chosen) {
                names.entry(found.step.target).or_insert((0, found.links, found.disk_bytes)).0 += 1;
            }
        }
        names.values().filter(|(seen, links, _)| seen >= links).map(|(_, _, bytes)| bytes).sum()
    }

    /// Of something that several items share and not all of them are chosen.
    fn say_why_it_stays(&self, found: &SweepStep, path: &Path, chosen: &BTreeSet<usize>, plan: &mut Plan) {
        let other = found.items.iter().find(|item| !chosen.contains(item)).and_then(|item| self.items.get(*item));
        if let Some(other) = other.filter(|_| found.step.operation.is_file()) {
            let because = format!("also used by {}, which was not chosen", text::printable_path(&other.path));
            plan.keep.push(Kept { path: path.to_owned(), because });
        }
    }

    /// Puts `more` after what is there.
    pub fn append(&mut self, more: Self) {
        let (items, steps) = (self.items.len(), self.steps.len());
        self.items.extend(more.items);
        self.steps.extend(more.steps.into_iter().map(|mut found| {
            found.items = found.items.iter().map(|item| item + items).collect();
            found.with = found.with.iter().map(|item| item + items).collect();
            found.step.requires.iter_mut().for_each(|required| *required += steps);
            found
        }));
        self.kept.extend(more.kept);
        self.blocked.extend(more.blocked);
        self.links.extend(more.links);
        self.warnings.extend(more.warnings);
        self.unreadable_processes = self.unreadable_processes.max(more.unreadable_processes);
    }

    /// Takes the items out for which `reason` gives one, and with them whatever cannot go without them. They are told as kept.
    pub fn withhold(&mut self, mut reason: impl FnMut(usize, &Self) -> Option<String>) {
        let reasons: Vec<Option<String>> = (0..self.items.len()).map(|at| reason(at, self)).collect();
        if reasons.iter().all(Option::is_none) {
            return;
        }
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.items.len());
        let mut count = 0;
        for (at, reason) in reasons.iter().enumerate() {
            places.push(reason.is_none().then_some(count));
            count += usize::from(reason.is_none());
            if let Some(because) = reason {
                self.kept.push(Kept { path: self.items[at].path.clone(), because: because.clone() });
            }
        }
        let mut at = 0;
        self.items.retain(|_| {
            at += 1;
            places[at - 1].is_some()
        });
        let mut kept_steps: Vec<Option<usize>> = Vec::with_capacity(self.steps.len());
        let mut steps: Vec<SweepStep> = Vec::with_capacity(self.steps.len());
        // Folders around something that stays by now.
        let mut held: BTreeSet<PathBuf> = BTreeSet::new();
        for mut found in std::mem::take(&mut self.steps) {
            let path = found.step.path();
            let items: Option<BTreeSet<usize>> = found.items.iter().map(|item| places[*item]).collect();
            let requires: Option<Vec<usize>> =
                found.step.requires.iter().map(|required| kept_steps.get(*required).copied().flatten()).collect();
            let stays = found.step.operation == Operation::RemoveFolder && held.contains(&path);
            let (Some(items), Some(requires), false) = (items, requires, stays) else {
                kept_steps.push(None);
                held.extend(path.ancestors().skip(1).map(Path::to_path_buf));
                continue;
            };
            found.with = found.with.iter().filter_map(|item| places[*item]).collect();
            (found.items, found.step.requires) = (items, requires);
            kept_steps.push(Some(steps.len()));
            steps.push(found);
        }
        self.steps = steps;
    }

    /// Keeps only the items for which `wanted` holds; the others are not told of.
    pub fn retain(&mut self, wanted: impl Fn(&SweepItem) -> bool) {
        let kept = self.kept.len();
        self.withhold(|at, sweep| (!wanted(&sweep.items[at])).then(String::new));
        self.kept.truncate(kept);
    }

    /// Works out what each item frees by itself, and leaves out items that nothing is left of.
    pub fn settle(&mut self) {
        let alive: BTreeSet<usize> = self.steps.iter().flat_map(|found| &found.items).copied().collect();
        // What is blocked still takes its room: the figure says what is there to be had.
        let own = self.own_bytes();
        for (at, item) in self.items.iter_mut().enumerate() {
            item.bytes = own.get(&at).copied().unwrap_or(0);
        }
        let gone: BTreeSet<usize> = (0..self.items.len()).filter(|at| !alive.contains(at)).collect();
        if !gone.is_empty() {
            let kept = self.kept.len();
            self.withhold(|at, _| gone.contains(&at).then(String::new));
            self.kept.truncate(kept);
        }
        self.sort();
    }

    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by(|a, b| self.items[*a].path.cmp(&self.items[*b].path).then(a.cmp(b)));
        let mut places = vec![0; order.len()];
        for (place, at) in order.iter().enumerate() {
            places[*at] = place;
        }
        for found in &mut self.steps {
            found.items = found.items.iter().map(|item| places[*item]).collect();
            found.with = found.with.iter().map(|item| places[*item]).collect();
        }
        let mut items: Vec<(usize, SweepItem)> = places.into_iter().zip(std::mem::take(&mut self.items)).collect();
        items.sort_by_key(|(place, _)| *place);
        self.items = items.into_iter().map(|(_, item)| item).collect();
    }

    /// What each item frees when it alone is taken.
    fn own_bytes(&self) -> BTreeMap<usize, u64> {
        let mut names: BTreeMap<(usize, Inode), (u64, u64, u64)> = BTreeMap::new();
        for found in self.steps.iter().filter(|found| found.links > 0) {
            let alone = found.items.first().filter(|_| found.items.len() == 1);
            for &item in alone.into_iter().chain(&found.with) {
                names.entry((item, found.step.target)).or_insert((0, found.links, found.disk_bytes)).0 += 1;
            }
        }
        let mut bytes: BTreeMap<usize, u64> = BTreeMap::new();
        for ((item, _), (seen, links, disk_bytes)) in names {
            if seen >= links {
                *bytes.entry(item).or_default() += disk_bytes;
            }
        }
        bytes
    }

    /// The paths that removing item `at` takes away.
    pub fn paths_of(&self, at: usize) -> impl Iterator<Item = PathBuf> + '_ {
        self.steps
            .iter()
            .filter(move |found| found.items.contains(&at) || found.with.contains(&at))
            .map(|found| found.step.path())
    }
}
