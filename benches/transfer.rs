//! What a transfer costs beyond the plain loop that receives, hashes and writes.
//!
//! `cargo bench --bench transfer [-- --mib 2048 --rounds 5 --folder DIR]` serves a file on loopback and fetches it in turn with
//! a plain loop (which syncs once, at the end) and with [`rbee_hive::transfer::run`], each in a process of its own.
//! Only the ratios within a round mean anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use rbee_hive::model::{Algorithm, Digest, RemoteFile, RepoPath, Validator};
use rbee_hive::transfer::{Destination, EventSink, Hasher, Opening, Options, Request, Source, Staging, run};
use rbee_hive::{Error, Result};
use tokio_util::sync::CancellationToken;

const BLOCK: usize = 256 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    if let Some(role) = value("--role") {
        let (port, size) = (value("--port").unwrap(), value("--size").unwrap().parse().unwrap());
        let folder = PathBuf::from(value("--folder").unwrap());
        let start = Instant::now();
        match role.as_str() {
            "plain" => plain(&port, &folder),
            "touch" => touch(size),
            _ => transfer(&port, size, &value("--digest").unwrap(), &folder),
        }
        println!("{} {} {}", start.elapsed().as_secs_f64(), cpu_seconds(), peak_kib());
        return;
    }

    let size = value("--mib").map_or(2048, |mib| mib.parse::<u64>().unwrap()) * 1024 * 1024;
    let rounds = value("--rounds").map_or(5, |rounds| rounds.parse::<usize>().unwrap());
    let (port, digest) = serve(size);
    let base = value("--folder").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let scratch = tempfile::tempdir_in(base).unwrap();
    let mut rows: Vec<[[f64; 3]; 2]> = Vec::new();
    for round in 0..=rounds {
        let row = ["plain", "transfer"].map(|role| {
            let folder = scratch.path().join(role);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir(&folder).unwrap();
            measure("touch", port, size, &digest, &folder);
            measure(role, port, size, &digest, &folder)
        });
        // The first round warms up.
        if round > 0 {
            println!("{round}: plain {:.2?}  transfer {:.2?}", row[0], row[1]);
            rows.push(row);
        }
    }
    let median = |pick: &dyn Fn(&[[f64; 3]; 2]) -> f64| {
        let mut figures: Vec<f64> = rows.iter().map(pick).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    for (at, name) in ["plain loop", "transfer"].iter().enumerate() {
        let [wall, cpu, peak] = [0, 1, 2].map(|figure| median(&move |row| row[at][figure]));
        println!("{name:10}  wall {wall:6.2} s  cpu {cpu:6.2} s  peak {:5.1} MiB", peak / 1024.0);
    }
    let ratio = |figure: usize| median(&move |row| row[1][figure] / row[0][figure]);
    println!("transfer / plain loop: wall {:.2}  cpu {:.2}", ratio(0), ratio(1));
}

/// Wall and CPU seconds and peak memory in KiB of one fetch in a process of its own.
fn measure(role: &str, port: u16, size: u64, digest: &str, folder: &Path) -> [f64; 3] {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--role",
            role,
            "--port",
            &port.to_string(),
            "--size",
            &size.to_string(),
            "--digest",
            digest,
            "--folder",
        ])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().unwrap_or_else(|_| panic!("{role}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A server of one file of repeated bytes; gives its port and the file's digest.
fn serve(size: u64) -> (u16, String) {
    let mut state = 1u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(BLOCK)
    .collect();
    let mut hasher = Hasher::new(Algorithm::Sha256, size);
    for at in (0..size).step_by(BLOCK) {
        hasher.update(&block[..(size - at).min(BLOCK as u64) as usize]);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, block) = (stream.unwrap(), block.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n").unwrap();
                for at in (0..size).step_by(BLOCK) {
                    if stream.write_all(&block[..(size - at).min(BLOCK as u64) as usize]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, hasher.finish().to_string())
}

fn plain(port: &str, folder: &Path) {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::with_capacity(BLOCK, stream);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let mut file = File::create(folder.join("m")).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256, 0);
    let mut buffer = vec![0; BLOCK];
    loop {
        let read = reader.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).unwrap();
    }
    file.sync_data().unwrap();
    assert!(!hasher.finish().to_string().is_empty());
}

/// Makes the host of a virtual machine back the memory that the page cache will use: otherwise the first touch of each
/// page costs several times the write, and whichever row meets such pages loses.
fn touch(size: u64) {
    let mut memory = vec![0u8; usize::try_from(size).unwrap() / 2 * 3];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    assert_eq!(memory[0], 1);
}

struct Http(String);

impl Source for Http {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        _range: Range<u64>,
        _validator: Option<&'a Validator>,
    ) -> BoxFuture<'a, Result<Opening>> {
        async move {
            let failed =
                |error: reqwest::Error| Error::Unreachable { url: "loopback".into(), reason: error.to_string() };
            let _ = rustls::crypto::ring::default_provider().install_default();
            let answer = reqwest::Client::new().get(&self.0).send().await.map_err(failed)?;
            let stream = answer.bytes_stream().map_err(failed).boxed();
            Ok(Opening { from: 0, to: file.size, size: file.size, validator: None, stream })
        }
        .boxed()
    }
}

struct Folder(PathBuf);

impl Destination for Folder {
    fn folder(&self) -> &Path {
        &self.0
    }
    fn present(&self, _file: &RemoteFile) -> Result<Option<PathBuf>> {
        Ok(None)
    }
    fn staging(&self, _file: &RemoteFile) -> Staging {
        Staging { partial: self.0.join("m.llorch"), journal: self.0.join("m.llorch.json") }
    }
    fn stage(&self, file: &RemoteFile) -> Result<Staging> {
        Ok(self.staging(file))
    }
    fn publish(&self, _file: &RemoteFile, staging: &Staging) -> Result<PathBuf> {
        let path = self.0.join("m");
        rbee_hive::disk::publish::publish(&staging.partial, &path)?;
        Ok(path)
    }
    fn finish(&self, _files: &[RemoteFile]) -> Result<()> {
        Ok(())
    }
}

fn transfer(port: &str, size: u64, digest: &str, folder: &Path) {
    let file = RemoteFile {
        path: RepoPath::parse("m").unwrap(),
        size,
        digest: Digest::parse(digest),
        blob_id: None,
        xet_hash: None,
    };
    let request =
        Request { endpoint: "http://x".into(), repository: "a/b".into(), commit: "c".into(), files: vec![file] };
    let source: Arc<dyn Source> = Arc::new(Http(format!("http://127.0.0.1:{port}/")));
    let destination: Arc<dyn Destination> = Arc::new(Folder(folder.to_owned()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (options, events, cancel) = (Options::default(), Arc::new(|_| {}) as EventSink, CancellationToken::new());
    runtime.block_on(run(&request, &source, &destination, &options, &events, &cancel)).unwrap();
}
