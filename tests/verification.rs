//! Verification through the program: what is remembered, what is said of sources that do not agree, sets of shards.
#![cfg(all(feature = "cli", feature = "tui"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rbee_hive::config::VerifySettings;
use rbee_hive::format::gguf::{TensorType, Writer};
use rbee_hive::model::{FileStatus, ModelId, StoreKind};
use rbee_hive::provisioner::{Inventory, PlanTarget};
use rbee_hive::store::Store;
use rbee_hive::store::hf::HfStore;
use rbee_hive::store::verify::{Depth, Progress};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::hf_cache::{Cache, commit, noise};
use support::hub::{Fault, What};
use support::program::Bench;
use tokio_util::sync::CancellationToken;

fn writer() -> Writer {
    Writer::new("llama").tensor("a", &[32, 8], TensorType::F32).tensor("b", &[32, 8], TensorType::F32)
}

fn gguf() -> Vec<u8> {
    let mut bytes = Vec::new();
    writer().write_to(&mut bytes, 1).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fetched() -> Bench {
    let bench = Bench::new();
    bench.hub.put("org/M-GGUF", "m-Q4_K_M.gguf", &gguf());
    bench.run("download org/M-GGUF").expect(0);
    bench
}

const FILE: &str = "m-gguf/m-Q4_K_M.gguf";

fn file<'a>(verified: &'a Value, path: &str) -> &'a Value {
    let files = verified["models"][0]["files"].as_array().unwrap();
    files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {verified}"))
}

fn row(bench: &Bench) -> Value {
    bench.run("list --json").expect(0).json()["models"][0].clone()
}

/// Changes a byte and puts back the times that a program can put back.
fn rot(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(file.metadata().unwrap().ino(), before.ino());
}

#[test]
fn a_download_is_remembered_and_a_changed_file_is_read_again() {
    let bench = fetched();
    assert!(row(&bench)["verified"].is_string(), "it was verified as it came: {}", row(&bench));
    assert!(bench.run("info m-gguf --json").expect(0).json()["verified"].is_string());
    let changed = bench.run("verify m-gguf --changed --json").expect(0).json();
    let note = file(&changed, "m-Q4_K_M.gguf")["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("unchanged since it was verified"), "{note}");
    let full = bench.run("verify m-gguf --json").expect(0).json();
    assert!(file(&full, "m-Q4_K_M.gguf")["note"].is_null(), "every byte is read: {full}");

    // The change time gives away what the modification time does not.
    rot(&bench.model(FILE));
    assert!(row(&bench)["verified"].is_null());
    let changed = bench.run("verify m-gguf --changed --json").expect(1).json();
    assert_eq!(file(&changed, "m-Q4_K_M.gguf")["status"], "corrupt");
    let damaged = row(&bench);
    assert_eq!(damaged["complete"], false);
    assert!(damaged["warnings"].to_string().contains("m-Q4_K_M.gguf is corrupt"), "{damaged}");
    // Mended, the damage is forgotten.
    bench.run("download org/M-GGUF --force").expect(0);
    let mended = row(&bench);
    assert!(mended["verified"].is_string() && !mended["warnings"].to_string().contains("corrupt"), "{mended}");
}

#[test]
fn a_plain_verification_believes_no_memory_and_a_new_file_is_not_covered() {
    let bench = fetched();
    fs::write(bench.model("m-gguf/extra.json"), b"{}").unwrap();
    assert!(row(&bench)["verified"].is_null(), "a file that came later is not verified");
    bench.run("verify m-gguf").expect(0);
    assert!(row(&bench)["verified"].is_string());
    let state = bench.scratch.path().join("home/.local/state/llorch-models");
    let memory = walkdir::WalkDir::new(state).into_iter().flatten();
    let memory = memory.map(walkdir::DirEntry::into_path).find(|path| path.ends_with("verified.json")).unwrap();
    fs::write(&memory, b"not JSON").unwrap();
    bench.run("verify m-gguf --changed").expect(0);
    assert!(row(&bench)["verified"].is_string(), "what cannot be read is replaced");
}

#[test]
fn sources_that_do_not_agree_are_named() {
    let bench = fetched();
    let sidecar = bench.model("m-gguf/.cache/huggingface/download/m-Q4_K_M.gguf.metadata");
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(60);
    fs::write(&sidecar, format!("{}\n{}\n{}\n", "c".repeat(40), "ab".repeat(32), later.as_secs())).unwrap();
    let verified = bench.run("verify m-gguf --json").expect(1).json();
    let check = file(&verified, "m-Q4_K_M.gguf");
    assert_eq!(
        (check["status"].as_str(), check["expected"].as_str()),
        (Some("corrupt"), Some("ab".repeat(32).as_str()))
    );
    let note = check["note"].as_str().unwrap();
    assert!(note.contains("the record") && note.contains("the sidecar"), "{note}");
    assert_eq!(check["actual"], hex(&gguf()).as_str());
    let text = bench.run("verify m-gguf").expect(1).stdout;
    assert!(text.contains("do not agree"), "{text}");
}

#[test]
fn checksum_files_that_people_keep_are_compared() {
    let bench = Bench::new();
    let studio = bench.models().with_file_name("home").join(".lmstudio/models/pub/copied");
    for (id, folder) in [("flat:copied", bench.model("copied")), ("lmstudio:pub/copied", studio)] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("m-Q4_K_M.gguf"), gguf()).unwrap();
        let verify =
            |code| file(&bench.run(&format!("verify {id} --json")).expect(code).json(), "m-Q4_K_M.gguf").clone();
        let sums = folder.join("SHA256SUMS");
        fs::write(&sums, format!("{}  m-Q4_K_M.gguf\n", hex(&gguf()))).unwrap();
        assert_eq!(verify(0)["status"], "ok");
        fs::write(&sums, format!("{}  m-Q4_K_M.gguf\n", "ab".repeat(32))).unwrap();
        let check = verify(1);
        assert_eq!((check["status"].as_str(), check["algorithm"].as_str()), (Some("corrupt"), Some("sha256")));
        fs::remove_file(&sums).unwrap();
        assert_eq!(verify(0)["status"], "no-checksum", "a wrong line does not outlive its file");
        fs::write(&sums, format!("{}  m-Q4_K_M.gguf\n", "ab".repeat(32))).unwrap();
        let own = folder.join("m-Q4_K_M.gguf.sha256");
        fs::write(&own, format!("{}\n", hex(&gguf()))).unwrap();
        assert_eq!(verify(0)["status"], "ok", "what speaks of one file counts before what speaks of all");
    }
}

