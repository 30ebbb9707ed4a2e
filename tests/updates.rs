//! What `updates` tells to do is what brings a model to the commit of its branch.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use support::program::{Bench, gguf};

const REPOSITORY: &str = "org/M-GGUF";

/// The commands that `updates` ends with, without the program's name.
fn commands(bench: &Bench) -> Vec<String> {
    let ran = bench.run("updates").expect(0);
    let told = ran.stderr.lines().filter_map(|line| line.strip_prefix("to update: llorch-models "));
    told.map(str::to_owned).collect()
}

/// Does what is told, and is told nothing after that.
fn follow(bench: &Bench) -> String {
    let [command] = &commands(bench)[..] else { panic!("{:?}", bench.run("updates")) };
    let ran = bench.run(command).expect(0);
    assert_eq!(commands(bench), Vec::<String>::new(), "{command}: {ran:?}");
    assert_eq!(bench.run("updates --json").expect(0).json(), serde_json::json!([]));
    command.clone()
}

#[test]
fn the_command_fetches_what_is_new_and_nothing_is_listed_after_it() {
    let bench = Bench::new();
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &gguf(8, "old"));
    bench.run("download org/M-GGUF").expect(0);
    let new = gguf(16, "new");
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &new);
    assert!(bench.run("download org/M-GGUF").expect(0).stderr.contains("it was there already"), "a commit is pinned");
    assert_eq!(follow(&bench), "download org/M-GGUF@main");
    assert_eq!(fs::read(bench.model("m-gguf/m-Q4_K_M.gguf")).unwrap(), new);
}

#[test]
fn the_command_takes_what_is_here_and_not_the_default() {
    let bench = Bench::new();
    for name in ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        bench.hub.put(REPOSITORY, name, &gguf(8, name));
    }
    bench.run("download org/M-GGUF:Q8_0").expect(0);
    bench.hub.put(REPOSITORY, "m-Q8_0.gguf", &gguf(9, "new"));
    assert_eq!(follow(&bench), "download org/M-GGUF:Q8_0@main");
    bench.run("download org/M-GGUF:Q4_K_M").expect(0);
    bench.hub.put(REPOSITORY, "m-Q8_0.gguf", &gguf(10, "newer"));
    assert_eq!(follow(&bench), "download org/M-GGUF@main --file m-Q4_K_M.gguf --file m-Q8_0.gguf");
    // Another file of the repository: there is nothing to fetch, and the commit is noted.
    bench.hub.put(REPOSITORY, "README.md", b"other words");
    assert!(bench.run("updates").expect(0).stdout.contains("nothing"));
    follow(&bench);
}

#[test]
fn a_cache_row_tells_what_would_be_fetched() {
    let bench = Bench::new();
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &gguf(8, "old"));
    bench.run("download org/M-GGUF --to hf").expect(0);
    bench.hub.put(REPOSITORY, "m-Q4_K_M.gguf", &gguf(8, "new"));
    let update = bench.run("updates --json").expect(0).json()[0].clone();
    assert_eq!((update["store"].as_str(), update["files"].as_array().unwrap().len()), (Some("hf"), 1), "{update}");
    assert_eq!(update["fetch_bytes"], gguf(8, "new").len(), "{update}");
    assert_eq!(follow(&bench), "download org/M-GGUF@main --to hf");
}

#[test]
fn a_set_under_new_names_is_something_to_fetch() {
    let bench = Bench::new();
    let set = "org/set";
    bench.hub.put(set, "config.json", b"{\"model_type\":\"llama\"}");
    let weights = |length: usize| {
        let header = format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[0,{length}]}}}}");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + length, 7);
        bytes
    };
    bench.hub.put(set, "model.safetensors", &weights(100));
    bench.run("download org/set --to hf").expect(0);
    bench.hub.put(set, "tokenizer.json", b"{}");
    let update = bench.run("updates --json").expect(0).json()[0].clone();
    assert_eq!(
        (update["files"][0]["path"].as_str(), update["fetch_bytes"].as_u64()),
        (Some("tokenizer.json"), Some(2))
    );
    assert_eq!(follow(&bench), "download org/set@main --to hf");
}
