//! Large hostile files: each as expensive for its reader as the limits allow, or a claim beyond them.
//!
//! The tests hold the readers to the memory that they may take for them, `cargo bench --bench hostile` prints the time.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rbee_hive::format::card::Card;
use rbee_hive::format::config_json::Config;
use rbee_hive::format::gguf::{Depth, Header};
use rbee_hive::format::safetensors::Index;
use rbee_hive::format::tokenizer::{Extent, Tokenizer, TokenizerConfig};
use rbee_hive::format::{read_metadata, read_summary};

/// Who reads a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Weights(&'static str),
    Tensors,
    Index,
    Config,
    Tokenizer,
    TokenizerConfig,
    Card,
}

impl Reader {
    /// Reads a file in the way of a scan, and tells what is wrong with it.
    pub fn read(self, mut file: &File) -> Result<(), String> {
        file.seek(SeekFrom::Start(0)).unwrap();
        match self {
            Self::Weights(name) => {
                let _ = read_summary(file, name);
                read_metadata(file, name).map(drop)
            }
            Self::Tensors => {
                let length = file.metadata().unwrap().len();
                Header::read(file, length, Depth::Tensors).map(drop).map_err(|error| error.to_string())
            }
            Self::Index => Index::read(file).map(drop),
            Self::Config => Config::read(file).map(drop),
            Self::Tokenizer => {
                let _ = Tokenizer::read(file, Extent::Start);
                file.seek(SeekFrom::Start(0)).unwrap();
                Tokenizer::read(file, Extent::Whole).map(drop)
            }
            Self::TokenizerConfig => TokenizerConfig::read(file).map(drop),
            Self::Card => Card::read(file).map(drop),
        }
    }
}

/// A hostile file: what it is, who reads it, and how it is made.
pub struct Input {
    pub name: &'static str,
    pub reader: Reader,
    pub write: fn(&mut Out),
}

impl Input {
    /// The file, which has no name.
    pub fn file(&self) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut out = Out { file: std::io::BufWriter::with_capacity(1 << 20, file), length: 0 };
        (self.write)(&mut out);
        let file = out.file.into_inner().unwrap();
        if let Some(length) = Some(out.length).filter(|length| *length > 0) {
            file.set_len(length).unwrap();
        }
        file
    }
}

/// A file that is being written.
pub struct Out {
    file: std::io::BufWriter<File>,
    /// How long it is to be in the end; 0 leaves it as it is.
    length: u64,
}

impl Out {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.file.write_all(bytes).unwrap();
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn string(&mut self, text: &[u8]) -> &mut Self {
        self.u64(text.len() as u64).raw(text)
    }

    fn repeat(&mut self, bytes: &[u8], times: usize) -> &mut Self {
        (0..times).for_each(|_| {
            self.raw(bytes);
        });
        self
    }

    fn gguf(&mut self, tensors: u64, keys: u64) -> &mut Self {
        self.raw(b"GGUF").u32(3).u64(tensors).u64(keys)
    }

    /// Tensors of 8 numbers, every second pair exchanged, so that they have to be sorted.
    fn tensors(&mut self, count: u64, name: impl Fn(u64) -> Vec<u8>) {
        for tensor in 0..count {
            let place = if tensor % 2 == 0 { (tensor + 1).min(count - 1) } else { tensor - 1 };
            self.string(&name(tensor)).u32(1).u64(8).u32(0).u64(place * 32);
        }
    }

    /// A safetensors file with that many entries.
    fn entries(&mut self, count: u64, entry: impl Fn(u64) -> String) {
        self.safetensors(|out| {
            out.raw(b"{");
            for n in 0..count {
                out.raw(if n == 0 { b"" } else { b"," }).raw(entry(n).as_bytes());
            }
            out.raw(b"}");
        });
    }

    /// A JSON header of about so many bytes, behind its length.
    fn safetensors(&mut self, write: impl FnOnce(&mut Self)) {
        self.u64(0);
        write(self);
        self.file.flush().unwrap();
        let length = self.file.get_ref().metadata().unwrap().len() - 8;
        self.file.get_ref().write_all_at(&length.to_le_bytes(), 0).unwrap();
        self.length = length + 8 + (1 << 20);
    }
}

/// An entry of a safetensors header, without its name.
fn one(dtype: &str, shape: &str, begin: u64, length: u64) -> String {
    format!("{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{}]}}", begin + length)
}

