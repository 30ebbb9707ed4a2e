//! What the screen begins with: keys, colors, and the facts of this host and its settings.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use crate::disk::regular;
use crate::machine;
use crate::model::{StoreKind, text};
use crate::provisioner::Inventory;
use crate::tui::keymap::Keymap;
use crate::tui::state::Facts;
use crate::tui::theme::{Look, Tier};
use crate::tui::{ColorMode, Options, Surroundings};

/// The built-in keys, with `keymap.toml` of the configuration folder over them.
pub(super) fn keymap(config: &Path) -> (Keymap, Vec<String>) {
    /// Larger files are no keymap.
    const MAX: u64 = 256 * 1024;
    let path = config.join("keymap.toml");
    let read = || -> std::io::Result<Option<String>> {
        match regular::read(&path, MAX) {
            Ok(Some(bytes)) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text")),
            Ok(None) => Err(std::io::Error::other("the file is too large")),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    match read() {
        Ok(Some(file)) => Keymap::with_overrides(&file),
        Ok(None) => (Keymap::built_in(), Vec::new()),
        Err(error) => (Keymap::built_in(), vec![error.to_string()]),
    }
}

pub(super) fn look(color: ColorMode, ascii: bool, surroundings: Surroundings) -> Look {
    let tier = match color {
        ColorMode::Never => Tier::None,
        ColorMode::Auto if surroundings.no_color => Tier::None,
        ColorMode::Auto | ColorMode::Always if surroundings.true_color => Tier::Rich,
        ColorMode::Auto | ColorMode::Always => Tier::Sixteen,
    };
    Look::new(tier, ascii || !surroundings.unicode)
}

pub(super) fn facts(options: &Options) -> Facts {
    Facts {
        host: text::printable(&machine::hostname()),
        models_dir: options.settings.models_dir.clone(),
        destination: options.settings.destination,
        stores: stores_of(&options.inventory),
        aliases: options.provisioner.catalog().entries().iter().map(|entry| entry.alias.clone()).collect(),
        endpoint: options.settings.hub.endpoint.clone(),
        home: options.settings.paths.home.clone(),
        bell: options.settings.screen.bell,
        fit: options.settings.fit,
        fleeting: options.fleeting,
        zone: Some(TimeZone::system()),
    }
}

pub(super) fn stores_of(inventory: &Inventory) -> Vec<(StoreKind, PathBuf)> {
    inventory.stores().iter().map(|store| (store.kind(), store.root().to_owned())).collect()
}
