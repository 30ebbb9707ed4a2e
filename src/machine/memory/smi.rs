//! The memory of NVIDIA's GPUs as `nvidia-smi` tells it, for drivers whose library is too old to be asked.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How long it may take; a sick GPU hangs it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether it has ended.
const TICK: Duration = Duration::from_millis(20);
/// More than it prints for as many GPUs as there are in any host.
const MAX_BYTES: u64 = 64 << 10;

/// All memory and what of it is free, by UUID; nothing where the program is not there, fails or hangs.
pub(super) fn memory(programs: &[PathBuf]) -> BTreeMap<String, (u64, u64)> {
    let told = |program| Some(parse(&ask(program)?)).filter(|told: &BTreeMap<_, _>| !told.is_empty());
    programs.iter().find_map(told).unwrap_or_default()
}

fn ask(program: impl AsRef<std::ffi::OsStr>) -> Option<String> {
    /// One that was asked before has not ended.
    static HANGS: AtomicBool = AtomicBool::new(false);
    if HANGS.load(Ordering::Relaxed) {
        return None;
    }
    let mut child = Command::new(program)
        .env_remove("HF_TOKEN")
        .env_remove("HUGGING_FACE_HUB_TOKEN")
        .env_remove("HF_ENDPOINT")
        .args(["--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let pipe = child.stdout.take();
    let reader = std::thread::Builder::new().name("nvidia-smi".to_owned()).spawn(move || {
        let mut text = String::new();
        // What it prints beyond that is not read, and it ends when the pipe closes.
        pipe?.take(MAX_BYTES).read_to_string(&mut text).ok().map(|_| text)
    });
    let begin = Instant::now();
    let ended = loop {
        // Looked at and not waited for: until then nobody else can get its number, which is that of its group.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(Pid::from_child(&child)), look) {
            Ok(None) if begin.elapsed() < PATIENCE => std::thread::sleep(TICK),
            Ok(ended) => break ended.is_some(),
            Err(_) => break false,
        }
    };
    // What it has started goes with it: that would keep the pipe open.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    if !ended {
        // One that hangs in the driver does not end by that either, so only a thread waits for it, and it is the last one until
        // then.
        HANGS.store(true, Ordering::Relaxed);
        let waiting = std::thread::Builder::new().name("nvidia-smi".to_owned()).spawn(move || {
            if child.wait().is_ok() {
                HANGS.store(false, Ordering::Relaxed);
            }
        });
        if let Err(error) = waiting {
            tracing::debug!("nobody waits for nvidia-smi: {error}");
        }
        return None;
    }
    let _ = child.wait();
    // A GPU that is lost makes it fail, and the lines of the others are right all the same.
    reader.ok()?.join().ok().flatten()
}

/// Lines of UUID, total and free in MiB. A figure that is none (`[N/A]`) leaves its GPU out.
fn parse(text: &str) -> BTreeMap<String, (u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ',').map(str::trim);
            let uuid = fields.next()?.to_owned();
            let mut mib = || fields.next()?.parse::<u64>().ok()?.checked_mul(1 << 20);
            Some((uuid, (mib()?, mib()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_none_leave_their_gpu_out() {
        let text = "GPU-a, 10, 4\nGPU-b, [N/A], 4\nGPU-c, 10\nNo devices were found\nGPU-d, 99999999999999999999, 1\n\
            GPU-e, 1, 18446744073709551615\n";
        assert_eq!(parse(text), BTreeMap::from([("GPU-a".to_owned(), (10 << 20, 4 << 20))]));
    }

    #[test]
    fn without_the_program_nothing_is_known() {
        assert_eq!(memory(&[PathBuf::from("/nonexistent/nvidia-smi")]), BTreeMap::new());
        assert_eq!(memory(&[]), BTreeMap::new());
    }
}
