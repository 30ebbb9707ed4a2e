//! Names that a person reads off `list` and types into another command.

#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::process::Command;

use support::program::{Bench, Ran, gguf};

fn with(files: &[&str]) -> Bench {
    let bench = Bench::new();
    for file in files {
        let path = bench.model(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, gguf(16, file)).unwrap();
    }
    bench
}

/// Runs with arguments that no shell splits.
fn run(bench: &Bench, arguments: &[&str]) -> Ran {
    let mut command: Command = bench.command("");
    command.args(arguments);
    bench.finish(command)
}

/// The folder of one alias with files of other names only: `qwen2.5-0.5b-instruct-q4_k_m.gguf` is not there.
fn files_of_others() -> Bench {
    with(&["qwen/qwen2.5-0.5b-instruct-fp16.gguf", "qwen/qwen2.5-0.5b-instruct-q8_0.gguf"])
}

#[test]
fn a_listed_folder_can_be_looked_at_by_its_name() {
    let bench = files_of_others();
    assert!(bench.run("list").expect(0).stdout.contains("qwen"));
    let info = bench.run("info qwen --json").expect(0).json();
    assert_eq!((info["id"].as_str(), info["file_count"].as_u64()), (Some("qwen"), Some(2)));
    let verified = bench.run("verify qwen --json").expect(0).json();
    assert_eq!(verified["models"][0]["files"].as_array().unwrap().len(), 2);
}

#[test]
fn a_name_never_deletes_files_of_other_names() {
    let bench = files_of_others();
    let before = bench.tree();
    for line in ["delete qwen --dry-run", "delete qwen --yes", "delete qwen --yes --force"] {
        let refused = bench.run(line).expect(1);
        let error = refused.error();
        assert!(
            error.contains("model 'qwen' not found") && error.contains("`flat:qwen` is the whole folder"),
            "{error}"
        );
        assert!(error.contains("the folder qwen holds F16"), "{error}");
    }
    assert_eq!(bench.tree(), before);
    bench.run("delete flat:qwen --yes").expect(0);
    assert!(!bench.model("qwen").exists());
}

#[test]
fn an_alias_still_means_its_own_file_only() {
    let bench = with(&["qwen/qwen2.5-0.5b-instruct-fp16.gguf", "qwen/qwen2.5-0.5b-instruct-q4_k_m.gguf"]);
    bench.run("delete qwen --yes").expect(0);
    assert!(bench.model("qwen/qwen2.5-0.5b-instruct-fp16.gguf").exists());
    assert!(!bench.model("qwen/qwen2.5-0.5b-instruct-q4_k_m.gguf").exists());
}

#[test]
fn a_missing_quantization_is_told_with_those_that_are_here() {
    let bench = with(&["mine/a-Q4_K_M.gguf", "mine/a-Q8_0.gguf"]);
    for line in ["delete mine:q5_0 --dry-run", "info mine:q5_0", "verify mine:q5_0", "delete flat:mine:q5_0 --dry-run"]
    {
        let refused = bench.run(line).expect(1);
        assert!(refused.error().contains("flat:mine has: Q4_K_M, Q8_0"), "{line}: {refused:?}");
    }
    assert!(
        bench
            .run("delete nothing:q5_0 --dry-run")
            .expect(1)
            .error()
            .ends_with("`llorch-models list` shows what is here")
    );
}

#[test]
fn a_label_of_a_header_selects_only_what_has_none_in_its_name() {
    // All of them say Q4_K_M in their headers.
    let bench = Bench::new();
    for path in ["m/model.gguf", "m/model-UD-Q4_K_XL.gguf", "only/m-Q8_0.gguf"] {
        support::stores::put(bench.model(path), &support::stores::small_gguf(15, 16, path.len() as u64));
    }
    for line in ["delete only:Q4_K_M --yes", "verify only:Q4_K_M", "info only:Q4_K_M"] {
        bench.run(line).expect(1);
    }
    bench.run("delete m:Q4_K_M --yes").expect(0);
    assert!(!bench.model("m/model.gguf").exists() && bench.model("m/model-UD-Q4_K_XL.gguf").exists());
    bench.run("delete m:Q4_K_M --yes").expect(1);
    assert!(bench.model("m/model-UD-Q4_K_XL.gguf").exists() && bench.model("only/m-Q8_0.gguf").exists());
}

