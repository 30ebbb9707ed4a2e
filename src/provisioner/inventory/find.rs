//! From what a person typed to a row.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Inventory, PlanTarget, shown};
use crate::error::{Error, Result};
use crate::model::selector::{Choice, Selector, arguments};
use crate::model::{Model, ModelId, Quantization, Reference, StoreKind, text};
use crate::store::{Part, Row, Store, Target};

impl Inventory {
    /// The row, or the part of it, that a command names. `store_path` limits it to the store with that root.
    ///
    /// With a store in front the rest is the id of a row of that store. Without one it is a reference: every store says
    /// what it means there, and more than one answer is an error.
    ///
    /// # Errors
    /// [`Error::InvalidReference`]; [`Error::ModelNotFound`]; [`Error::Ambiguous`] with the full arguments to choose from.
    pub fn find(&self, selector: &Selector, store_path: Option<&Path>) -> Result<PlanTarget> {
        match self.find_meant(selector, store_path) {
            Err(error @ (Error::InvalidReference { .. } | Error::ModelNotFound { .. })) => {
                let mut target = self.find_printed(selector, store_path)?;
                if target.is_none() {
                    target = match error {
                        Error::InvalidReference { .. } => self.find_by_long_id(selector, store_path)?,
                        _ => self.find_by_origin(selector, store_path)?,
                    };
                }
                target.ok_or_else(|| self.with_what_is_here(error, selector, store_path))
            }
            other => other,
        }
    }

