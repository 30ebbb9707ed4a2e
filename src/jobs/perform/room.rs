//! Room for downloads: what is free, less what the downloads that run have still to write.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::disk::space::space;
use crate::error::{Error, Result};
use crate::model::{Bytes, text};
use crate::provisioner::{IdleModel, Outstanding};

/// Most models that are named as a way out.
const NAMED: usize = 4;

/// What the downloads that run have still to write. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Room {
    claims: Arc<Mutex<Claims>>,
    /// Rung when there may be more room than before.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Claims {
    next: u64,
    running: HashMap<u64, Claim>,
}

struct Claim {
    device: Option<u64>,
    outstanding: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// The room that a download has been given; it is free for others when this is dropped.
pub(super) struct Admitted {
    room: Room,
    number: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.room.lock().running.remove(&self.number);
        self.room.ring();
    }
}

/// Why a download does not fit now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    /// A folder on the file system.
    pub(super) path: PathBuf,
    /// Bytes that it has still to write.
    pub(super) needed: u64,
    /// Bytes that this user may still write.
    pub(super) free: u64,
    /// Bytes of those that other downloads will take.
    pub(super) claimed: u64,
}

impl Shortage {
    /// Bytes that are missing.
    pub(super) fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.free.saturating_sub(self.claimed))
    }

    /// The error for somebody who does not wait.
    pub(super) fn into_error(self) -> Error {
        let available = self.free.saturating_sub(self.claimed);
        Error::NoSpace { path: self.path, needed: self.needed, available, advice: None }
    }

    /// What is missing, and what would make room, in a line.
    pub(super) fn text(&self, idle: &[IdleModel]) -> String {
        // What is missing comes first: a line of the queue has room for little.
        let missing = match self.missing() {
            0 => "not enough space".to_owned(),
            missing => format!("{} short", Bytes(missing)),
        };
        let path = text::printable_path(&self.path);
        let mut line = format!("{missing} in {path}: {} needed, {} free", Bytes(self.needed), Bytes(self.free));
        if self.claimed > 0 {
            line.push_str(&format!(", {} of that for downloads that run", Bytes(self.claimed)));
        }
        if self.missing() == 0 {
            line.push_str("; the quota of this user may be used up");
            return line;
        }
        line.push_str(&format!("; {}", self.advice(idle)));
        line
    }

    /// What would make room, in words.
    pub(super) fn advice(&self, idle: &[IdleModel]) -> String {
        let mut freed: u64 = 0;
        let enough = idle.iter().position(|model| {
            freed = freed.saturating_add(model.reclaimable_bytes);
            freed >= self.missing()
        });
        let named: Vec<String> = idle
            .iter()
            .take(enough.map_or(NAMED, |last| last + 1).min(NAMED))
            .map(|idle| format!("{} ({})", text::printable(&idle.model.to_string()), Bytes(idle.reclaimable_bytes)))
            .collect();
        let named = named.join(", ");
        match enough {
            _ if named.is_empty() => "no idle model there could make room".to_owned(),
            Some(last) if last >= NAMED => {
                format!("idle, and together enough: {named} and {} more", last + 1 - NAMED)
            }
            Some(_) => format!("idle, and enough to delete: {named}"),
            None => format!("idle, but not enough to delete: {named}"),
        }
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there may be more room now.
    pub(super) fn ring(&self) {
        self.changed.notify_waiters();
    }

    /// Waits for [`Self::ring`].
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Gives room to a download, or says what is missing. Blocks on the disk.
    pub(super) fn admit(&self, outstanding: &Outstanding) -> Result<std::result::Result<Admitted, Shortage>> {
        let path = outstanding.folder().to_owned();
        let (device, counted) = (device(&path), outstanding.clone());
        let free = space(&path)?.available;
        Ok(self.admit_with(path, device, free, Arc::new(move || counted.bytes())))
    }

    fn admit_with(
        &self,
        path: PathBuf,
        device: Option<u64>,
        free: u64,
        outstanding: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> std::result::Result<Admitted, Shortage> {
        let needed = outstanding();
        let mut claims = self.lock();
        let claimed = claims
            .running
            .values()
            .filter(|claim| claim.device == device)
            .map(|claim| (claim.outstanding)())
            .fold(0, u64::saturating_add);
        if needed > 0 && needed > free.saturating_sub(claimed) {
            return Err(Shortage { path, needed, free, claimed });
        }
        let number = claims.next;
        claims.next += 1;
        claims.running.insert(number, Claim { device, outstanding });
        Ok(Admitted { room: self.clone(), number })
    }
}

/// The file system of a path, or of its nearest ancestor that exists.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.dev())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::{ModelId, StoreKind};

    fn ask(room: &Room, device: u64, free: u64, needed: &Arc<AtomicU64>) -> std::result::Result<Admitted, Shortage> {
        let needed = Arc::clone(needed);
        room.admit_with("/data".into(), Some(device), free, Arc::new(move || needed.load(Ordering::Relaxed)))
    }

    #[test]
    fn what_runs_has_its_room_before_what_comes_later() {
        let room = Room::default();
        let (first, second) = (Arc::new(AtomicU64::new(60)), Arc::new(AtomicU64::new(50)));
        let running = ask(&room, 1, 100, &first).ok().unwrap();
        let short = ask(&room, 1, 100, &second).err().unwrap();
        assert_eq!((short.needed, short.free, short.claimed, short.missing()), (50, 100, 60, 10));
        assert!(ask(&room, 2, 100, &second).is_ok(), "another disk");
        // What the first has written is no longer free, and no longer claimed.
        first.store(20, Ordering::Relaxed);
        assert_eq!(ask(&room, 1, 60, &second).err().unwrap().missing(), 10);
        drop(running);
        assert!(ask(&room, 1, 60, &second).is_ok());
        assert!(ask(&room, 1, 0, &Arc::new(AtomicU64::new(0))).is_ok(), "what is whole needs no room");
    }

    #[test]
    fn the_line_names_what_is_missing_and_the_way_out() {
        let short = |needed, free, claimed| Shortage { path: "/data".into(), needed, free, claimed };
        let idle = |names: &[(&str, u64)]| -> Vec<IdleModel> {
            let model = |id: &str| ModelId { store: StoreKind::Hf, store_path: "/hub".into(), id: id.to_owned() };
            let one =
                |(id, bytes): &(&str, u64)| IdleModel { model: model(id), reclaimable_bytes: *bytes, last_use: None };
            names.iter().map(one).collect()
        };
        const GIB: u64 = 1 << 30;
        let line = short(12 * GIB, 5 * GIB, 3 * GIB).text(&idle(&[("a/old", 4 * GIB), ("b/x", 7 * GIB), ("c/y", GIB)]));
        assert!(
            line.starts_with(
                "10.0 GiB short in /data: 12.0 GiB needed, 5.00 GiB free, 3.00 GiB of that for downloads that run; "
            ),
            "{line}"
        );
        assert!(line.ends_with("idle, and enough to delete: hf:a/old (4.00 GiB), hf:b/x (7.00 GiB)"), "{line}");
        let line = short(10 * GIB, 0, 0).text(&idle(&[("a/old", GIB)]));
        assert!(line.ends_with("0 B free; idle, but not enough to delete: hf:a/old (1.00 GiB)"), "{line}");
        assert!(short(GIB, 0, 0).text(&[]).ends_with("no idle model there could make room"));
        assert!(short(GIB, 9 * GIB, 0).text(&[]).ends_with("the quota of this user may be used up"));
        let many: Vec<(String, u64)> = (0..9).map(|number| (format!("m{number}"), GIB)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(id, bytes)| (id.as_str(), *bytes)).collect();
        let line = short(6 * GIB, 0, 0).text(&idle(&many));
        assert!(line.ends_with("hf:m3 (1.00 GiB) and 2 more"), "{line}");
    }
}