#[test]
fn a_changed_file_without_record_is_said_to_have_outlived_its_sidecar() {
    let bench = Bench::new();
    let folder = bench.model("old");
    fs::create_dir_all(folder.join(".huggingface/download")).unwrap();
    fs::write(folder.join("m.gguf"), gguf()).unwrap();
    // The place of release 0.23.
    let sidecar = folder.join(".huggingface/download/m.gguf.metadata");
    let write = |time: u64| fs::write(&sidecar, format!("{}\n{}\n{time}\n", "c".repeat(40), hex(&gguf()))).unwrap();
    write(4_000_000_000);
    let verified = bench.run("verify old --json").expect(0).json();
    assert_eq!(file(&verified, "m.gguf")["status"], "ok");
    write(1_000_000_000);
    let verified = bench.run("verify old --json").expect(0).json();
    assert_eq!(file(&verified, "m.gguf")["status"], "no-checksum");
    assert!(file(&verified, "m.gguf")["note"].as_str().unwrap().starts_with("changed since its download"));
}

#[test]
fn shards_are_compared_with_each_other_and_with_their_index() {
    let bench = Bench::new();
    let folder = bench.model("m");
    fs::create_dir_all(&folder).unwrap();
    let shards: Vec<Vec<u8>> = writer()
        .into_shards(2)
        .iter()
        .map(|shard| {
            let mut bytes = Vec::new();
            shard.write_to(&mut bytes, 1).unwrap();
            bytes
        })
        .collect();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    put("m-00001-of-00002.gguf", &shards[0]);
    let check = |code| bench.run("verify m --quick --json").expect(code).json();
    assert_eq!(file(&check(1), "m-00002-of-00002.gguf")["status"], "missing");
    put("m-00002-of-00002.gguf", &shards[1]);
    check(0);
    put("m-00002-of-00002.gguf", &shards[1][..shards[1].len() - 700]);
    assert_eq!(file(&check(1), "m-00002-of-00002.gguf")["status"], "truncated");
    let mut padded = shards[1].clone();
    padded.extend([0; 500]);
    put("m-00002-of-00002.gguf", &padded);
    // All that the header names is there, and nobody knows a checksum: no damage.
    let longer = file(&check(0), "m-00002-of-00002.gguf").clone();
    assert_eq!((longer["status"].as_str(), longer["padded"].as_bool()), (Some("extra"), Some(true)), "{longer}");
    assert!(longer["note"].as_str().unwrap().contains("500 bytes"), "{longer}");
    // The first once more under the name of the second.
    put("m-00002-of-00002.gguf", &shards[0]);
    let twice = check(1);
    assert_eq!(file(&twice, "m-00002-of-00002.gguf")["status"], "corrupt");
    assert!(
        file(&twice, "m-00002-of-00002.gguf")["note"].as_str().unwrap().contains("shard 2 of 2 by its name, 1 of 2")
    );
    // Renamed, nothing but the header tells that there should be more.
    fs::remove_file(folder.join("m-00002-of-00002.gguf")).unwrap();
    fs::rename(folder.join("m-00001-of-00002.gguf"), folder.join("m.gguf")).unwrap();
    let alone = check(1);
    assert_eq!(file(&alone, "m.gguf")["status"], "corrupt");
    assert!(file(&alone, "m.gguf")["note"].as_str().unwrap().contains("shard 1 of 2, its name does not"));
    fs::remove_file(folder.join("m.gguf")).unwrap();

    let tensor = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}}}"#);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat()
    };
    put("odd-a.safetensors", &tensor("w"));
    put("model.safetensors.index.json", br#"{"weight_map":{"w":"odd-a.safetensors","v":"odd-b.safetensors"}}"#);
    let index = check(1);
    assert_eq!(file(&index, "odd-b.safetensors")["status"], "missing");
    put("odd-b.safetensors", &tensor("v"));
    check(0);
    put("odd-b.safetensors", &tensor("x"));
    let other = check(1);
    assert_eq!(file(&other, "odd-b.safetensors")["status"], "corrupt");
    assert!(file(&other, "odd-b.safetensors")["note"].as_str().unwrap().contains("tensor 'v'"), "{other}");
}

