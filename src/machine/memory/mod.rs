//! The memory of this host: its GPUs' and its own.

mod helper;
mod nvidia;
mod ram;
mod smi;
mod sysfs;
mod watch;

use std::path::PathBuf;

pub use helper::GpuDriver;
pub use watch::MemoryProbe;

/// Where the system tells about memory. Tests have folders of their own.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/sys/class/drm`: graphics cards.
    pub drm: PathBuf,
    /// `/dev`: `kfd` and `dri/renderD*` have to be there for an AMD GPU to be of use.
    pub dev: PathBuf,
    /// `/proc`: `meminfo`, and the group of this process.
    pub proc: PathBuf,
    /// `/sys/fs/cgroup`: the limit of that group.
    pub cgroup: PathBuf,
    /// NVIDIA's library, tried in this order; a name without a folder is looked for as the system does.
    pub nvml: Vec<PathBuf>,
    /// `nvidia-smi`, asked where the library of an old driver does not tell; tried in this order, looked for in the same way.
    pub nvidia_smi: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            drm: PathBuf::from("/sys/class/drm"),
            dev: PathBuf::from("/dev"),
            proc: PathBuf::from("/proc"),
            cgroup: PathBuf::from("/sys/fs/cgroup"),
            nvml: vec![PathBuf::from("libnvidia-ml.so.1"), PathBuf::from("/usr/lib/wsl/lib/libnvidia-ml.so.1")],
            nvidia_smi: vec![PathBuf::from("nvidia-smi"), PathBuf::from("/usr/bin/nvidia-smi")],
        }
    }
}

/// The first line of a small file.
fn line(path: &std::path::Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The number that a small file holds.
fn number(path: &std::path::Path) -> Option<u64> {
    line(path)?.parse().ok()
}

#[cfg(test)]
mod fixtures {
    use std::path::Path;

    use super::Roots;

    /// A host whose system tells what lies in `folder`, and that has no NVIDIA driver.
    pub(super) fn below(folder: &Path) -> Roots {
        let at = |name: &str| folder.join(name);
        Roots {
            drm: at("drm"),
            dev: at("dev"),
            proc: at("proc"),
            cgroup: at("cgroup"),
            nvml: Vec::new(),
            nvidia_smi: Vec::new(),
        }
    }

    /// The same with these files.
    pub(super) fn roots(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let scratch = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = scratch.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let roots = below(scratch.path());
        (scratch, roots)
    }
}
