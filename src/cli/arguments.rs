//! What may stand on the command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::builder::styling::{Effects, Styles};
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::exit::Exit;
use crate::config::{Overrides, When};
use crate::model::filter::{Filter, SortKey};
use crate::model::memory::CacheType;
use crate::model::size::tokens;
use crate::model::{Bytes, Certainty, DestinationKind, StoreKind, text};
use crate::provisioner::OUTPUT_TYPES;

const AFTER_HELP: &str = "\
Without a command the models of this host are shown on the whole terminal.

REFERENCE is an alias of the catalog (tinyllama), a folder, org/name, or the page of a model on the hub, each with
:QUANT and/or @REVISION. Commands about models that are here also take STORE:ID.

Data goes to standard output, everything else to standard error.
Exit codes: 0 done, 1 failed, 2 wrong usage, 64 no terminal, 129/130/143 ended by HUP, INT, TERM.";

/// Models on this host: see them, fetch them, verify them, delete them and get the bytes back.
#[derive(Debug, Parser)]
#[command(name = "llorch-models", version, after_help = AFTER_HELP, styles = STYLES, max_term_width = 100)]
pub struct Arguments {
    /// What to do; none is the screen.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
}

const STYLES: Styles = Styles::plain()
    .header(clap::builder::styling::Style::new().effects(Effects::BOLD))
    .usage(clap::builder::styling::Style::new().effects(Effects::BOLD));

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Base folder of the models
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub models_dir: Option<PathBuf>,
    /// The store with this root, where there are several of a kind
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub store_path: Option<PathBuf>,
    /// Also every user's stores at their default places, as far as they can be read
    #[arg(long, global = true, help_heading = "Global options")]
    pub all_users: bool,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Base address of the hub
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub endpoint: Option<String>,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, help_heading = "Global options")]
    pub color: Option<Color>,
    /// Borders and marks of ASCII characters only
    #[arg(long, global = true, help_heading = "Global options")]
    pub ascii: bool,
    /// Note what happens in this file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub log_file: Option<PathBuf>,
    /// Tell more: the chain of causes, and with a log file its details
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

