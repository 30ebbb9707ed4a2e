//! Files most of which is not on disk.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};

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

/// Shorter holes count as data: tools that copy leave out runs of zeros, which tensors have.
const SHORTEST_HOLE: u64 = 1 << 20;
/// Runs of data that are looked at: where there are more, somebody wrote them.
const MOST_RUNS: usize = 4096;

/// Whether the file system says that seven eighths of a file of that length are holes, none of them short. No model has so many
/// zeros; a file system that packs or shares what it keeps says that it has data there.
pub(super) fn was_never_written(file: &File, size: u64) -> bool {
    let (mut at, mut data) = (0_u64, 0_u64);
    for _ in 0..MOST_RUNS {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            Err(_) => return false,
        };
        let hole = begin.saturating_sub(at);
        if hole < SHORTEST_HOLE {
            data = data.saturating_add(hole);
        }
        if begin >= size {
            return data <= size / 8;
        }
        let Ok(end) = seek(file, SeekFrom::Hole(begin)) else { return false };
        let end = end.min(size);
        if end <= begin {
            return false;
        }
        data = data.saturating_add(end - begin);
        at = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_written_is_told_from_data_and_from_short_holes() {
        use std::os::unix::fs::FileExt;
        const SIZE: u64 = 32 << 20;
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(SIZE).unwrap();
            file
        };
        let empty = file();
        empty.write_all_at(&[1; 4096], 0).unwrap();
        assert!(was_never_written(&empty, SIZE));
        let half = file();
        half.write_all_at(&vec![1; 16 << 20], 0).unwrap();
        assert!(!was_never_written(&half, SIZE));
        let scattered = file();
        (0..SIZE / (512 << 10)).for_each(|at| scattered.write_all_at(&[1; 4096], at * (512 << 10)).unwrap());
        assert!(!was_never_written(&scattered, SIZE));
    }

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
