//! From what a person typed to a row.

use std::path::Path;

use super::{Inventory, PlanTarget, shown};
use crate::error::{Error, Result};
use crate::model::selector::{Choice, Selector, arguments};
use crate::model::{ModelId, Reference, text};
use crate::store::{Part, Store};

impl Inventory {
    /// The row, or the part of it, that a command names. `store_path` limits it to the store with that root.
    ///
    /// With a store in front the rest is the id of a row of that store. Without one it is a reference: every store says
    /// what it means there, and more than one answer is an error.
    ///
    /// # Errors
    /// [`Error::InvalidReference`]; [`Error::ModelNotFound`]; [`Error::Ambiguous`] with the full arguments to choose from.
    pub fn find(&self, selector: &Selector, store_path: Option<&Path>) -> Result<PlanTarget> {
        let reference = match selector.store() {
            Some(_) => None,
            None => Some(Reference::parse(selector.text())?),
        };
        let resolved = store_path.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let mut found = Vec::new();
        let mut places = Vec::new();
        for store in self.stores().iter() {
            let other_kind = selector.store().is_some_and(|kind| kind != store.kind());
            let other_root = resolved.as_deref().is_some_and(|root| root != store.root());
            if other_kind || other_root {
                continue;
            }
            places.push(shown(store.root()));
            let target = match &reference {
                Some(reference) => store.find(reference)?.map(|target| (target.id, target.part)),
                None => by_id(store.as_ref(), selector)?,
            };
            if let Some((id, part)) = target {
                let model = ModelId { store: store.kind(), store_path: store.root().to_owned(), id };
                found.push(PlanTarget { model, part });
            }
        }
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 => Err(Error::ModelNotFound {
                reference: text::printable(selector.text()),
                place: if places.is_empty() { "any store that was named".to_owned() } else { places.join(", ") },
            }),
            _ => Err(Error::Ambiguous {
                reference: text::printable(selector.text()),
                choices: found.iter().map(|target| self.arguments(target)).collect(),
            }),
        }
    }

    /// The arguments that name exactly this target.
    #[must_use]
    pub fn arguments(&self, target: &PlanTarget) -> String {
        let several = self.stores().iter().filter(|store| store.kind() == target.model.store).count() > 1;
        let choice = match &target.part {
            Part::Quantization(label) => Choice::Quantization(label.clone()),
            Part::Revision(commit) => Choice::Revision(commit.clone()),
            Part::Whole | Part::Files(_) => Choice::Whole,
        };
        arguments(&target.model, &choice, several)
    }
}

/// The first reading of the selector that is a row here.
fn by_id(store: &dyn Store, selector: &Selector) -> Result<Option<(String, Part)>> {
    for (id, choice) in selector.readings(store.kind()) {
        match store.details(&id) {
            Ok(_) => {
                let part = match choice {
                    Choice::Whole => Part::Whole,
                    Choice::Quantization(label) => Part::Quantization(label),
                    Choice::Revision(commit) => Part::Revision(commit),
                };
                return Ok(Some((id, part)));
            }
            Err(Error::ModelNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
