//! `tokenizer.json` and `tokenizer_config.json`: which tokenizer a model has, and whether it is one to chat with.
//!
//! Sources of the formats: the crate tokenizers (`Tokenizer::save`) and transformers (`PreTrainedTokenizerBase.save_pretrained`).

use std::fs::File;
use std::io::Read;

use super::Metadata;
use super::json::is_cut;
use super::scanner::{Scanner, Stop};
use super::warnings::shortened;
use crate::model::Format;

/// What comes before the vocabulary: rules and added tokens, a few hundred KB at most.
const LONGEST_START: u64 = 4 << 20;
/// The largest published vocabularies with their merges are 35 MB.
const LONGEST: u64 = 40 << 20;
/// `tokenizer_config.json` may list every added token, and has the chat template: a few MB.
const LONGEST_CONFIG: u64 = 16 << 20;
/// Added tokens; real tokenizers have under 10,000.
const MOST_ADDED: u64 = 65_536;
/// Tokens; the largest published vocabulary has 901,629.
const MOST_TOKENS: u64 = 1 << 20;
/// Longest text that is kept.
const LONGEST_TEXT: usize = 200;
/// Special tokens that are named.
const NAMED: usize = 8;

/// How much of `tokenizer.json` is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What comes before the vocabulary, which is most of the file.
    Start,
    /// The vocabulary as well, so that the tokens are counted. The merges after it are not read.
    Whole,
}

