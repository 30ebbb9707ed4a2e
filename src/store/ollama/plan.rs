//! Deletion of tags: names first, blobs last, and no blob that anything else may need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::OllamaStore;
use super::read::{self, Contents, Tag, TagKind};
use crate::disk::folder::Folder;
use crate::error::Result;
use crate::machine::{current_user, user_name};
use crate::model::{Ask, Blocked, Broken, Digest, Kept, Plan, text};
use crate::store::planning::{PlanBuilder, lexical};
use crate::store::tree::Entry;
use crate::store::{Part, Target};

/// Most users of a blob that are named.
const MAX_NAMED: usize = 5;

impl OllamaStore {
    pub(super) fn plan(&self, targets: &[Target]) -> Result<Plan> {
        let mut builder = PlanBuilder::new(&self.root);
        let Some(first) = targets.first() else { return Ok(Plan::default()) };
        let contents = self.contents(&first.id)?;
        let mut going: BTreeSet<usize> = BTreeSet::new();
        for target in targets {
            let at = contents.row(&target.id).ok_or_else(|| self.not_found(&target.id))?;
            self.check_part(&contents, at, &target.part)?;
            if going.insert(at) {
                builder.plan().models.push(self.identity(&target.id));
            }
        }
        let shadows: BTreeSet<usize> = going
            .iter()
            .flat_map(|&at| contents.tags[at].shadows.iter().copied())
            .filter(|shadow| contents.rows().all(|(at, tag)| going.contains(&at) || !tag.shadows.contains(shadow)))
            .collect();
        let names = self.remove_names(&contents, &going, &shadows, &mut builder);
        builder.remove_emptied(&contents.folders);
        self.remove_blobs(&contents, &going, &names, &mut builder);
        self.note_aliases(&contents, &going, &mut builder);
        let asks = self.asks(&contents, &going, &names, &builder);
        let mut plan = if asks.is_empty() {
            builder.finish(unreadable(&self.root, &contents, &going))
        } else {
            builder.finish_for_another()
        };
        plan.asks = asks;
        self.name_the_command(&contents, &going, &mut plan);
        Ok(plan)
    }

    /// What the running server of this store does itself; all of it, or nothing. A server removes what no manifest that it can read
    /// needs: where one cannot be read, or it does not know both trees, it might remove more than this plan.
    fn asks(
        &self,
        contents: &Contents,
        going: &BTreeSet<usize>,
        names: &BTreeMap<usize, Vec<usize>>,
        builder: &PlanBuilder,
    ) -> Vec<Ask> {
        let sound = contents.unknown_beside(going).is_none()
            && going.iter().all(|&at| contents.tags[at].unknown.is_none())
            && contents.tags.iter().all(|tag| tag.entries.iter().all(|entry| entry.alias_of.is_none()));
        let Some(server) = self.server.as_ref().filter(|_| sound) else { return Vec::new() };
        let Some(serving) = server.of(&self.root) else { return Vec::new() };
        let newer = contents.tags.iter().flat_map(|tag| &tag.entries).any(|name| read::is_newer(&name.entry.path));
        if newer && !serving.knows_both_trees {
            return Vec::new();
        }
        let steps: Vec<usize> = (0..builder.len()).collect();
        let ask = |(at, names): (&usize, &Vec<usize>)| {
            let tag = &contents.tags[*at];
            let served = serving.models.iter().find(|served| served.name.eq_ignore_ascii_case(&tag.id))?;
            if !serving.certain && self.manifest_digest(tag).as_deref() != Some(&served.digest) {
                return None;
            }
            Some(Ask {
                server: serving.address.clone(),
                name: served.name.clone(),
                names: names.clone(),
                steps: steps.clone(),
            })
        };
        let asks: Option<Vec<Ask>> = names.iter().filter(|(at, _)| going.contains(at)).map(ask).collect();
        asks.unwrap_or_default()
    }

