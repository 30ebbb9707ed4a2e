//! Files most of which is not on disk.

use crate::model::Bytes;

/// Shorter files are not worth a word.
const SHORTEST: u64 = 16 << 20;

/// That most of weights of that length is not on disk. A preallocated file whose end was never written has its whole length; a file
/// system that packs what it keeps takes weights down by a few tenths, never to an eighth.
pub(super) fn hole(size_bytes: u64, disk_bytes: u64) -> Option<String> {
    // Some file systems do not tell, or not yet.
    let told = size_bytes >= SHORTEST && disk_bytes > 512;
    let (disk, size) = (Bytes(disk_bytes), Bytes(size_bytes));
    let line = || format!("only {disk} of its {size} are on disk; the rest is holes that read as zeros");
    (told && disk_bytes < size_bytes / 8).then(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_file_system_packs_so_is_called_a_hole() {
        for (size, disk, is_hole) in [
            (282 << 20, 4 << 10, true),
            (16 << 20, (2 << 20) - 512, true),
            (16 << 20, 2 << 20, false),
            ((16 << 20) - 1, 4 << 10, false),
            (1 << 30, 0, false),
            (1 << 30, 512, false),
            (1 << 30, 700 << 20, false),
        ] {
            assert_eq!(hole(size, disk).is_some(), is_hole, "{size} {disk}");
        }
        assert!(hole(282 << 20, 4 << 10).unwrap().starts_with("only 4.00 KiB of its 282 MiB are on disk"));
    }
}
