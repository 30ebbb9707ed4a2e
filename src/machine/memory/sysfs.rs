//! Graphics cards that the kernel itself tells about: AMD's, and Intel's with memory of their own.

use std::path::Path;

use super::{Roots, line, number};
use crate::model::memory::Device;
use crate::model::text;

/// More cards than any host has.
const MOST: usize = 256;

/// The cards, in the order of their numbers; their labels are left to the caller.
pub(super) fn cards(roots: &Roots) -> Vec<Device> {
    let Ok(entries) = std::fs::read_dir(&roots.drm) else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .take(4096)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("card")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(MOST);
    numbers
        .into_iter()
        .filter_map(|card| {
            let device = roots.drm.join(format!("card{card}/device"));
            match line(&device.join("vendor"))?.as_str() {
                "0x1002" => Some(amd(&device, roots)),
                "0x8086" => intel(&device, &roots.drm.join(format!("card{card}"))),
                _ => None,
            }
        })
        .collect()
}

fn amd(device: &Path, roots: &Roots) -> Device {
    let total = number(&device.join("mem_info_vram_total"));
    let used = number(&device.join("mem_info_vram_used"));
    let shared = number(&device.join("mem_info_gtt_total"));
    let mut unusable = false;
    let note = if total.is_none() || used.is_none() {
        Some("its driver does not tell its memory".to_owned())
    } else if !usable(&roots.dev) {
        unusable = true;
        Some("seen, but /dev/kfd or /dev/dri is not open to this user".to_owned())
    } else {
        None
    };
    Device {
        name: name(device, "AMD GPU"),
        total_bytes: total,
        // What cannot be used is not free.
        free_bytes: total.zip(used).map(|(total, used)| total.saturating_sub(used)).filter(|_| note.is_none()),
        shared_bytes: shared,
        note,
        unusable,
        ..Device::default()
    }
}

/// Whether programs of this user can compute on AMD GPUs.
fn usable(dev: &Path) -> bool {
    let opens = |path: &Path| std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok();
    opens(&dev.join("kfd"))
        && std::fs::read_dir(dev.join("dri")).is_ok_and(|entries| {
            entries
                .take(MOST)
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
                .any(|entry| opens(&entry.path()))
        })
}

/// An Intel card with memory of its own, of which only the size is told.
fn intel(device: &Path, card: &Path) -> Option<Device> {
    let tiles: u64 =
        (0..8).filter_map(|tile| number(&device.join(format!("tile{tile}/physical_vram_size_bytes")))).sum();
    let total = Some(tiles).filter(|bytes| *bytes > 0).or_else(|| number(&card.join("lmem_total_bytes")))?;
    Some(Device {
        name: name(device, "Intel GPU"),
        total_bytes: Some(total),
        note: Some("its driver does not tell what is free".to_owned()),
        ..Device::default()
    })
}

/// The product's name, else its number.
fn name(device: &Path, fallback: &str) -> String {
    if let Some(name) = line(&device.join("product_name")).filter(|name| !name.is_empty()) {
        return text::printable(&name).chars().take(64).collect();
    }
    let id = line(&device.join("device")).unwrap_or_default();
    match id.strip_prefix("0x").filter(|id| id.len() <= 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(id) => format!("{fallback} {id}"),
        None => fallback.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::fixtures::roots;

    #[test]
    fn amd_cards_tell_their_memory_and_connectors_are_no_cards() {
        let (_scratch, roots) = roots(&[
            ("dev/kfd", ""),
            ("dev/dri/renderD128", ""),
            ("drm/card10/device/vendor", "0x1002\n"),
            ("drm/card10/device/device", "0x74a1\n"),
            ("drm/card10/device/mem_info_vram_total", "1000\n"),
            ("drm/card10/device/mem_info_vram_used", "400\n"),
            ("drm/card1/device/vendor", "0x1002\n"),
            ("drm/card1/device/product_name", "Instinct\u{1b} MI300X\n"),
            ("drm/card1/device/mem_info_vram_total", "2000\n"),
            ("drm/card1/device/mem_info_vram_used", "5000\n"),
            ("drm/card1/device/mem_info_gtt_total", "700\n"),
            ("drm/card1-DP-1/device/vendor", "0x1002\n"),
            ("drm/card2/device/vendor", "0x10de\n"),
            ("drm/version", "x"),
        ]);
        let cards = cards(&roots);
        let told: Vec<_> = cards
            .iter()
            .map(|card| (card.name.as_str(), card.total_bytes, card.free_bytes, card.shared_bytes))
            .collect();
        assert_eq!(
            told,
            [("Instinct\\u{1b} MI300X", Some(2000), Some(0), Some(700)), ("AMD GPU 74a1", Some(1000), Some(600), None)]
        );
    }

    #[test]
    fn what_is_unknown_or_closed_is_said_and_not_zero() {
        let (_scratch, roots) = roots(&[
            ("drm/card0/device/vendor", "0x1002\n"),
            ("drm/card0/device/mem_info_vram_total", "many\n"),
            ("drm/card1/device/vendor", "0x1002\n"),
            ("drm/card1/device/mem_info_vram_total", "1000\n"),
            ("drm/card1/device/mem_info_vram_used", "400\n"),
            ("drm/card2/device/vendor", "0x8086\n"),
            ("drm/card3/device/vendor", "0x8086\n"),
            ("drm/card3/device/tile0/physical_vram_size_bytes", "500\n"),
        ]);
        let cards = cards(&roots);
        let told: Vec<_> =
            cards.iter().map(|card| (card.total_bytes, card.free_bytes, card.note.is_some(), card.unusable)).collect();
        assert_eq!(told, [(None, None, true, false), (Some(1000), None, true, true), (Some(500), None, true, false)]);
    }
}