    /// Digits of the SHA-256 of the manifest that counts.
    fn manifest_digest(&self, tag: &Tag) -> Option<String> {
        let path = self.root.join(&tag.entries.first()?.entry.path);
        let folder = Folder::open(path.parent()?).ok()?;
        let bytes = match tag.entries.first()?.entry.link {
            // A link to the blob that holds it.
            Some(_) => return tag.manifests.iter().next().filter(|_| tag.manifests.len() == 1).cloned(),
            None => folder.read(path.file_name()?, super::manifest::MAX_JSON).ok()??,
        };
        Some(Digest::Sha256(Sha256::digest(&bytes).into()).to_string())
    }

    /// Removes the names of each tag, the one that counts first, then those of its shadows. Gives the steps by tag.
    fn remove_names(
        &self,
        contents: &Contents,
        going: &BTreeSet<usize>,
        shadows: &BTreeSet<usize>,
        builder: &mut PlanBuilder,
    ) -> BTreeMap<usize, Vec<usize>> {
        let mut names: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &at in going {
            let mut steps: Vec<usize> = Vec::new();
            for entry in &contents.tags[at].entries {
                // An older name that outlives the newer one would bring an older model back; not the other way round.
                let step = builder.remove(Path::new(""), &entry.entry, steps.clone());
                steps.push(step);
            }
            names.insert(at, steps);
        }
        for &shadow in shadows {
            let owners = going.iter().filter(|&at| contents.tags[*at].shadows.contains(&shadow));
            let before: Vec<usize> = owners.clone().flat_map(|at| names[at].clone()).collect();
            let steps: Vec<usize> = contents.tags[shadow]
                .entries
                .iter()
                .map(|entry| builder.remove(Path::new(""), &entry.entry, before.clone()))
                .collect();
            for at in owners {
                if let Some(names) = names.get_mut(at) {
                    names.extend(&steps);
                }
            }
        }
        names
    }

    /// Removes what only the tags that go need, each blob after every name that leads to it.
    fn remove_blobs(
        &self,
        contents: &Contents,
        going: &BTreeSet<usize>,
        names: &BTreeMap<usize, Vec<usize>>,
        builder: &mut PlanBuilder,
    ) {
        let unknown = contents.unknown_beside(going);
        // What cannot be read may need any blob as long as its name is there.
        let claims: Vec<usize> = going
            .iter()
            .filter(|&&at| contents.tags[at].unknown.is_some())
            .filter_map(|at| names.get(at))
            .flatten()
            .copied()
            .collect();
        let users = contents.users();
        let needed: BTreeSet<&str> = going.iter().flat_map(|&at| contents.needs(at)).collect();
        for hex in needed {
            let Some(entries) = contents.blobs.get(hex) else { continue };
            let users = users.get(hex).map(Vec::as_slice).unwrap_or_default();
            let others: Vec<usize> = users.iter().copied().filter(|at| !going.contains(at)).collect();
            let because = match &unknown {
                _ if !others.is_empty() => format!("also used by {}", named(contents, &others)),
                Some(why) => format!("may be needed by what cannot be read ({why}); repair or delete that first"),
                None => {
                    let own = users.iter().filter_map(|at| names.get(at)).flatten();
                    let requires: BTreeSet<usize> = own.chain(&claims).copied().collect();
                    let requires: Vec<usize> = requires.into_iter().collect();
                    for entry in entries {
                        builder.remove(Path::new(""), entry, requires.clone());
                        self.note_link(entry, builder);
                    }
                    continue;
                }
            };
            for entry in entries {
                builder.plan().keep.push(Kept { path: self.root.join(&entry.path), because: because.clone() });
            }
        }
    }

    fn note_link(&self, entry: &Entry, builder: &mut PlanBuilder) {
        let Some(to) = &entry.link else { return };
        let at = self.root.join(&entry.path);
        let path = lexical(&at.parent().unwrap_or(&self.root).join(to));
        let because = format!("only the link {} goes, never what it leads to", text::printable_path(&at));
        builder.plan().keep.push(Kept { path, because });
    }

