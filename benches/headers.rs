//! Reading headers: the long one of a large vocabulary, many tensors, many files.
//!
//! `cargo bench --bench headers` prints what each takes beside a plain reader that walks keys and tensors and checks nothing;
//! `cargo bench --bench headers -- FILE` also leaves the long header in FILE, for other readers. One of those is the crate ggus
//! 0.5.1, `GGuf::new` over a map of the file: 2.9 ms on a machine where this reader took 0.7 and the plain one 1.6.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rbee_hive::format::gguf::{Depth, Header, TensorType, Value, Writer};
use rbee_hive::format::{read_metadata, read_summary};

const RUNS: usize = 31;

fn main() {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let scratch = tempfile::tempdir().unwrap();
    let long = path.map_or_else(|| scratch.path().join("long.gguf"), Into::into);
    let length = write_long(&long);
    println!("header of {:.2} MB: 150,000 tokens, scores, types, merges; 300 tensors", length as f64 / 1e6);
    let floor = time("plain reader", || plain(&File::open(&long).unwrap()));
    let ours = time("this reader, every tensor kept", || {
        let file = File::open(&long).unwrap();
        let bytes = file.metadata().unwrap().len();
        let header = Header::read(&file, bytes, Depth::Tensors).unwrap();
        assert_eq!(header.tensors.len(), 300);
        assert!(header.bytes_read <= length + (128 << 10), "{} bytes read", header.bytes_read);
        header.tensors.len()
    });
    println!("  {:.2} times the plain reader", ours.as_secs_f64() / floor.as_secs_f64());
    time("this reader, as the table wants it", || {
        read_metadata(&File::open(&long).unwrap(), "m.gguf").unwrap().tensors
    });
    time("the first 64 KiB of it", || read_summary(&File::open(&long).unwrap(), "m.gguf").unwrap().layers);

    let many = scratch.path().join("many.gguf");
    write_many(&many, 131_072);
    println!("131,072 tensors, {:.1} MB", many.metadata().unwrap().len() as f64 / 1e6);
    let slowest = time("in order", || read_metadata(&File::open(&many).unwrap(), "m.gguf").unwrap().tensors);
    println!("  {}", if slowest < Duration::from_millis(50) { "under 50 ms" } else { "over 50 ms" });
}

fn time<T>(what: &str, mut run: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(run());
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("  {what}: {:.3} ms, at best {:.3} ms", times[RUNS / 2].as_secs_f64() * 1e3, times[0].as_secs_f64() * 1e3);
    times[RUNS / 2]
}

fn write_long(path: &Path) -> u64 {
    let tokens: Vec<String> = (0..150_000).map(|n| format!("token {n:09}")).collect();
    let merges: Vec<String> = (0..120_000).map(|n| format!("mer {n:08}")).collect();
    let mut writer = Writer::new("llama")
        .key("llama.block_count", 32_u32)
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.scores", vec![0.5_f32; 150_000])
        .key("tokenizer.ggml.token_type", vec![1_i32; 150_000])
        .key("tokenizer.ggml.merges", merges)
        .key("tokenizer.chat_template", Value::from("{{ messages }}"));
    for tensor in 0..300 {
        writer = writer.tensor(&format!("blk.{}.attn_{tensor}.weight", tensor / 9), &[4096, 16], TensorType::Q4_K);
    }
    let mut file = File::create(path).unwrap();
    writer.write_to(&mut file, 1).unwrap();
    let length = file.metadata().unwrap().len();
    let header = Header::read(File::open(path).unwrap(), length, Depth::Whole).unwrap();
    header.layout.unwrap().start
}

fn write_many(path: &Path, tensors: u64) {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    out.extend_from_slice(b"GGUF\x03\0\0\0");
    out.extend_from_slice(&tensors.to_le_bytes());
    out.extend_from_slice(&0_u64.to_le_bytes());
    for tensor in 0..tensors {
        text(&mut out, &format!("{tensor}"));
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&8_u64.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        // Every second pair is exchanged, so that they have to be sorted.
        let place = if tensor % 2 == 0 { (tensor + 1).min(tensors - 1) } else { tensor - 1 };
        out.extend_from_slice(&(place * 32).to_le_bytes());
    }
    let mut file = File::create(path).unwrap();
    file.write_all(&out).unwrap();
    file.set_len(out.len() as u64 + 64 + tensors * 32).unwrap();
}

/// Walks every key and tensor through one buffer of 64 KiB, passes over arrays, and believes everything.
fn plain(file: &File) -> u64 {
    let mut input = Plain { file, buffer: vec![0; 64 << 10], at: 0, end: 0 };
    input.skip(8);
    let (tensors, keys) = (input.u64(), input.u64());
    for _ in 0..keys {
        let length = input.u64();
        input.skip(length);
        let kind = input.u32();
        input.value(kind);
    }
    let mut last = 0;
    for _ in 0..tensors {
        let length = input.u64();
        input.skip(length);
        let dimensions = u64::from(input.u32());
        input.skip(dimensions * 8 + 4);
        last = input.u64();
    }
    last
}

struct Plain<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Plain<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        while self.end - self.at < N {
            self.buffer.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
            let count = self.file.read(&mut self.buffer[self.end..]).unwrap();
            assert!(count > 0);
            self.end += count;
        }
        self.at += N;
        self.buffer[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn skip(&mut self, count: u64) {
        let here = (self.end - self.at) as u64;
        if count <= here {
            self.at += count as usize;
        } else {
            self.file.seek(SeekFrom::Current((count - here) as i64)).unwrap();
            (self.at, self.end) = (0, 0);
        }
    }

    fn value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => {
                let length = self.u64();
                self.skip(length);
            }
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                match kind {
                    0 | 1 | 7 => self.skip(count),
                    2 | 3 => self.skip(count * 2),
                    4..=6 => self.skip(count * 4),
                    10..=12 => self.skip(count * 8),
                    _ => (0..count).for_each(|_| self.value(kind)),
                }
            }
            _ => panic!("type {kind}"),
        }
    }
}