#[test]
fn many_models_come_in_their_order_whatever_ends_first() {
    let bench = Bench::new();
    for (name, size) in [("a", 3_000_000_usize), ("b", 10), ("c", 500_000)] {
        let repository = format!("org/{name}-GGUF");
        bench.hub.put_noise(&repository, &format!("{name}.bin"), size);
        bench.hub.put(&repository, &format!("{name}-Q8_0.gguf"), &gguf());
        let mut command = bench.command(&format!("download {repository} --file"));
        command.arg("*");
        bench.finish(command).expect(0);
    }
    let verified = bench.run("verify --all --json --limit 1G").expect(0).json();
    let ids: Vec<&str> =
        verified["models"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a-gguf", "b-gguf", "c-gguf"]);
    let again = bench.run("verify --all --json").expect(0).json();
    assert_eq!(verified, again);
}

#[test]
fn cut_and_padded_weights_are_told_apart_where_only_a_checksum_is_known() {
    let bench = Bench::new();
    bench.hub.put("org/M-GGUF", "m-Q4_K_M.gguf", &gguf());
    bench.run("download org/M-GGUF --to hf").expect(0);
    let hub = bench.scratch.path().join("home/.cache/huggingface/hub/models--org--M-GGUF");
    let blob = fs::read_dir(hub.join("blobs")).unwrap().next().unwrap().unwrap().path();
    let _ = fs::remove_dir_all(hub.join("trees"));
    let whole = gguf();
    for (bytes, status) in [
        (whole[..whole.len() - 100].to_vec(), "truncated"),
        ([whole.clone(), vec![7; 5000]].concat(), "extra"),
        ([&whole[..whole.len() - 1], &[!whole[whole.len() - 1]]].concat(), "corrupt"),
    ] {
        let length = bytes.len().to_string();
        fs::write(&blob, bytes).unwrap();
        for depth in ["", "--quick"] {
            let verified = bench.run(&format!("verify hf:org/M-GGUF --json {depth}")).json();
            let file = file(&verified, "m-Q4_K_M.gguf");
            if status != "corrupt" {
                let wanted = whole.len().to_string();
                assert_eq!(
                    (&file["status"], &file["expected"], &file["actual"]),
                    (&status.into(), &wanted.into(), &length.clone().into())
                );
            } else if depth.is_empty() {
                assert_eq!(file["status"], status, "{verified}");
            }
        }
    }
}

#[test]
fn what_is_written_to_while_it_is_read_is_not_right() {
    let cache = Cache::new();
    let bytes = noise(3 << 20, 1);
    let blob = cache.file("models--org--a", &commit('1'), "w.bin", &bytes);
    cache.reference("models--org--a", "main", &commit('1'));
    let store: Arc<dyn Store> = Arc::new(HfStore::new(cache.hub.clone()));
    let model = ModelId { store: StoreKind::Hf, store_path: store.root().to_owned(), id: "org/a".to_owned() };
    // Slow enough that it is still read when its first bytes have been.
    let pace = VerifySettings { limit: Some(4 << 20), ..VerifySettings::default() };
    let inventory = Inventory::new(vec![store], Vec::new()).pacing(pace);
    let mut written = false;
    let mut scribble = |progress: Progress<'_>| {
        if progress.bytes > 0 && !written {
            let file = fs::File::options().write(true).open(&blob).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"other", 3).unwrap();
            written = true;
        }
    };
    let cancel = CancellationToken::new();
    let verified = inventory.verify(&PlanTarget::whole(model), Depth::Full, &mut scribble, &cancel).unwrap();
    assert!(written, "the file was read before anything was told of it");
    assert!(!verified.ok && verified.files[0].status == FileStatus::Unreadable, "{verified:?}");
    assert!(verified.files[0].actual.as_ref().unwrap().contains("written to"), "{verified:?}");
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn safetensors(name: &str, of: u8) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[of; 16]].concat()
}

