//! What can be done about a damaged model.

use super::{FileStatus, Model, StoreKind, text};

/// What is said of a model of which nothing tells where it came from.
pub const ORIGIN_UNKNOWN: &str = "origin unknown";

/// One line for people: how to get `model` whole again, of which `damage` is known; `None` where fetching it would not help.
#[must_use]
pub fn way_out(model: &Model, damage: FileStatus) -> Option<String> {
    if damage.is_ok() {
        return None;
    }
    if damage == FileStatus::Unreadable {
        return Some("it may be sound: look at its permissions and at the disk, and verify it again".to_owned());
    }
    let id = text::printable(&model.identity.id);
    let known = model.reference.as_deref().filter(|_| !model.warnings.iter().any(|line| line == ORIGIN_UNKNOWN));
    let reference = known.map(text::printable);
    let full = text::printable(&model.identity.to_string());
    Some(match (model.identity.store, reference) {
        (StoreKind::Ollama, _) if damage == FileStatus::Missing => {
            format!("to fetch what is missing: ollama pull {id}")
        }
        // It takes a blob of the right name for right, and keeps one that another tag names.
        (StoreKind::Ollama, _) => {
            format!("to fetch it again: ollama rm {id} (and every other tag with that blob), then ollama pull {id}")
        }
        (store @ (StoreKind::Flat | StoreKind::Hf), Some(reference)) => match model.selects.as_slice() {
            // Which files they are it takes the names to say.
            [_, _, ..] => format!("llorch-models verify {full} --quick tells how to fetch its damaged files again"),
            one => {
                let label =
                    one.first().map(|label| format!(":{}", text::printable(label.as_str()))).unwrap_or_default();
                let to = if store == StoreKind::Hf { " --to hf" } else { "" };
                format!("to fetch it again: llorch-models download {reference}{label}{to}")
            }
        },
        (_, Some(reference)) => {
            format!(
                "delete it and fetch it again: with the program that keeps it, or llorch-models download {reference}"
            )
        }
        (_, None) => "nothing says where it came from: delete it and fetch it again from there".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelId, Quantization};

    fn model(store: StoreKind, id: &str, reference: Option<&str>) -> Model {
        let identity = ModelId { store, store_path: "/x".into(), id: id.to_owned() };
        Model { reference: reference.map(str::to_owned), ..Model::new(identity, "/x".into()) }
    }

    fn said(model: &Model) -> String {
        way_out(model, FileStatus::Corrupt).unwrap()
    }

    #[test]
    fn each_store_has_its_own_way() {
        let flat = model(StoreKind::Flat, "m", Some("org/m"));
        assert_eq!(said(&flat), "to fetch it again: llorch-models download org/m");
        let one = Model { selects: vec![Quantization::new("Q8_0")], ..model(StoreKind::Hf, "org/m", Some("org/m")) };
        assert_eq!(said(&one), "to fetch it again: llorch-models download org/m:Q8_0 --to hf");
        let two = Model { selects: vec![Quantization::new("Q8_0"), Quantization::new("F16")], ..flat.clone() };
        assert!(said(&two).starts_with("llorch-models verify flat:m --quick"), "{}", said(&two));
        let guessed = Model { warnings: vec![ORIGIN_UNKNOWN.to_owned()], ..flat.clone() };
        for nobody in [guessed, model(StoreKind::Flat, "m", None), model(StoreKind::LlamaCpp, "m", None)] {
            assert!(said(&nobody).starts_with("nothing says where it came from"), "{}", said(&nobody));
        }
        assert!(said(&model(StoreKind::LmStudio, "org/m", Some("org/m"))).ends_with("llorch-models download org/m"));
        let tag = model(StoreKind::Ollama, "llama3.2:3b", None);
        assert!(said(&tag).contains("ollama rm llama3.2:3b") && said(&tag).ends_with("ollama pull llama3.2:3b"));
        assert_eq!(way_out(&tag, FileStatus::Missing).unwrap(), "to fetch what is missing: ollama pull llama3.2:3b");
        assert_eq!(way_out(&flat, FileStatus::Ok), None);
        assert!(way_out(&flat, FileStatus::Unreadable).unwrap().contains("verify it again"));
    }
}