/// What `tokenizer.json` tells. What was not read is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tokenizer {
    /// `model.type`: `BPE`, `Unigram`, `WordPiece`, `WordLevel`.
    pub kind: Option<String>,
    /// Tokens, added ones with them.
    pub vocabulary: Option<u64>,
    /// How many of the added tokens are special.
    pub special: Option<u64>,
    /// The first of them, made printable.
    pub special_tokens: Vec<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` from a file, at whose start `reader` stands. Nothing of the vocabulary is kept.
    ///
    /// # Errors
    /// A line that says what is wrong with what was read: too long, or no JSON object.
    pub fn read(reader: impl Read, extent: Extent) -> Result<Self, String> {
        let most = match extent {
            Extent::Start => LONGEST_START,
            Extent::Whole => LONGEST,
        };
        let mut told = Self::default();
        let (mut added, mut tokens, mut rules) = (Vec::new(), None, false);
        let read = Scanner::new(reader, most).object(|scanner, key| match key {
            "added_tokens" if scanner.next_byte()? == b'[' => {
                (told.special, rules) = (Some(0), true);
                let mut count = 0;
                scanner.list(|scanner| {
                    count += 1;
                    if count > MOST_ADDED {
                        return Err(Stop::Damaged("more added tokens than any tokenizer has".to_owned()));
                    }
                    told.added(scanner, &mut added)
                })
            }
            "model" if scanner.next_byte()? == b'{' => scanner.object(|scanner, key| match key {
                "type" => {
                    told.kind = scanner.text_value(LONGEST_TEXT)?.map(|kind| shortened(&kind, LONGEST_TEXT));
                    Ok(())
                }
                "vocab" if extent == Extent::Start => Err(Stop::Enough),
                "vocab" => {
                    tokens = Some(scanner.count(MOST_TOKENS)?);
                    // What its writers put behind it are merges, two thirds of the file.
                    if rules && told.kind.is_some() { Err(Stop::Enough) } else { Ok(()) }
                }
                _ => scanner.skip(),
            }),
            _ => scanner.skip(),
        });
        match read {
            Ok(()) | Err(Stop::Enough) => {}
            // Rules of any length may come first.
            Err(Stop::Limit) if extent == Extent::Start => {}
            Err(Stop::Limit) => return Err(format!("larger than {most} bytes")),
            Err(Stop::Damaged(why)) => return Err(why),
        }
        // Most added tokens have a place in the vocabulary, too.
        told.vocabulary = tokens.map(|tokens| {
            let more = added.iter().filter(|id| **id >= tokens).count() as u64;
            tokens.saturating_add(more)
        });
        Ok(told)
    }

    /// Reads `tokenizer.json`, at whose start `file` stands, and looks at its end, too.
    pub(crate) fn of_file(file: &File, extent: Extent) -> Result<Self, String> {
        let told = Self::read(file, extent)?;
        if is_cut(file) { Err("malformed JSON: it ends too early".to_owned()) } else { Ok(told) }
    }

    fn added<R: Read>(&mut self, scanner: &mut Scanner<R>, ids: &mut Vec<u64>) -> Result<(), Stop> {
        if scanner.next_byte()? != b'{' {
            return scanner.skip();
        }
        let (mut content, mut special) = (None, false);
        let room = self.special_tokens.len() < NAMED;
        scanner.object(|scanner, key| {
            match key {
                "id" => {
                    ids.extend(scanner.word_value()?.number());
                }
                "content" if room => content = scanner.text_value(LONGEST_TEXT)?,
                "special" => special = scanner.word_value()?.is("true"),
                _ => scanner.skip()?,
            }
            Ok(())
        })?;
        if special {
            self.special = self.special.map(|count| count + 1);
            self.special_tokens.extend(content.map(|content| shortened(&content, 40)));
        }
        Ok(())
    }

    /// As the metadata of a model of which nothing else is known.
    pub(crate) fn into_metadata(self) -> Metadata {
        let mut metadata = Metadata::unknown(Format::Safetensors);
        metadata.tokenizer = self.kind;
        metadata.shape.vocabulary = self.vocabulary;
        metadata.special_tokens = self.special_tokens;
        metadata
    }
}

/// What `tokenizer_config.json` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenizerConfig {
    /// `tokenizer_class`: the class of transformers.
    pub class: Option<String>,
    /// Whether `chat_template` is there: a text, or a list of named ones.
    pub chat_template: bool,
    /// `bos_token`, `eos_token` and their kin, made printable.
    pub special_tokens: Vec<String>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json`, or `chat_template.json`, which has the template alone, from a file, at whose start
    /// `reader` stands. The template is neither kept nor rendered.
    ///
    /// # Errors
    /// A line that says what is wrong: too long, or no JSON object.
    pub fn read(reader: impl Read) -> Result<Self, String> {
        let mut told = Self::default();
        let read = Scanner::new(reader, LONGEST_CONFIG).object(|scanner, key| match key {
            "chat_template" => {
                told.chat_template = is_there(scanner)?;
                Ok(())
            }
            "tokenizer_class" => {
                told.class = scanner.text_value(LONGEST_TEXT)?.map(|class| shortened(&class, LONGEST_TEXT));
                Ok(())
            }
            "bos_token" | "eos_token" | "unk_token" | "pad_token" | "sep_token" | "cls_token" | "mask_token" => {
                let token = token(scanner)?.filter(|token| !token.is_empty()).map(|token| shortened(&token, 40));
                if let Some(token) = token
                    && !told.special_tokens.contains(&token)
                    && told.special_tokens.len() < NAMED
                {
                    told.special_tokens.push(token);
                }
                Ok(())
            }
            _ => scanner.skip(),
        });
        match read {
            Ok(()) | Err(Stop::Enough) => Ok(told),
            Err(Stop::Limit) => Err(format!("larger than {LONGEST_CONFIG} bytes")),
            Err(Stop::Damaged(why)) => Err(why),
        }
    }

    /// As the metadata of a model of which nothing else is known.
    pub(crate) fn into_metadata(self) -> Metadata {
        let mut metadata = Metadata::unknown(Format::Safetensors);
        metadata.tokenizer = self.class.filter(|class| !class.is_empty());
        metadata.chat_template = Some(self.chat_template);
        metadata.special_tokens = self.special_tokens;
        metadata
    }
}

/// A token: a text, or an object with its content.
fn token<R: Read>(scanner: &mut Scanner<R>) -> Result<Option<String>, Stop> {
    if scanner.next_byte()? != b'{' {
        return scanner.text_value(LONGEST_TEXT);
    }
    let mut content = None;
    scanner.object(|scanner, key| {
        if key == "content" {
            content = scanner.text_value(LONGEST_TEXT)?;
            return Ok(());
        }
        scanner.skip()
    })?;
    Ok(content)
}