/// Puts a model of two shards and an index onto the hub; of another `version` the weights are others.
fn offer_shards(bench: &Bench, version: u8) {
    for (name, path) in ["w", "v"].into_iter().zip(SHARDS) {
        bench.hub.put("org/S", path, &safetensors(name, version));
    }
    let index = format!(r#"{{"weight_map":{{"w":"{}","v":"{}"}}}}"#, SHARDS[0], SHARDS[1]);
    bench.hub.put("org/S", "model.safetensors.index.json", index.as_bytes());
    bench.hub.put("org/S", "config.json", br#"{"model_type":"llama"}"#);
}

fn record(bench: &Bench, folder: &str) -> Value {
    let path = bench.model(folder).join(".cache/llorch-models/source.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The commands that a verification prints.
fn ways_out(bench: &Bench, id: &str) -> Vec<String> {
    let said = bench.run(&format!("verify {id}")).expect(1).stderr;
    said.lines().filter_map(|line| line.split_once("again: llorch-models ")).map(|(_, line)| line.to_owned()).collect()
}

#[test]
fn a_part_is_fetched_again_from_the_commit_of_its_set_though_the_hub_has_moved() {
    let bench = Bench::new();
    offer_shards(&bench, 1);
    bench.run("download org/S").expect(0);
    let commit = record(&bench, "s")["commit"].as_str().unwrap().to_owned();
    offer_shards(&bench, 2);
    let first = bench.model("s").join(SHARDS[0]);
    rot(&first);
    let rotten = fs::read(&first).unwrap();
    let cure = format!("download org/S@{commit} --file {} --force", SHARDS[0]);
    assert_eq!(ways_out(&bench, "s"), [cure.as_str()]);

    // Without the commit the set would be a mix.
    let refused = bench.run(&format!("download org/S --file {} --force", SHARDS[0])).expect(1);
    assert!(refused.error().contains(&format!("org/S@{commit}")), "{refused:?}");
    assert_eq!(fs::read(&first).unwrap(), rotten);

    offer_shards(&bench, 1);
    bench.run(&cure).expect(0);
    bench.run("verify s").expect(0);
    let record = record(&bench, "s");
    assert_eq!((record["revision"].as_str(), record["commit"].as_str()), (Some("main"), Some(commit.as_str())));
}

#[test]
fn parts_of_two_commits_are_no_model_and_an_update_that_goes_on_mends_them() {
    let bench = Bench::new();
    offer_shards(&bench, 1);
    bench.run("download org/S").expect(0);
    let old = record(&bench, "s")["commit"].as_str().unwrap().to_owned();
    offer_shards(&bench, 2);
    bench.hub.fault(Fault::on(SHARDS[1], What::Answer(403, Vec::new(), String::new())).always());
    bench.run("download org/S@main").expect(1);
    assert_eq!(
        fs::read(bench.model("s").join(SHARDS[0])).unwrap(),
        safetensors("w", 2),
        "the first shard was published"
    );
    let verified = bench.run("verify s --json").expect(1).json();
    let stray = file(&verified, SHARDS[1]);
    assert_eq!(stray["status"], "corrupt", "{verified}");
    assert!(stray["note"].as_str().unwrap().contains(&format!("of commit {}", &old[..7])), "{verified}");
    let row = row(&bench);
    assert_eq!((&row["complete"], &row["damage"]), (&false.into(), &"corrupt".into()), "{row}");
    let new = record(&bench, "s")["commit"].as_str().unwrap().to_owned();
    assert_eq!(ways_out(&bench, "s"), [format!("download org/S@{new} --file {} --force", SHARDS[1])]);

    bench.hub.clear_faults();
    bench.run("download org/S").expect(0);
    bench.run("verify s").expect(0);
    assert!(!fs::read_to_string(bench.model("s/.cache/llorch-models/source.json")).unwrap().contains(&old));
}

#[test]
fn quantizations_may_be_of_several_commits() {
    let bench = Bench::new();
    bench.hub.put("org/M-GGUF", "m-Q4_K_M.gguf", &gguf());
    bench.run("download org/M-GGUF").expect(0);
    let old = record(&bench, "m-gguf")["commit"].as_str().unwrap().to_owned();
    let mut other = gguf();
    *other.last_mut().unwrap() ^= 1;
    bench.hub.put("org/M-GGUF", "m-Q4_K_M.gguf", &other);
    bench.hub.put("org/M-GGUF", "m-Q8_0.gguf", &gguf());
    bench.run("download org/M-GGUF:Q8_0").expect(0);
    bench.run("verify m-gguf").expect(0);
    let new = record(&bench, "m-gguf")["commit"].as_str().unwrap().to_owned();
    assert_ne!(old, new);
    for name in ["m-Q4_K_M.gguf", "m-Q8_0.gguf"] {
        rot(&bench.model("m-gguf").join(name));
    }
    let mut wanted = [
        format!("download org/M-GGUF@{old} --file m-Q4_K_M.gguf --force"),
        format!("download org/M-GGUF@{new} --file m-Q8_0.gguf --force"),
    ];
    wanted.sort();
    assert_eq!(ways_out(&bench, "m-gguf"), wanted);
}

#[test]
fn in_the_cache_a_file_is_fetched_again_for_the_revision_that_has_it() {
    let bench = Bench::new();
    offer_shards(&bench, 1);
    bench.run("download org/S --to hf").expect(0);
    let hub = bench.scratch.path().join("home/.cache/huggingface/hub/models--org--S");
    let commit = fs::read_to_string(hub.join("refs/main")).unwrap();
    offer_shards(&bench, 2);
    bench.run("download org/S --to hf").expect(0);
    let blob = hub.join("snapshots").join(&commit).join(SHARDS[0]).canonicalize().unwrap();
    rot(&blob);
    let cure = format!("download org/S@{commit} --to hf --file {} --force", SHARDS[0]);
    assert_eq!(ways_out(&bench, "hf:org/S"), [cure.as_str()]);
    offer_shards(&bench, 1);
    bench.run(&cure).expect(0);
    bench.run("verify hf:org/S").expect(0);
}

#[test]
fn bytes_behind_safetensors_are_damage_and_behind_gguf_are_not() {
    let bench = Bench::new();
    for folder in ["st", "gg"] {
        fs::create_dir_all(bench.model(folder)).unwrap();
    }
    fs::write(bench.model("st/model.safetensors"), [safetensors("w", 1), vec![0]].concat()).unwrap();
    fs::write(bench.model("gg/m-Q4_K_M.gguf"), [gguf(), vec![0; 500]].concat()).unwrap();
    let verified = bench.run("verify flat:st --json").expect(1).json();
    let padded = file(&verified, "model.safetensors");
    assert_eq!((&padded["status"], padded.get("padded")), (&"extra".into(), None), "{verified}");
    let verified = bench.run("verify flat:gg --json").expect(0).json();
    let padded = file(&verified, "m-Q4_K_M.gguf");
    assert_eq!((&padded["status"], &padded["padded"]), (&"extra".into(), &true.into()), "{verified}");
    assert!(padded["note"].as_str().unwrap().contains("the 500 bytes behind that mean nothing"), "{verified}");
    for row in bench.run("list --json").expect(0).json()["models"].as_array().unwrap() {
        let damage = if row["id"] == "st" { (false.into(), "extra".into()) } else { (true.into(), Value::Null) };
        assert_eq!((&row["complete"], &row["damage"]), (&damage.0, &damage.1), "{row}");
    }
    // As it was published, no loader takes it either.
    bench.hub.put("org/P", "model.safetensors", &[safetensors("w", 1), vec![0]].concat());
    bench.run("download org/P").expect(0);
    let verified = bench.run("verify org/P --json").expect(1).json();
    let published = file(&verified, "model.safetensors");
    assert_eq!(published["status"], "extra", "{verified}");
    assert!(published["note"].as_str().unwrap().contains("those that are promised"), "{verified}");
}

#[test]
fn weights_that_were_never_written_are_not_right_without_a_checksum() {
    const SIZE: u64 = 64 << 20;
    let bench = Bench::new();
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{SIZE}],"data_offsets":[0,{SIZE}]}}}}"#);
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let put = |folder: &str, written: u64| {
        fs::create_dir_all(bench.model(folder)).unwrap();
        let path = bench.model(folder).join("model.safetensors");
        let file = fs::File::create(&path).unwrap();
        file.set_len(start.len() as u64 + SIZE).unwrap();
        let fill = |from: u64, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, bytes, from).unwrap();
        fill(0, &start);
        fill(1 << 20, &vec![7; usize::try_from(written).unwrap()]);
    };
    put("hole", 0);
    // Half of it zeros, as `cp --sparse=always` leaves them.
    put("half", SIZE / 2);
    for depth in ["", "--quick"] {
        let verified = bench.run(&format!("verify flat:hole --json {depth}")).expect(1).json();
        let hole = file(&verified, "model.safetensors");
        assert_eq!(hole["status"], "truncated", "{verified}");
        assert!(hole["note"].as_str().unwrap().contains("are on disk"), "{verified}");
        let verified = bench.run(&format!("verify flat:half --json {depth}")).expect(0).json();
        assert_eq!(file(&verified, "model.safetensors")["status"], "no-checksum", "{verified}");
    }
    for row in bench.run("list --json").expect(0).json()["models"].as_array().unwrap() {
        let damage = if row["id"] == "hole" { (false.into(), "truncated".into()) } else { (true.into(), Value::Null) };
        assert_eq!((&row["complete"], &row["damage"]), (&damage.0, &damage.1), "{row}");
    }
    // A checksum knows better than holes do.
    fs::create_dir_all(bench.hub.root().join("org/H")).unwrap();
    fs::copy(bench.model("hole/model.safetensors"), bench.hub.root().join("org/H/model.safetensors")).unwrap();
    bench.run("download org/H").expect(0);
    let published = bench.model("h/model.safetensors");
    let (bytes, times) = (fs::read(&published).unwrap(), fs::metadata(&published).unwrap().modified().unwrap());
    let sparse = fs::File::create(&published).unwrap();
    sparse.set_len(bytes.len() as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes[..start.len()], 0).unwrap();
    sparse.set_modified(times).unwrap();
    let verified = bench.run("verify flat:h --json").expect(0).json();
    assert_eq!(file(&verified, "model.safetensors")["status"], "ok", "{verified}");
    let listed = bench.run("list --json").expect(0).json();
    assert!(
        listed["models"].as_array().unwrap().iter().any(|row| row["id"] == "h" && row["complete"] == true),
        "{listed}"
    );
}