    /// [`Self::find`] for what changes nothing: a name whose own files are not here means the row of exactly that id.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_to_read(&self, selector: &Selector, store_path: Option<&Path>) -> Result<PlanTarget> {
        let error = match self.find(selector, store_path) {
            Err(error @ Error::ModelNotFound { .. }) => error,
            other => return other,
        };
        self.one_of(self.rows_named(selector.rest(), selector, store_path), selector)?.ok_or(error)
    }

    fn find_meant(&self, selector: &Selector, store_path: Option<&Path>) -> Result<PlanTarget> {
        let reference = match selector.store() {
            Some(_) => None,
            None => Some(Reference::parse(selector.text())?),
        };
        let mut found = Vec::new();
        let mut places = Vec::new();
        for store in self.asked(selector, store_path) {
            places.push(shown(store.root()));
            let target = match &reference {
                Some(reference) => store.find(reference)?.map(|target| (target.id, target.part)),
                None => by_id(store.as_ref(), selector)?,
            };
            if let Some((id, part)) = target {
                found.push(PlanTarget { model: model_id(store.as_ref(), id), part });
            }
        }
        self.one_of(found, selector)?.ok_or_else(|| Error::ModelNotFound {
            reference: text::printable(selector.text()),
            place: if places.is_empty() { "any store that was named".to_owned() } else { places.join(", ") },
        })
    }

    /// The stores that a selector and `--store-path` leave.
    fn asked(&self, selector: &Selector, store_path: Option<&Path>) -> Vec<Arc<dyn Store>> {
        let resolved = store_path.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let stores = self.stores();
        let asked = stores.iter().filter(|store| {
            selector.store().is_none_or(|kind| kind == store.kind())
                && resolved.as_deref().is_none_or(|root| root == store.root())
        });
        asked.cloned().collect()
    }

    fn one_of(&self, mut found: Vec<PlanTarget>, selector: &Selector) -> Result<Option<PlanTarget>> {
        if found.len() > 1 {
            return Err(Error::Ambiguous {
                reference: text::printable(selector.text()),
                choices: found.iter().map(|target| self.arguments(target)).collect(),
            });
        }
        Ok(found.pop())
    }

    /// A name as it stands on a screen, where control characters and bytes that are no text are escapes.
    fn find_printed(&self, selector: &Selector, store_path: Option<&Path>) -> Result<Option<PlanTarget>> {
        if !selector.rest().contains('\\') {
            return Ok(None);
        }
        let mut readings = vec![selector.rest().to_owned()];
        readings.extend(text::unprintable(selector.rest()).filter(|id| id != selector.rest()));
        for id in readings {
            if let Some(target) = self.one_of(self.rows_named(&id, selector, store_path), selector)? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// An id as a list shows it that is no reference: `datasets/org/name`, `imported-models/uncategorized/m.gguf`. In folders of our
    /// own a name may mean less than the row of that name.
    fn find_by_long_id(&self, selector: &Selector, store_path: Option<&Path>) -> Result<Option<PlanTarget>> {
        let id = selector.rest();
        if selector.store().is_some() || id.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Ok(None);
        }
        let mut found = self.rows_named(id, selector, store_path);
        found.retain(|target| target.model.store != StoreKind::Flat);
        self.one_of(found, selector)
    }

    /// `org/name[:QUANT]` where only llama.cpp's own cache has it, whose rows are named by their files.
    fn find_by_origin(&self, selector: &Selector, store_path: Option<&Path>) -> Result<Option<PlanTarget>> {
        let Ok(reference) = Reference::parse(selector.rest()) else { return Ok(None) };
        let plain = reference.revision().is_none() && reference.file().is_none();
        let Some(repository) = reference.repository().filter(|_| plain) else { return Ok(None) };
        let stores = self.asked(selector, store_path).into_iter().filter(|store| store.kind() == StoreKind::LlamaCpp);
        let mut found = Vec::new();
        for store in stores {
            let mut take = |row: Row| {
                // A row has one quantization here, and an exact label is asked for.
                let is =
                    |wanted: &str| matches!(row.model.selects.as_slice(), [one] if *one == Quantization::new(wanted));
                if row.model.reference.as_deref() == Some(repository) && reference.quantization().is_none_or(is) {
                    found.push(PlanTarget::whole(row.model.identity.clone()));
                }
            };
            store.scan(&mut take, &CancellationToken::new());
        }
        self.one_of(found, selector)
    }

    /// The whole rows of exactly that id.
    fn rows_named(&self, id: &str, selector: &Selector, store_path: Option<&Path>) -> Vec<PlanTarget> {
        let stores = self.asked(selector, store_path).into_iter().filter(|store| store.details(id).is_ok());
        stores.map(|store| PlanTarget::whole(model_id(store.as_ref(), id.to_owned()))).collect()
    }

    /// Says what the row has instead, where it is here without what was asked for.
    fn with_what_is_here(&self, error: Error, selector: &Selector, store_path: Option<&Path>) -> Error {
        if let Some(error) = self.group_named(selector, store_path) {
            return error;
        }
        let Error::ModelNotFound { reference, place } = error else { return error };
        let here = match Reference::parse(selector.rest()) {
            Ok(asked) if asked.quantization().is_some() => self.quantizations_here(&asked, selector, store_path),
            Ok(_) if selector.store().is_none() => self.row_of_others(selector, store_path),
            _ => None,
        };
        let place = here.map_or(place.clone(), |here| format!("{place}; {here}"));
        Error::ModelNotFound { reference, place }
    }

    /// Which rows there are to choose from, where the name is that of a folder which only groups models.
    fn group_named(&self, selector: &Selector, store_path: Option<&Path>) -> Option<Error> {
        let asked = Reference::parse(selector.rest()).ok();
        let names = [Some(selector.rest()), asked.as_ref().map(Reference::name)];
        let stores = self.asked(selector, store_path);
        let mut errors = stores.iter().flat_map(|store| names.iter().flatten().map(|name| store.details(name)));
        errors.find_map(|found| found.err().filter(|error| matches!(error, Error::Ambiguous { .. })))
    }

    fn quantizations_here(&self, asked: &Reference, selector: &Selector, store_path: Option<&Path>) -> Option<String> {
        let whole = asked.of_repository();
        let rows = self.asked(selector, store_path).into_iter().filter_map(|store| {
            let found = if selector.store().is_none() { store.find(&whole).ok().flatten() } else { None };
            let id = found.map_or_else(|| asked.name().to_owned(), |target| target.id);
            let labels = selecting(&store.details(&id).ok()?.model);
            let name = self.arguments(&PlanTarget::whole(model_id(store.as_ref(), id)));
            (!labels.is_empty()).then(|| format!("{name} has: {labels}"))
        });
        let rows: Vec<String> = rows.collect();
        (!rows.is_empty()).then(|| rows.join("; "))
    }

    /// A row of the name that was asked for, of which that name means nothing: its files are those of other names.
    fn row_of_others(&self, selector: &Selector, store_path: Option<&Path>) -> Option<String> {
        let target = self.rows_named(selector.rest(), selector, store_path).into_iter().next()?;
        let labels = selecting(&self.contents(&target.model).ok()?.model);
        let (name, id) = (self.arguments(&target), text::printable(&target.model.id));
        let holds = if labels.is_empty() { "other files".to_owned() } else { labels };
        Some(format!("the folder {id} holds {holds}, which that name does not mean: `{name}` is the whole folder"))
    }

    /// The arguments that name exactly this target.
    #[must_use]
    pub fn arguments(&self, target: &PlanTarget) -> String {
        let several = self.stores().iter().filter(|store| store.kind() == target.model.store).count() > 1;
        let choice = target.part.choice().unwrap_or(Choice::Whole);
        arguments(&target.model, &choice, several)
    }
}

/// What can follow the `:`.
fn selecting(model: &Model) -> String {
    model.selects.iter().map(Quantization::as_str).collect::<Vec<_>>().join(", ")
}

fn model_id(store: &dyn Store, id: String) -> ModelId {
    ModelId { store: store.kind(), store_path: store.root().to_owned(), id }
}

/// The first reading of the selector that is a row here.
fn by_id(store: &dyn Store, selector: &Selector) -> Result<Option<(String, Part)>> {
    for (id, choice) in selector.readings(store.kind()) {
        match store.details(&id) {
            Ok(details) => {
                let part = Part::from(choice);
                // A quantization that it has not would only be missed later, without a word of what it has.
                if matches!(part, Part::Quantization(_) | Part::QuantizationOf { .. }) {
                    let target = Target { id: id.clone(), part: part.clone() };
                    let known = !details.model.selects.is_empty();
                    if known && matches!(store.expected(&target), Err(Error::ModelNotFound { .. })) {
                        continue;
                    }
                }
                return Ok(Some((id, part)));
            }
            // Of a group the rows to choose from are told, unless another store has a row of that name.
            Err(Error::ModelNotFound { .. } | Error::Ambiguous { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
