//! The example program does what it says.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::path::PathBuf;

use support::hub::TestHub;

/// Built with the tests, unless one test file alone was asked for.
fn example() -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent()?.parent()?.join("examples/download");
    program.exists().then_some(program)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_downloads_several_models_and_tells_what_fails() {
    let Some(example) = example() else {
        eprintln!("skipped: the example is not built; cargo test --all-targets builds it");
        return;
    };
    let hub = TestHub::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| hub.put_noise(&format!("org/{name}-GGUF"), "m-Q8_0.gguf", 300_000));
    let mut command = std::process::Command::new(example);
    command
        .env_clear()
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HOME", scratch.path())
        .arg(scratch.path().join("models"));
    command.args(["org/one-GGUF", "org/two-GGUF:Q8_0", "org/none-GGUF"]);
    let ran = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.status.code(), Some(1), "one of them is nowhere: {out}{said}");
    assert!(said.contains("org/none-GGUF: repository 'org/none-GGUF' not found"), "{said}");
    for (name, bytes) in ["one", "two"].iter().zip(&files) {
        let path = scratch.path().join(format!("models/{name}-gguf/m-Q8_0.gguf"));
        assert!(std::fs::read(&path).unwrap() == *bytes, "{name}");
        assert!(out.contains(&format!(" is at {}, 300000 bytes fetched", path.display())), "{out}");
    }
}
