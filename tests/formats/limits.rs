//! What the readers may take: memory for large hostile files, bytes of long headers.

use std::io::{Cursor, Read, Seek, SeekFrom};

use rbee_hive::format::gguf::{Depth, Header, TensorType, Writer};

use crate::inputs::INPUTS;
use crate::memory::peak_of;
use crate::support::written;

/// What a reader may hold for any file.
const MOST: usize = 64 << 20;

#[test]
fn no_file_makes_a_reader_hold_much() {
    for input in INPUTS {
        let file = input.file();
        let (told, peak) = peak_of(|| input.reader.read(&file));
        assert!(peak < MOST, "{}: {peak} bytes held", input.name);
        if let Err(line) = told {
            assert!(!line.chars().any(char::is_control) && line.len() < 500, "{}: {line:?}", input.name);
        }
    }
}

/// Counts what is read.
struct Counted<R>(R, u64);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(out)?;
        self.1 += count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

/// A model with so many tokens, whose header has an alignment and as many tensors as large models.
fn model(tokens: usize) -> Vec<u8> {
    let words = |word: &str, count: usize| (0..count).map(|n| format!("{word} {n:07}")).collect::<Vec<String>>();
    let mut writer = Writer::new("llama")
        .key("llama.block_count", 32_u32)
        .key("tokenizer.ggml.tokens", words("token", tokens))
        .key("tokenizer.ggml.scores", vec![0.5_f32; tokens])
        .key("tokenizer.ggml.token_type", vec![1_i32; tokens])
        .key("tokenizer.ggml.merges", words("merge", tokens));
    for tensor in 0..300 {
        writer = writer.tensor(&format!("blk.{}.attn_{tensor}.weight", tensor / 9), &[256, 2], TensorType::Q4_K);
    }
    written(&writer)
}

#[test]
fn no_more_than_the_header_and_a_buffer_is_read() {
    for tokens in [0, 1, 100, 3_000, 40_000, 150_000] {
        let mut bytes = model(tokens);
        bytes.resize(bytes.len() + (1 << 20), 0);
        let length = bytes.len() as u64;
        let mut previous = 0;
        for depth in [Depth::Start, Depth::Whole, Depth::Tensors] {
            let mut reader = Counted(Cursor::new(&bytes), 0);
            let (header, peak) = peak_of(|| Header::read(&mut reader, length, depth).unwrap());
            let end = header.layout.map_or(64 << 10, |layout| layout.start);
            assert_eq!(reader.1, header.bytes_read, "{tokens} tokens");
            assert!(reader.1 <= end + (128 << 10), "{tokens} tokens: {} bytes read, the header has {end}", reader.1);
            assert!(depth != Depth::Start || reader.1 <= 64 << 10, "{tokens} tokens: {} bytes read", reader.1);
            assert!(peak < 10 << 20, "{tokens} tokens: {peak} bytes held");
            assert!(reader.1 >= previous);
            previous = reader.1;
        }
    }
}