#[test]
fn what_the_official_client_leaves_of_a_folder_elsewhere_makes_no_name_ambiguous() {
    let bench = with(&["org/name/a-Q4_K_M.gguf", "org/other/a-Q4_K_M.gguf"]);
    for name in ["name", "other"] {
        let metadata = bench.model(&format!("org/{name}/.cache/huggingface/download/a-Q4_K_M.gguf.metadata"));
        support::stores::put(metadata, b"c\ne\n1\n");
    }
    let hub = bench.scratch.path().join("home/.cache/huggingface/hub/models--org--name");
    support::stores::put(hub.join("refs/main"), "c".repeat(40).as_bytes());
    for line in ["info org/name", "info org/name:Q4_K_M", "delete org/name --dry-run", "info hf:org/name"] {
        bench.run(line).expect(0);
    }
    bench.run("delete org/name:Q4_K_M --yes").expect(0);
    assert!(!bench.model("org/name").exists() && bench.model("org/other/a-Q4_K_M.gguf").exists());
}

#[test]
fn a_name_as_it_is_shown_is_taken_back() {
    let bench = with(&["bad\u{1b}[31mname/a-Q4_0.gguf", "two\nlines/a-Q4_0.gguf", "back\\slash/a-Q4_0.gguf"]);
    let listed = bench.run("list").expect(0).stdout;
    for (shown, id) in
        [("bad\\u{1b}[31mname", "bad\u{1b}[31mname"), ("two\\nlines", "two\nlines"), ("back\\slash", "back\\slash")]
    {
        assert!(listed.contains(shown), "{listed}");
        for name in [shown.to_owned(), format!("flat:{shown}")] {
            let info = run(&bench, &["info", &name, "--json"]).expect(0).json();
            assert_eq!(info["id"], id, "{name}");
        }
    }
    assert!(run(&bench, &["info", "..\\u{2f}x"]).expect(1).error().contains("invalid reference"));
}

#[test]
fn in_the_cache_a_label_of_a_header_selects_as_in_a_folder() {
    let bench = Bench::new();
    // Both say Q4_K_M in their headers.
    for (path, seed) in [("weights.gguf", 1), ("weights-Q8_0.gguf", 2)] {
        support::stores::put(bench.hub.root().join("org/q").join(path), &support::stores::small_gguf(15, 16, seed));
    }
    bench.run("download org/q --to hf --file *.gguf").expect(0);
    let listed = bench.run("list --json").expect(0).json();
    let mut selects: Vec<&str> =
        listed["models"][0]["selects"].as_array().unwrap().iter().filter_map(|label| label.as_str()).collect();
    selects.sort_unstable();
    assert_eq!(selects, ["Q4_K_M", "Q8_0"]);
    for line in ["verify hf:org/q:Q4_K_M --json", "verify org/q:Q4_K_M --json"] {
        let verified = bench.run(line).expect(0).json();
        let files = verified["models"][0]["files"].as_array().unwrap();
        assert_eq!(files.iter().map(|file| file["path"].as_str().unwrap()).collect::<Vec<_>>(), ["weights.gguf"]);
    }
    let info = bench.run("info hf:org/q:Q4_K_M --json").expect(0).json();
    assert_eq!(info["file_count"], 1, "{info}");
    bench.run("delete hf:org/q:Q5_0 --yes").expect(1);
    bench.run("delete hf:org/q:Q4_K_M --yes").expect(0);
    let left = bench.run("verify hf:org/q --json").expect(0).json();
    let files = left["models"][0]["files"].as_array().unwrap();
    assert_eq!(files.iter().map(|file| file["path"].as_str().unwrap()).collect::<Vec<_>>(), ["weights-Q8_0.gguf"]);
    // With the last of them everything goes.
    bench.run("delete hf:org/q:Q8_0 --yes").expect(0);
    assert!(!bench.scratch.path().join("home/.cache/huggingface/hub/models--org--q").exists());
}

#[test]
fn names_that_differ_in_the_case_of_their_ending_are_two_models() {
    let bench = with(&["loose.gguf", "loose.GGUF", "in/two.gguf", "in/two.GGUF"]);
    let listed = bench.run("list --json").expect(0).json();
    let rows = listed["models"].as_array().unwrap();
    let mut ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["in", "loose.GGUF", "loose.gguf"]);
    for id in ["loose.gguf", "loose.GGUF"] {
        let info = bench.run(&format!("info {id} --json")).expect(0).json();
        assert_eq!((info["id"].as_str(), info["file_count"].as_u64()), (Some(id), Some(1)));
    }
    bench.run("delete loose.GGUF --yes").expect(0);
    assert!(bench.model("loose.gguf").exists() && !bench.model("loose.GGUF").exists());
}