/// Whether the next value is a text, a list or an object, and not empty.
fn is_there<R: Read>(scanner: &mut Scanner<R>) -> Result<bool, Stop> {
    match scanner.next_byte()? {
        // A text of any length is none that is kept, and not empty.
        b'"' => Ok(scanner.short_text(16)?.is_none_or(|text| !text.is_empty())),
        b'[' | b'{' => Ok(scanner.count(u64::MAX)? > 0),
        _ => scanner.skip().map(|()| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BPE: &str = r#"{"version":"1.0","truncation":null,
        "added_tokens":[{"id":0,"content":"<s>","single_word":false,"special":true},{"id":1,"content":"</s>","special":true},
                        {"id":4,"content":"<tool>","special":false},{"id":5,"content":"<|im\u005fend|>","special":true}],
        "normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"[\"{]\\p{N}"}}]},
        "model":{"type":"BPE","dropout":null,"vocab":{"<s>":0,"</s>":1,"a":2,"b\"}":3},"merges":["a b",["b","a"]]}}"#;

    #[test]
    fn a_tokenizer_tells_its_kind_its_tokens_and_its_special_ones() {
        let whole = Tokenizer::read(BPE.as_bytes(), Extent::Whole).unwrap();
        assert_eq!((whole.kind.as_deref(), whole.vocabulary, whole.special), (Some("BPE"), Some(6), Some(3)));
        assert_eq!(whole.special_tokens, ["<s>", "</s>", "<|im_end|>"]);
        let start = Tokenizer::read(BPE.as_bytes(), Extent::Start).unwrap();
        assert_eq!(start, Tokenizer { vocabulary: None, ..whole });
    }

    #[test]
    fn what_comes_before_the_vocabulary_is_all_that_a_scan_reads() {
        struct Counted(usize);
        impl Read for Counted {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                const HEAD: &[u8] = br#"{"model":{"type":"Unigram","unk_id":0,"vocab":["#;
                for (at, byte) in out.iter_mut().enumerate() {
                    *byte = HEAD.get(self.0 + at).copied().unwrap_or(b' ');
                }
                self.0 += out.len();
                Ok(out.len())
            }
        }
        let mut endless = Counted(0);
        let told = Tokenizer::read(&mut endless, Extent::Start).unwrap();
        assert_eq!(told.kind.as_deref(), Some("Unigram"));
        assert!(endless.0 <= 16 << 10, "{}", endless.0);
        assert!(Tokenizer::read(Counted(0), Extent::Whole).unwrap_err().starts_with("larger than"));
    }

    #[test]
    fn lists_of_pieces_are_counted() {
        let unigram = r#"{"model":{"type":"Unigram","vocab":[["<unk>",0.0],["a",-1.5e3],["]",-2]]}}"#;
        let told = Tokenizer::read(unigram.as_bytes(), Extent::Whole).unwrap();
        assert_eq!((told.kind.as_deref(), told.vocabulary, told.special), (Some("Unigram"), Some(3), None));
    }

    #[test]
    fn merges_are_not_read_and_vocabularies_beyond_any_are_refused() {
        let merges = format!("{},[ what is never looked at", BPE.split_once(",[\"b").unwrap().0);
        assert_eq!(Tokenizer::read(merges.as_bytes(), Extent::Whole), Tokenizer::read(BPE.as_bytes(), Extent::Whole));
        let vocabulary = |tokens: usize| format!("{{\"model\":{{\"vocab\":[0{}]}}}}", ",0".repeat(tokens - 1));
        let read = |tokens: usize| Tokenizer::read(vocabulary(tokens).as_bytes(), Extent::Whole);
        assert_eq!(read(1 << 20).unwrap().vocabulary, Some(1 << 20));
        assert!(read((1 << 20) + 1).unwrap_err().contains("more entries than any model has"));
    }

    #[test]
    fn a_file_that_is_cut_behind_what_is_read_is_told() {
        let read = |text: &str, extent| {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            Tokenizer::of_file(&file, extent)
        };
        for extent in [Extent::Start, Extent::Whole] {
            assert!(read(BPE, extent).is_ok());
            assert!(read(&format!("{BPE}\n{}", " ".repeat(200)), extent).is_ok());
            for cut in ["[\"b\"", "]]", ","] {
                let (start, _) = BPE.rsplit_once(cut).unwrap();
                assert!(read(start, extent).unwrap_err().contains("ends too early"), "{start}");
            }
        }
    }

    #[test]
    fn texts_of_any_length_end_where_they_end() {
        for length in 0..100 {
            for inner in ["", "\\\"", "\\u005c", "\\\\", "é", "\u{7f}\u{80}"] {
                let text = format!("{}{inner}{}", "!".repeat(length), "#".repeat(length % 9));
                let json =
                    format!("{{\"{text}\":[\"{text}\",{{\"{text}\":\"{text}\"}}],\"model\":{{\"type\":\"{text}\"}}}}");
                let told = Tokenizer::read(json.as_bytes(), Extent::Whole).unwrap();
                let kind: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
                assert_eq!(told.kind, Some(shortened(&kind, LONGEST_TEXT)));
            }
            for control in ["\n", "\0", "\u{1f}"] {
                let json = format!("{{\"a\":\"{}{control}{}\"}}", "x".repeat(length), "x".repeat(length % 9));
                let told = Tokenizer::read(json.as_bytes(), Extent::Whole);
                assert!(told.unwrap_err().contains("control character"), "{json:?}");
            }
        }
    }

    #[test]
    fn every_cut_is_told() {
        let read = BPE.find(",\"merges").unwrap();
        for end in 0..BPE.len() {
            assert_eq!(Tokenizer::read(&BPE.as_bytes()[..end], Extent::Whole).is_err(), end < read, "cut at {end}");
        }
        // What follows is read where something is still wanted.
        for wanted in ["added_tokens", "type"] {
            let other = BPE.replace(wanted, "other");
            assert!(Tokenizer::read(other.as_bytes(), Extent::Whole).is_ok(), "{wanted}");
            for end in 0..other.len() {
                assert!(Tokenizer::read(&other.as_bytes()[..end], Extent::Whole).is_err(), "{wanted}: cut at {end}");
            }
        }
        for text in ["", "[]", "7", "{]", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{\"model\":{\"vocab\":{1:2}}}", "\u{1}"] {
            assert!(Tokenizer::read(text.as_bytes(), Extent::Whole).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(Tokenizer::read(deep.as_bytes(), Extent::Whole).unwrap_err().contains("nested too deeply"));
    }

    #[test]
    fn a_chat_template_is_a_text_or_a_list_of_named_ones() {
        for (text, is) in [
            (r#"{"chat_template":"{{ messages }} and more"}"#, true),
            (r#"{"chat_template":[{"name":"default","template":"x"}]}"#, true),
            (r#"{"chat_template":{"default":"x"}}"#, true),
            (r#"{"chat_template":""}"#, false),
            (r#"{"chat_template":[]}"#, false),
            (r#"{"chat_template":null,"model_max_length":1e30}"#, false),
            ("{}", false),
        ] {
            assert_eq!(TokenizerConfig::read(text.as_bytes()).unwrap().chat_template, is, "{text}");
        }
        assert!(TokenizerConfig::read(std::io::repeat(b'[')).is_err());
        assert!(TokenizerConfig::read(std::io::repeat(b' ')).unwrap_err().starts_with("larger than"));
        let config = r#"{"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"pad_token":"</s>","unk_token":null,
            "tokenizer_class":"LlamaTokenizer"}"#;
        let told = TokenizerConfig::read(config.as_bytes()).unwrap();
        assert_eq!(told.class.as_deref(), Some("LlamaTokenizer"));
        assert_eq!(told.special_tokens, ["<s>", "</s>"]);
    }
}