impl Global {
    /// What of it overrides settings.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            models_dir: self.models_dir.clone(),
            endpoint: self.endpoint.clone(),
            color: self.color.map(Into::into),
            ascii: self.ascii.then_some(true),
            all_users: self.all_users,
            ..Overrides::default()
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

impl From<Color> for When {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// When a download leaves the link to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Courtesy {
    /// In an SSH session.
    Auto,
    /// Everywhere.
    Always,
    /// Not at all.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the models that are here
    List(List),
    /// Fetch a model, or the rest of it
    Download(Download),
    /// Convert a safetensors model that is here to GGUF, with llama.cpp's converter
    Convert(Convert),
    /// Show everything about a model
    Info(Info),
    /// Check models against their checksums
    Verify(Verify),
    /// Delete models
    Delete(Delete),
    /// Remove what nothing can use any more: unfinished downloads, orphans, dangling links
    Sweep(Sweep),
    /// Show what the models take on disk
    DiskUsage(Plain),
    /// Show the short names of well-known models
    Catalog(Plain),
    /// Search the hub
    Search(Search),
    /// Show which models have changed on the hub
    Updates(Updates),
    /// Try the screen on a throwaway store with a hub of its own: no network, no risk
    Demo,
    /// Write the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Run a converter that ends when the program that started it does; for the program itself
    #[command(hide = true)]
    Supervise {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Ask NVIDIA's driver for its GPUs; for the program itself
    #[command(hide = true)]
    Gpus,
}

/// `list`.
#[derive(Args, Debug)]
pub struct List {
    /// Only this kind of store
    #[arg(long, value_name = "KIND", value_parser = store_kind)]
    pub store: Vec<StoreKind>,
    /// Only models for which this holds: words of the name, size>10G, age>30d, store:hf, quant:q4, kind:dataset,
    /// owner:alice, mount:/data, fits (fits:gpu, fits:cpu, fits:no, fits:unknown), idle, damaged, duplicate, protected;
    /// several at once, each must hold
    #[arg(long, value_name = "EXPR", value_parser = Filter::parse)]
    pub filter: Vec<Filter>,
    /// The order
    #[arg(long, value_name = "KEY", value_parser = sort_key, default_value = "name")]
    pub sort: SortKey,
    /// Look which processes hold the models
    #[arg(long)]
    pub in_use: bool,
    /// Say whether they fit into the memory that is free now
    #[arg(long)]
    pub fit: bool,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `download`.
#[derive(Args, Debug)]
pub struct Download {
    /// What to fetch
    pub reference: String,
    /// Only files whose whole path matches; * crosses /, "*" is the whole repository
    #[arg(long, value_name = "GLOB")]
    pub file: Vec<String>,
    /// Where to: flat is the models folder, hf the Hugging Face cache
    #[arg(long, value_name = "STORE", value_parser = destination)]
    pub to: Option<DestinationKind>,
    /// Also the vision projector (mmproj) that a GGUF model loads beside its weights
    #[arg(long)]
    pub mmproj: bool,
    /// Fetch also what is there already
    #[arg(long)]
    pub force: bool,
    /// Bytes per second, like 50M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit: Option<Bytes>,
    /// Connections at most; how many are used is measured
    #[arg(long, value_name = "N", value_parser = connections)]
    pub connections: Option<usize>,
    /// When to leave the link to others while it fills up; auto is in an SSH session
    #[arg(long, value_name = "WHEN", value_enum)]
    pub courtesy: Option<Courtesy>,
    /// One line of JSON for every event
    #[arg(long)]
    pub json: bool,
}

/// `convert`.
#[derive(Args, Debug)]
pub struct Convert {
    /// The model
    pub reference: String,
    /// What the weights become; f16 if nothing is said
    #[arg(long = "outtype", value_name = "TYPE", value_parser = clap::builder::PossibleValuesParser::new(OUTPUT_TYPES))]
    pub output_type: Option<String>,
    /// Convert also what was converted already
    #[arg(long)]
    pub force: bool,
    /// One line of JSON for every event
    #[arg(long)]
    pub json: bool,
}

/// `info`.
#[derive(Args, Debug)]
pub struct Info {
    /// The model
    pub reference: String,
    /// Whether it fits with this many tokens of context: 8192, 32k (1k is 1024), 1M [default: what it was trained for, at
    /// most 8192]
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    pub context: Option<u64>,
    /// Whether it fits with this type of the cache of keys and values: f16, q8_0, … [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub cache_type: Option<CacheType>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `verify`.
#[derive(Args, Debug)]
pub struct Verify {
    /// The models
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "REFERENCE")]
    pub reference: Vec<String>,
    /// Every model that is here
    #[arg(long)]
    pub all: bool,
    /// Presence, sizes and headers only; read no weights
    #[arg(long)]
    pub quick: bool,
    /// Do not read again what was found right and has not changed since
    #[arg(long, conflicts_with = "quick")]
    pub changed: bool,
    /// Read at most so many bytes per second, like 200M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit: Option<Bytes>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// The models
    #[arg(required = true)]
    pub reference: Vec<String>,
    /// Show what would go, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Also what is in use, what another model links to, and the rest where something cannot go
    #[arg(long)]
    pub force: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

const SWEEP_HELP: &str = "\
How sure it is that nobody misses an item:
  certain   no program can use it any more
  likely    nothing uses it; a download would begin anew, or fetch it again
  possible  somebody may want it, and nothing on disk can tell: revisions without a branch or tag, what was put
            there within the last hour with an old date, links to a disk that may not be mounted
What is certain or likely is taken. What is open, locked, younger than an hour, in the queue, on the protect list, of
a kind that is not known, or in a folder that cannot be read in full, is never offered.";

/// `sweep`.
#[derive(Args, Debug)]
#[command(after_help = SWEEP_HELP)]
pub struct Sweep {
    /// Show what would go, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Take what is at least this sure: certain, likely or possible
    #[arg(long, value_name = "CERTAINTY", value_parser = certainty, default_value = Certainty::USUAL.name())]
    pub certainty: Certainty,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `search`.
#[derive(Args, Debug)]
pub struct Search {
    /// Words that each must be in the name
    #[arg(required = true)]
    pub query: Vec<String>,
    /// Most hits to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Also their sizes and whether they fit: a few more requests a hit, for its files and one header
    #[arg(long)]
    pub files: bool,
    /// Whether they fit with this many tokens of context: 8192, 32k (1k is 1024), 1M; with --files
    #[arg(long, value_name = "TOKENS", value_parser = tokens, requires = "files")]
    pub context: Option<u64>,
    /// Whether they fit with this type of the cache of keys and values: f16, q8_0, …; with --files
    #[arg(long, value_name = "TYPE", requires = "files")]
    pub cache_type: Option<CacheType>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `updates`.
#[derive(Args, Debug)]
pub struct Updates {
    /// The models; all that came from a hub if none is named
    pub reference: Vec<String>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A command without arguments of its own.
#[derive(Args, Debug)]
pub struct Plain {
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Reads arguments. Help and version are printed here, and so is what is wrong, in one line.
///
/// # Errors
/// How the program ends instead.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, Exit> {
    Arguments::try_parse_from(arguments).map_err(|error| {
        if error.use_stderr() {
            let _ = writeln!(io::stderr().lock(), "llorch-models: {}", usage_line(&error));
            return Exit::Usage;
        }
        // Help into a pipe that is closed is no error.
        let _ = error.print();
        Exit::Done
    })
}

/// clap's first paragraph as one line, and the way out.
fn usage_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let paragraph = rendered.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    format!("{}; see `llorch-models --help`", text::printable(words.join(" ").trim_end_matches('.')))
}

fn store_kind(text: &str) -> Result<StoreKind, String> {
    text.parse()
}

fn destination(text: &str) -> Result<DestinationKind, String> {
    text.parse()
}

fn certainty(text: &str) -> Result<Certainty, String> {
    text.parse()
}

fn sort_key(text: &str) -> Result<SortKey, String> {
    SortKey::ALL.into_iter().find(|key| key.name() == text).ok_or_else(|| {
        let names: Vec<&str> = SortKey::ALL.iter().map(|key| key.name()).collect();
        format!("use one of {}", names.join(", "))
    })
}

fn connections(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=64).contains(count)).ok_or_else(|| "give a number from 1 to 64".to_owned())
}

fn rate(text: &str) -> Result<Bytes, String> {
    Bytes::parse(text)
        .filter(|rate| rate.0 > 0)
        .ok_or_else(|| "give bytes per second, like 500k, 50M or 1.5G".to_owned())
}

/// The definition, for completions and the manual page.
pub(super) fn definition() -> clap::Command {
    use clap::CommandFactory;
    Arguments::command().color(ColorChoice::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn tokens_are_counted_as_in_the_names_of_models() {
        assert_eq!((tokens("8192"), tokens("32k"), tokens("1K")), (Ok(8192), Ok(32_768), Ok(1024)));
        assert_eq!((tokens("1M"), tokens("1m"), tokens("1000k")), (Ok(1 << 20), Ok(1 << 20), Ok(1_024_000)));
        for wrong in ["", "k", "M", "0", "-1", "32kk", "1.5k", "1000000001", "1000M", "18446744073709551615k", "8ä"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for line in [
            "llorch-models list --host gpu02",
            "llorch-models list --store nosuch",
            "llorch-models list --sort colour",
            "llorch-models download x --detach",
            "llorch-models download x --to ollama",
            "llorch-models download x --limit 0",
            "llorch-models sweep --certainty maybe",
            "llorch-models verify",
            "llorch-models verify x --all",
            "llorch-models verify x --quick --changed",
            "llorch-models delete",
            "llorch-models list --filter size>",
        ] {
            let arguments = line.split(' ').map(OsString::from);
            let error = Arguments::try_parse_from(arguments).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            let said = usage_line(&error);
            assert!(!said.contains('\n') && said.ends_with("see `llorch-models --help`"), "{said}");
        }
    }
}