const GGUF: Reader = Reader::Weights("model.gguf");
const SAFETENSORS: Reader = Reader::Weights("model.safetensors");
/// What crate safetensors takes at most.
const LONGEST: usize = 100_000_000;

/// Numbers that look random.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

/// All of them.
pub const INPUTS: &[Input] = &[
    Input {
        name: "gguf: a million tensors",
        reader: GGUF,
        write: |out| {
            out.gguf(1_000_000, 0).tensors(1_000_000, |n| n.to_string().into_bytes());
        },
    },
    Input {
        name: "gguf: 262,144 tensors out of order",
        reader: GGUF,
        write: |out| {
            out.gguf(262_144, 0).tensors(262_144, |n| n.to_string().into_bytes());
            out.length = 32 << 20;
        },
    },
    Input {
        name: "gguf: 65,536 tensors out of order",
        reader: GGUF,
        write: |out| {
            out.gguf(65_536, 0).tensors(65_536, |n| n.to_string().into_bytes());
            out.length = 32 << 20;
        },
    },
    Input {
        name: "gguf: tensors with names of 65,535 bytes, all kept",
        reader: Reader::Tensors,
        write: |out| {
            out.gguf(8_000, 0).tensors(8_000, |n| format!("{n:065535}").into_bytes());
        },
    },
    Input {
        name: "gguf: tensors with names of no text, all kept",
        reader: Reader::Tensors,
        write: |out| {
            out.gguf(200_000, 0).tensors(200_000, |n| [&n.to_le_bytes()[..], &[0xff; 600]].concat());
        },
    },
    Input {
        name: "gguf: 16 million empty texts",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 2).string(b"a").u32(9).u32(8).u64(1 << 24).repeat(&[0; 1 << 20], 128);
            out.string(b"b").u32(9).u32(8).u64(1 << 24).repeat(&[0; 1 << 20], 128);
        },
    },
    Input {
        name: "gguf: texts of one byte, as many as a header has room for",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 1).string(b"a").u32(9).u32(8).u64(4_000_000);
            out.repeat(b"\x01\0\0\0\0\0\0\0x", 4_000_000);
        },
    },
    Input {
        name: "gguf: arrays of arrays of arrays",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 60);
            for key in 0..60 {
                out.string(format!("{key}").as_bytes()).u32(9).u32(9).u64(1);
                out.u32(9).u64(65_536).repeat(b"\0\0\0\0\x01\0\0\0\0\0\0\0\x07", 65_536);
            }
        },
    },
    Input {
        name: "gguf: 65,536 keys",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 65_536);
            for key in 0..65_536_u32 {
                out.string(format!("general.key.{key}").as_bytes()).u32(4).u32(key);
            }
        },
    },
    Input {
        name: "gguf: 65,536 keys of 65,535 bytes",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 65_536);
            for key in 0..2_000_u32 {
                out.string(format!("{key:065535}").as_bytes()).u32(4).u32(key);
            }
            out.length = 8 << 30;
        },
    },
    Input {
        name: "gguf: lists of 4,096 numbers",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 4_000);
            for key in 0..4_000 {
                out.string(format!("{key}").as_bytes()).u32(9).u32(10).u64(4_096).repeat(&[7; 4_096], 8);
            }
        },
    },
    Input {
        name: "gguf: texts of 2 MiB in a file of holes",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 60_000);
            out.file.flush().unwrap();
            let mut at = 24;
            for key in 0..60_000_u64 {
                let head = [
                    &4_u64.to_le_bytes()[..],
                    format!("{key:04x}").get(..4).unwrap().as_bytes(),
                    &[8, 0, 0, 0],
                    &(2_u64 << 20).to_le_bytes(),
                ]
                .concat();
                out.file.get_ref().write_all_at(&head, at).unwrap();
                at += head.len() as u64 + (2 << 20);
            }
            out.length = at;
        },
    },
    Input {
        name: "gguf: a header of holes",
        reader: GGUF,
        write: |out| {
            out.gguf(0, 60_000).string(b"k").u32(9).u32(0).u64(1 << 30);
            out.length = 1 << 40;
        },
    },
    Input {
        name: "gguf: random bytes",
        reader: GGUF,
        write: |out| {
            out.gguf(1_000, 1_000).raw(&noise(32 << 20));
        },
    },
    Input {
        name: "gguf: zeros",
        reader: GGUF,
        write: |out| {
            out.gguf(262_144, 65_536).repeat(&[0; 1 << 20], 64);
        },
    },
    Input {
        name: "safetensors: 100 MB of {",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.repeat(&[b'{'; 1_000], LONGEST / 1_000);
            });
        },
    },
    Input {
        name: "safetensors: 100 MB of [",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"a\":").repeat(&[b'['; 1_000], LONGEST / 1_000 - 1);
            });
        },
    },
    Input {
        name: "safetensors: 100 MB of {\"a\":",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.repeat(&b"{\"a\":".repeat(200), LONGEST / 1_000);
            });
        },
    },
    Input {
        name: "safetensors: 100 MB of white space",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{").repeat(&[b' '; 1_000], LONGEST / 1_000 - 1).raw(b"}");
            });
        },
    },
    Input {
        name: "safetensors: 24 MB of white space",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{").repeat(&[b' '; 1_000], 24_000).raw(b"}");
            });
        },
    },
    Input {
        name: "safetensors: a number of 24 MB",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"a\":{\"dtype\":\"F32\",\"shape\":[").repeat(&[b'1'; 1_000], 24_000);
                out.raw(b"],\"data_offsets\":[0,4]}}");
            });
        },
    },
    Input {
        name: "safetensors: a name of 24 MB",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"")
                    .repeat(&[b'n'; 1_000], 24_000)
                    .raw(b"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
            });
        },
    },
    Input {
        name: "safetensors: a remark of 90 MB",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"__metadata__\":{\"a\":\"").repeat(&[b'n'; 1_000], 90_000).raw(b"\"}}");
            });
        },
    },
    Input {
        name: "safetensors: a remark of 24 MB, escaped",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"__metadata__\":{\"a\":\"").repeat(&b"\\u00e9".repeat(100), 40_000).raw(b"\"}}");
            });
        },
    },
    Input {
        name: "safetensors: a name of 24 MB, escaped",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"").repeat(&b"\\n".repeat(100), 120_000).raw(b"\":{}}");
            });
        },
    },
    Input {
        name: "safetensors: 24 MB of remarks, escaped",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"__metadata__\":{\"a\":\"").repeat(&b"\\n".repeat(100), 120_000).raw(b"\"}}");
            });
        },
    },
    Input {
        name: "safetensors: a million remarks",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"__metadata__\":{\"a\":\"b\"");
                (0..1_000_000).for_each(|n| {
                    out.raw(format!(",\"{n}\":\"b\"").as_bytes());
                });
                out.raw(b"}}");
            });
        },
    },
    Input {
        name: "safetensors: a million tensors",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{");
                for n in 0..1_000_000 {
                    let comma = if n == 0 { "" } else { "," };
                    out.raw(
                        format!("{comma}\"{n}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{n},{}]}}", n + 1)
                            .as_bytes(),
                    );
                }
                out.raw(b"}");
            });
        },
    },
    Input {
        name: "safetensors: 100,000 tensors out of order",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{");
                for n in (0..100_000_u32).rev() {
                    let name = format!("model.layers.{}.mlp.experts.{n}.down_proj.weight", n % 61);
                    let comma = if n == 0 { "" } else { "," };
                    out.raw(
                        format!(
                            "\"{name}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{n},{}]}}{comma}",
                            n + 1
                        )
                        .as_bytes(),
                    );
                }
                out.raw(b"}");
            });
        },
    },
    Input {
        name: "safetensors: 100,000 tensors",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| {
                format!("\"model.layers.{}.mlp.experts.{}.w\":{}", n % 100, n / 100, one("F32", "1", n * 4, 4))
            });
        },
    },
    Input {
        name: "safetensors: 131,000 tensors of no size",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(131_000, |n| format!("\"{n}\":{}", one("U8", "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 tensors of no size",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| format!("\"{n}\":{}", one("U8", "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 tensors of unknown type",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| format!("\"{n}\":{}", one("X", "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 unknown types",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| format!("\"{n}\":{}", one(&format!("X{n}"), "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 unknown types of long names",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| format!("\"{n}\":{}", one(&format!("{n:0100}"), "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 300,000 shuffled names",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(300_000, |n| format!("\"{:07}\":{}", n * 7_919 % 300_000, one("U8", "0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 tensors of 16 dimensions",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| format!("\"{n}\":{}", one("U8", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0", 0, 0)));
        },
    },
    Input {
        name: "safetensors: 100,000 packed tensors with their scales",
        reader: SAFETENSORS,
        write: |out| {
            out.entries(100_000, |n| {
                let leaf = ["weight", "weight_scale"][n as usize % 2];
                format!("\"model.layers.{}.mlp.experts.{}.{leaf}\":{}", n % 61, n / 2, one("U8", "1,1", n, 1))
            });
        },
    },
    Input {
        name: "safetensors: a million keys of one tensor",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{\"a\":{");
                for n in 0..1_500_000 {
                    out.raw(format!("\"k{n}\":0,").as_bytes());
                }
                out.raw(b"\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
            });
        },
    },
    Input {
        name: "safetensors: long shapes",
        reader: SAFETENSORS,
        write: |out| {
            out.safetensors(|out| {
                out.raw(b"{");
                let shape = vec!["1"; 32].join(",");
                for n in 0..100_000_u32 {
                    let comma = if n == 0 { "" } else { "," };
                    out.raw(
                        format!(
                            "{comma}\"{n}\":{{\"dtype\":\"U8\",\"shape\":[{shape}],\"data_offsets\":[{n},{}]}}",
                            n + 1
                        )
                        .as_bytes(),
                    );
                }
                out.raw(b"}");
            });
        },
    },
    Input {
        name: "index: a million entries",
        reader: Reader::Index,
        write: |out| {
            out.raw(b"{\"weight_map\":{\"a\":\"b\"");
            (0..1_000_000).for_each(|n| {
                out.raw(format!(",\"{n}\":\"m\"").as_bytes());
            });
            out.raw(b"}}");
        },
    },
    Input {
        name: "index: 100,000 entries",
        reader: Reader::Index,
        write: |out| {
            out.raw(b"{\"weight_map\":{\"a\":\"b\"");
            for n in 0..100_000 {
                out.raw(
                    format!(
                        ",\"model.layers.{}.mlp.experts.{n}.down_proj.weight\":\"model-{:05}-of-00163.safetensors\"",
                        n / 1_000,
                        n / 1_000
                    )
                    .as_bytes(),
                );
            }
            out.raw(b"}}");
        },
    },
    Input {
        name: "index: a file for each of 65,000 tensors",
        reader: Reader::Index,
        write: |out| {
            out.raw(b"{\"weight_map\":{\"a\":\"b\"");
            (0..65_000).for_each(|n| {
                out.raw(format!(",\"{n}\":\"{n:0200}\"").as_bytes());
            });
            out.raw(b"}}");
        },
    },
    Input {
        name: "index: a name of 60 MB",
        reader: Reader::Index,
        write: |out| {
            out.raw(b"{\"weight_map\":{\"").repeat(&[b'n'; 1_000], 60_000).raw(b"\":\"b\"}}");
        },
    },
    Input {
        name: "index: 64 MB of [",
        reader: Reader::Index,
        write: |out| {
            out.raw(b"{\"metadata\":").repeat(&[b'['; 1_000], 64_000);
        },
    },
    Input {
        name: "config: 8 GB",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"a\":\"").length = 8 << 30;
        },
    },
    Input {
        name: "config: 8 MB of [",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"text_config\":").repeat(&[b'['; 1_000], 8_000);
        },
    },
    Input {
        name: "config: a number of 8 MB",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"num_hidden_layers\":").repeat(&[b'1'; 1_000], 8_000).raw(b"}");
        },
    },
    Input {
        name: "config: 8 MB of labels",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"text_config\":{\"id2label\":{\"a\":1");
            (0..500_000).for_each(|n| {
                out.raw(format!(",\"{n}\":\"x\"").as_bytes());
            });
            out.raw(b"}}}");
        },
    },
    Input {
        name: "config: 8 MB of kinds of layers",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"layer_types\":[\"a\"").repeat(&b",\"\"".repeat(100), 26_000).raw(b"]}");
        },
    },
    Input {
        name: "config: 8 MB of architectures",
        reader: Reader::Config,
        write: |out| {
            out.raw(b"{\"architectures\":[\"a\"").repeat(&b",\"\"".repeat(100), 26_000).raw(b"]}");
        },
    },
    Input {
        name: "tokenizer: a vocabulary of 39 MB",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0");
            (0..2_200_000).for_each(|n| {
                out.raw(format!(",\"{n}\":{n}").as_bytes());
            });
            out.raw(b"}}}");
        },
    },
    Input {
        name: "tokenizer: 262,144 tokens and 514,906 merges",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"added_tokens\":[],\"model\":{\"type\":\"BPE\",\"vocab\":{\n      \"a\": 0");
            (0..262_144).for_each(|n| {
                out.raw(format!(",\n      \"token{n}\": {n}").as_bytes());
            });
            out.raw(b"},\"merges\":[\"a b\"");
            (0..514_906).for_each(|n| {
                out.raw(format!(",\n      [\n        \"tok{n}\",\n        \"en{n}\"\n      ]").as_bytes());
            });
            out.raw(b"]}}");
        },
    },
    Input {
        name: "tokenizer: a vocabulary of 39 MB of empty texts",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0")
                .repeat(&b",\"\":0".repeat(100), 78_000)
                .raw(b"}}}");
        },
    },
    Input {
        name: "tokenizer: pieces of 39 MB",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.0]")
                .repeat(&b",[\"\",0]".repeat(100), 55_000)
                .raw(b"]}}");
        },
    },
    Input {
        name: "tokenizer: texts of many lengths in 39 MB of rules",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"added_tokens\":null,\"rules\":[0");
            let lengths = noise(2_600_000);
            for length in lengths {
                out.raw(b",\"").raw(&b"xxxxxxxxxxxxxxxxxxxxx"[..usize::from(length % 21)]).raw(b"\"");
            }
            out.raw(b"]}");
        },
    },
    Input {
        name: "tokenizer: merges of 39 MB before anything else",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"model\":{\"merges\":[[]").repeat(&b",[\"ab\",\"cdefg\"]".repeat(100), 24_000).raw(b"]}}");
        },
    },
    Input {
        name: "tokenizer: 39 MB of escapes",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"a\":\"").repeat(&b"\\n".repeat(500), 39_000).raw(b"\"}");
        },
    },
    Input {
        name: "tokenizer: 39 MB of keys",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"a\":0").repeat(&b",\"\\n\":0".repeat(100), 54_000).raw(b"}");
        },
    },
    Input {
        name: "tokenizer: a million added tokens",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"added_tokens\":[{}");
            (0..1_000_000).for_each(|n| {
                out.raw(format!(",{{\"id\":{n},\"content\":\"<{n}>\",\"special\":true}}").as_bytes());
            });
            out.raw(b"],\"model\":{}}");
        },
    },
    Input {
        name: "tokenizer: a text of 39 MB",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"a\":\"").repeat(&[b'x'; 1_000], 39_000).raw(b"\",\"model\":{}}");
        },
    },
    Input {
        name: "tokenizer: 60 MB of [",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{\"model\":{\"vocab\":").repeat(&[b'['; 1_000], 60_000);
        },
    },
    Input {
        name: "tokenizer: 39 MB of white space",
        reader: Reader::Tokenizer,
        write: |out| {
            out.raw(b"{").repeat(&[b' '; 1_000], 39_000).raw(b"}");
        },
    },
    Input {
        name: "tokenizer configuration: 15 MB of tokens",
        reader: Reader::TokenizerConfig,
        write: |out| {
            out.raw(b"{\"added_tokens_decoder\":{\"0\":{}");
            (0..300_000).for_each(|n| {
                out.raw(format!(",\"{n}\":{{\"content\":\"<{n}>\",\"special\":true}}").as_bytes());
            });
            out.raw(b"},\"chat_template\":\"x\"}");
        },
    },
    Input {
        name: "tokenizer configuration: a template of 15 MB",
        reader: Reader::TokenizerConfig,
        write: |out| {
            out.raw(b"{\"chat_template\":\"").repeat(&[b'x'; 1_000], 15_000).raw(b"\"}");
        },
    },
    Input {
        name: "card: 8 GB",
        reader: Reader::Card,
        write: |out| {
            out.raw(b"---\nlicense: mit\nbase_model:\n").repeat(b"- org/model\n", 30_000).raw(b"---\n").length =
                8 << 30;
        },
    },
];
