//! What kind of disk a file system lies on.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers of devices over devices that are looked through: partitions, encryption, logical volumes, arrays.
const DEEPEST: usize = 8;

/// Whether a file system of this type (as the mount table names it) asks another machine for every byte.
#[must_use]
pub fn is_network(kind: &str) -> bool {
    const NAMES: [&str; 14] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ocfs2",
        "virtiofs",
    ];
    // What a program serves in user space is most often a bucket or a remote folder.
    NAMES.contains(&kind) || kind.starts_with("fuse")
}

/// Whether the file system with this `st_dev` lies on disks with moving heads, as far as the kernel tells. A virtual disk
/// says that it rotates whatever it lies on, and is not believed.
#[must_use]
pub fn is_rotating(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device as _), rustix::fs::minor(device as _));
    rotates(Path::new("/sys"), &format!("{major}:{minor}"))
}

fn rotates(sys: &Path, number: &str) -> bool {
    let Ok(device) = fs::canonicalize(sys.join("dev/block").join(number)) else { return false };
    leaf_rotates(&device, DEEPEST)
}

fn leaf_rotates(device: &Path, depth: usize) -> bool {
    // A partition lies in the folder of its disk.
    let device = match device.join("partition").exists() {
        true => device.parent().unwrap_or(device).to_owned(),
        false => device.to_owned(),
    };
    let below: Vec<PathBuf> = fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .collect();
    if !below.is_empty() {
        return depth > 0 && below.iter().any(|device| leaf_rotates(device, depth - 1));
    }
    let name = device.file_name().unwrap_or_default().as_encoded_bytes();
    let is_virtual = [&b"vd"[..], b"xvd", b"loop", b"zram", b"ram", b"nbd"].iter().any(|start| name.starts_with(start));
    !is_virtual && fs::read(device.join("queue/rotational")).is_ok_and(|text| text.starts_with(b"1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_below_partitions_and_volumes() {
        let sys = tempfile::tempdir().unwrap();
        let root = sys.path().canonicalize().unwrap();
        let disk = |name: &str, rotational: &str| {
            let disk = root.join("devices").join(name);
            fs::create_dir_all(disk.join("queue")).unwrap();
            fs::create_dir_all(disk.join("slaves")).unwrap();
            fs::write(disk.join("queue/rotational"), rotational).unwrap();
            disk
        };
        fs::create_dir_all(root.join("dev/block")).unwrap();
        let number = |number: &str, device: &Path| {
            std::os::unix::fs::symlink(device, root.join("dev/block").join(number)).unwrap();
        };
        let slow = disk("sda", "1\n");
        let part = slow.join("sda1");
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("partition"), "1\n").unwrap();
        let fast = disk("nvme0n1", "0\n");
        let guest = disk("vda", "1\n");
        let volume = disk("dm-0", "1\n");
        std::os::unix::fs::symlink(&part, volume.join("slaves/sda1")).unwrap();
        let fast_volume = disk("dm-1", "1\n");
        std::os::unix::fs::symlink(&fast, fast_volume.join("slaves/nvme0n1")).unwrap();
        for (name, device) in [
            ("8:0", &slow),
            ("8:1", &part),
            ("259:0", &fast),
            ("254:0", &guest),
            ("253:0", &volume),
            ("253:1", &fast_volume),
        ] {
            number(name, device);
        }
        let of = |number: &str| rotates(&root, number);
        assert_eq!([of("8:0"), of("8:1"), of("253:0")], [true; 3]);
        assert_eq!([of("259:0"), of("254:0"), of("253:1"), of("0:27")], [false; 4]);
    }

    #[test]
    fn network_file_systems_are_known_by_type() {
        assert!(is_network("nfs4") && is_network("fuse.s3fs") && is_network("fuseblk"));
        assert!(!is_network("ext4") && !is_network("xfs") && !is_network("overlay"));
    }
}