    /// Names the tags that stay and are links to names that go.
    fn note_aliases(&self, contents: &Contents, going: &BTreeSet<usize>, builder: &mut PlanBuilder) {
        let gone: BTreeSet<&Path> =
            going.iter().flat_map(|&at| &contents.tags[at].entries).map(|entry| entry.entry.path.as_path()).collect();
        for (at, tag) in contents.rows().filter(|(at, _)| !going.contains(at)) {
            let broken = tag.entries.iter().find(|entry| entry.alias_of.as_deref().is_some_and(|to| gone.contains(to)));
            if let Some(entry) = broken {
                let model = self.identity(&contents.tags[at].id);
                builder.plan().breaks.push(Broken { model, path: self.root.join(&entry.entry.path) });
            }
        }
    }

    /// Says with what is forbidden here how the owner of the store would do it.
    fn name_the_command(&self, contents: &Contents, going: &BTreeSet<usize>, plan: &mut Plan) {
        for tag in going.iter().map(|&at| &contents.tags[at]) {
            let TagKind::Model(_) = tag.kind else { continue };
            for entry in tag.entries.iter().map(|entry| &entry.entry) {
                let (path, owner) = (self.root.join(&entry.path), entry.status.uid);
                if owner == current_user() {
                    continue;
                }
                for blocked in plan.blocked.iter_mut().filter(|blocked| blocked.path == path) {
                    // sudo takes a number only in this form.
                    let user = user_name(owner).unwrap_or_else(|| format!("'#{owner}'"));
                    let command = format!("sudo -u {user} ollama rm {}", tag.id);
                    blocked.because.push_str(&format!("; its owner would do it with: {command}"));
                }
            }
        }
    }

    /// A tag goes whole or not at all; its own quantization is the whole of it.
    pub(super) fn check_part(&self, contents: &Contents, at: usize, part: &Part) -> Result<()> {
        let tag = &contents.tags[at];
        match part {
            Part::Whole => Ok(()),
            Part::Quantization(wanted) => {
                let users = super::row::Users::of(contents);
                let row = self.row(contents, at, &users, &mut Default::default());
                let is = row.model.selects.iter().chain(&row.model.quantization).any(|label| label.is(wanted));
                is.then_some(()).ok_or_else(|| self.not_found(&format!("{}:{wanted}", tag.id)))
            }
            Part::Revision(revision) | Part::QuantizationOf { revision, .. } => {
                Err(self.not_found(&format!("{}@{revision}", tag.id)))
            }
            Part::Files(files) => Err(self.not_found(&format!("{} ({})", tag.id, files.join(", ")))),
        }
    }
}

/// The names that stay because what they need cannot be seen.
fn unreadable(root: &Path, contents: &Contents, going: &BTreeSet<usize>) -> Vec<Blocked> {
    let mut blocked = Vec::new();
    for &at in going {
        let Some(why) = contents.unreadable(at) else { continue };
        let because = format!(
            "what it needs cannot be seen ({why}), and would be left behind without a name; run as a user who may read \
             it, or as root"
        );
        let entries = contents.tags[at].entries.iter();
        blocked.extend(entries.map(|name| Blocked { path: root.join(&name.entry.path), because: because.clone() }));
    }
    blocked
}

fn named(contents: &Contents, tags: &[usize]) -> String {
    let label = |tag: &Tag| match tag.kind {
        TagKind::Shadow(_) => format!("{}, which keeps a conversion", tag.id),
        TagKind::Temporary => format!("{}, which is being written", text::printable(&tag.id)),
        _ => text::printable(&tag.id),
    };
    let names: Vec<String> = tags.iter().take(MAX_NAMED).map(|&at| label(&contents.tags[at])).collect();
    let more = tags.len().saturating_sub(MAX_NAMED);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
