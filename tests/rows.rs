//! The same weights in every kind of store are the same row: header, labels, parts, damage, fit; and what the program prints names it.
#![cfg(all(feature = "cli", feature = "tui", feature = "mirror"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use rbee_hive::format::gguf::{TensorType, Writer};
use serde_json::{Value, json};
use support::program::Bench;
use support::stores::{Ollama, put, sha256};

const STORES: [&str; 5] = ["flat", "hf", "ollama", "lmstudio", "llamacpp"];
const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A header with everything that is shown.
fn full(file_type: u32) -> Writer {
    let kind = if file_type == 7 { TensorType::Q8_0 } else { TensorType::Q4_K };
    Writer::new("llama")
        .key("general.name", "Full")
        .key("general.file_type", file_type)
        .key("general.license", "apache-2.0")
        .key("general.quantized_by", "someone")
        .key("general.base_model.count", 1u32)
        .key("general.base_model.0.repo_url", "https://huggingface.co/base/model")
        .key("llama.context_length", 4096u32)
        .key("llama.block_count", 2u32)
        .key("llama.embedding_length", 256u32)
        .key("llama.attention.head_count", 8u32)
        .key("llama.attention.head_count_kv", 2u32)
        .key("llama.expert_count", 4u32)
        .key("llama.expert_used_count", 2u32)
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.tokens", vec!["a", "b"])
        .key("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", &[256, 64], kind)
        .tensor("blk.0.attn_q.weight", &[256, 64], kind)
}

fn bytes(writer: &Writer) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, 1).unwrap();
    bytes
}

fn shard(number: u16) -> Vec<u8> {
    let writer = if number == 0 { full(15) } else { Writer::new("llama") };
    bytes(&writer.key("split.no", number).key("split.count", 2u16).tensor(
        &format!("blk.{number}.ffn_up.weight"),
        &[256, 64],
        TensorType::Q4_K,
    ))
}

fn projector() -> Vec<u8> {
    bytes(&Writer::new("clip").key("general.type", "mmproj").tensor("v.patch", &[256, 16], TensorType::F16))
}

/// One model with the same files in every store.
fn everywhere(files: &[(&str, Vec<u8>)]) -> Bench {
    let bench = Bench::new();
    let home = bench.scratch.path().join("home");
    let snapshot = home.join(".cache/huggingface/hub/models--org--m/snapshots").join(COMMIT);
    put(home.join(".cache/huggingface/hub/models--org--m/refs/main"), COMMIT.as_bytes());
    let ollama = Ollama(home.join(".ollama/models"));
    let mut layers: Vec<(&str, &[u8])> = Vec::new();
    for (name, content) in files {
        put(bench.model(&format!("m/{name}")), content);
        let blob = home.join(".cache/huggingface/hub/models--org--m/blobs").join(sha256(content));
        put(blob, content);
        fs::create_dir_all(&snapshot).unwrap();
        symlink(format!("../../blobs/{}", sha256(content)), snapshot.join(name)).unwrap();
        put(home.join(".lmstudio/models/org/m").join(name), content);
        put(home.join(format!(".cache/llama.cpp/org_m_{name}")), content);
        layers.push((if name.starts_with("mmproj") { "projector" } else { "model" }, content));
    }
    // What llama.cpp says which projector belongs to which weights by.
    if let Some((name, content)) = files.iter().find(|(name, _)| name.starts_with("mmproj")) {
        let (weights, of) = &files[0];
        let file = |name: &str, content: &[u8]| json!({"rfilename": name, "size": content.len()});
        let manifest = json!({"ggufFile": file(weights, of), "mmprojFile": file(name, content)});
        put(home.join(".cache/llama.cpp/manifest=org=m=latest.json"), manifest.to_string().as_bytes());
    }
    layers.push(("license", b"MIT License\n\nCopyright"));
    layers.push(("template", b"{{ .Prompt }}"));
    layers.push(("params", br#"{"num_ctx":4096}"#));
    ollama.tag("library/m/latest", &ollama.manifest(b"{}", &layers));
    bench
}

/// The whole row of each store, as `info --json` tells it.
fn infos(bench: &Bench) -> Vec<(String, Value)> {
    let list = bench.run("list --json").expect(0).json();
    let rows = list["models"].as_array().unwrap();
    STORES
        .map(|store| {
            let row = rows.iter().find(|row| row["store"] == store).unwrap_or_else(|| panic!("{store}: {list}"));
            let name = format!("{store}:{}", row["id"].as_str().unwrap());
            let info = bench.run(&format!("info {name} --json")).expect(0).json();
            // A list looks for these only where it is asked to.
            let always = |key: &str| !["in_use_by", "fit"].contains(&key);
            for (key, value) in row.as_object().unwrap().iter().filter(|(key, _)| always(key)) {
                assert_eq!(&info[key], value, "{key} of {name} in list and info");
            }
            (name, info)
        })
        .into()
}

/// What has to be alike.
fn told(info: &Value) -> Value {
    let mut metadata = info["metadata"].clone();
    for own in ["settings", "warnings"] {
        metadata.as_object_mut().unwrap().remove(own);
    }
    let fit = &info["fit"];
    let keys = [
        "format",
        "quantization",
        "quantizations",
        "guessed",
        "architecture",
        "parameters",
        "context_length",
        "complete",
        "damage",
    ];
    let row = keys.map(|key| info[key].clone());
    json!({"metadata": metadata, "row": row, "fit": [fit["verdict"], fit["need"]]})
}

fn alike(bench: &Bench) -> Value {
    let infos = infos(bench);
    for (name, info) in &infos[1..] {
        assert_eq!(told(info), told(&infos[0].1), "{name}");
    }
    infos[0].1.clone()
}

fn warns(bench: &Bench, line: &str) {
    for (name, info) in infos(bench) {
        let warnings = info["warnings"].as_array().unwrap();
        assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains(line)), "{name}: {warnings:?}");
    }
}

#[test]
fn a_whole_model_is_the_same_row_in_every_store() {
    let bench = everywhere(&[("m-Q4_K_M.gguf", bytes(&full(15)))]);
    let info = alike(&bench);
    let metadata = &info["metadata"];
    assert_eq!(info["quantization"], "Q4_K_M");
    assert_eq!(metadata["name"], "Full");
    assert_eq!((&metadata["layers"], &metadata["heads"], &metadata["heads_kv"]), (&json!(2), &json!(8), &json!(2)));
    assert_eq!((&metadata["experts"], &metadata["chat_template"]), (&json!(4), &json!(true)));
    assert_eq!((&metadata["licence"], &metadata["quantized_by"]), (&json!("apache-2.0"), &json!("someone")));
    assert_eq!((&metadata["tokenizer"], &metadata["base_model"]), (&json!("gpt2"), &json!("base/model")));
    // For people, too: header, quantization with its bits, and the sum.
    for (name, _) in infos(&bench) {
        let text = bench.run(&format!("info {name}")).expect(0).stdout;
        for line in
            ["Q4_K_M, 4.50 bits/weight", "apache-2.0", "someone", "base/model", "8, 2 for keys", "fit ", "weights "]
        {
            assert!(text.contains(line), "{name} lacks {line}: {text}");
        }
        assert_eq!(text.contains("num_ctx 4096"), name.starts_with("ollama"), "{text}");
    }
}

#[test]
fn shards_are_joined_and_missing_ones_named_in_every_store() {
    let (one, two) = (("m-Q4_K_M-00001-of-00002.gguf", shard(0)), ("m-Q4_K_M-00002-of-00002.gguf", shard(1)));
    let info = alike(&everywhere(&[one.clone(), two]));
    assert_eq!((&info["parameters"], &info["complete"]), (&json!(4 * 256 * 64), &json!(true)));
    assert_eq!(info["warnings"], json!(["origin unknown"]));

    let bench = everywhere(&[one, ("m-Q4_K_M-00002-of-00002.gguf", shard(1))]);
    let home = bench.scratch.path().join("home");
    let gone = "m-Q4_K_M-00002-of-00002.gguf";
    for path in [
        bench.model(&format!("m/{gone}")),
        home.join(".cache/huggingface/hub/models--org--m/blobs").join(sha256(&shard(1))),
        Ollama(home.join(".ollama/models")).blob_path(&sha256(&shard(1))),
        home.join(".lmstudio/models/org/m").join(gone),
        home.join(format!(".cache/llama.cpp/org_m_{gone}")),
    ] {
        fs::remove_file(path).unwrap();
    }
    for (name, info) in infos(&bench) {
        assert_eq!((&info["complete"], &info["damage"]), (&json!(false), &json!("missing")), "{name}: {info}");
        let line = if name.starts_with("ollama") { "is missing" } else { "m-Q4_K_M: shard 2 of 2 is missing" };
        assert!(info["warnings"].to_string().contains(line), "{name}: {}", info["warnings"]);
        assert_eq!(info["fit"]["verdict"], "unknown", "{name}");
        assert_eq!(info["fit"]["because"], "not all of its weights are here", "{name}");
    }
}

#[test]
fn a_projector_counts_with_its_model_in_every_store() {
    let info = alike(&everywhere(&[("m-Q4_K_M.gguf", bytes(&full(15))), ("mmproj-m-f16.gguf", projector())]));
    assert_eq!(info["quantizations"], json!(["Q4_K_M"]));
    // Its tensors: its header is not loaded.
    assert_eq!(info["fit"]["need"]["projector_bytes"], 8192);
    assert_eq!(info["metadata"]["sidecar"], false);
}

#[test]
fn damage_has_the_word_that_verify_has_for_it() {
    let mut cut = bytes(&full(15));
    cut.truncate(cut.len() - 100);
    let bench = everywhere(&[("m-Q4_K_M.gguf", cut)]);
    assert_eq!(alike(&bench)["damage"], "truncated");
    warns(&bench, "is cut short, 100 bytes are missing");
    let list = bench.run("list --color never").expect(0).stdout;
    assert!(list.contains("truncated") && !list.contains("incomplete"), "{list}");

    let mut broken = bytes(&full(15));
    broken[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let bench = everywhere(&[("m-Q4_K_M.gguf", broken)]);
    for (name, info) in infos(&bench) {
        assert_eq!((&info["damage"], &info["metadata"]), (&json!("corrupt"), &Value::Null), "{name}");
        // No header, so the name is what is known; in Ollama there is none.
        let label = if name.starts_with("ollama") { Value::Null } else { json!("Q4_K_M") };
        assert_eq!(info["quantization"], label, "{name}");
    }
    let list = bench.run("list --color never").expect(0).stdout;
    assert!(list.contains("corrupt") && !list.contains("incomplete"), "{list}");
}

#[test]
fn the_header_is_shown_the_name_selects_and_a_contradiction_is_told() {
    let bench = everywhere(&[("m-Q8_0.gguf", bytes(&full(15)))]);
    for (name, info) in infos(&bench) {
        assert_eq!(info["quantization"], "Q4_K_M", "{name}");
        if !name.starts_with("ollama") {
            assert_eq!(info["selects"], json!(["Q8_0"]), "{name}");
            assert!(info["warnings"].to_string().contains("named Q8_0, but Q4_K_M by its header"), "{name}");
            bench.run(&format!("delete {name}:Q8_0 --dry-run")).expect(0);
        }
    }
    // A label that the tensors cannot have.
    let bench = everywhere(&[("m.gguf", bytes(&full(15)))]);
    assert!(!bench.run("info flat:m").expect(0).stdout.contains("labelled"));
    let wrong = Writer::new("llama").key("general.file_type", 2u32).tensor("a", &[256, 64], TensorType::Q8_0);
    warns(&everywhere(&[("m.gguf", bytes(&wrong))]), "labelled Q4_0, but its tensors take 8.50 bits a parameter");
    // A finer name is no contradiction; it selects, and stands beside what the header says.
    let bench = everywhere(&[("m-UD-Q4_K_XL.gguf", bytes(&full(15)))]);
    for (name, info) in infos(&bench).into_iter().filter(|(name, _)| !name.starts_with("ollama")) {
        assert!(!info["warnings"].to_string().contains("named"), "{name}");
        let text = bench.run(&format!("info {name}")).expect(0).stdout;
        assert!(text.contains("Q4_K_M, 4.50 bits/weight, named UD-Q4_K_XL"), "{text}");
        bench.run(&format!("delete {name}:UD-Q4_K_XL --dry-run")).expect(0);
    }
    // Without a label in the header the tensors let guess.
    let silent = bytes(&Writer::new("llama").tensor("a", &[256, 64], TensorType::Q5_K));
    for (name, info) in infos(&everywhere(&[("m.gguf", silent)])) {
        assert_eq!((&info["quantization"], &info["guessed"]), (&json!("Q5_K"), &json!(["Q5_K"])), "{name}");
    }
}

#[test]
fn a_part_has_its_own_header_fit_and_figures() {
    let larger = full(7).tensor("blk.1.attn_q.weight", &[256, 512], TensorType::Q8_0).key("general.basename", "big");
    let bench = everywhere(&[("m-Q4_K_M.gguf", bytes(&full(15))), ("m-Q8_0.gguf", bytes(&larger))]);
    for id in ["flat:m", "hf:org/m", "lmstudio:org/m"] {
        let whole = bench.run(&format!("info {id} --json")).expect(0).json();
        assert_eq!(whole["quantization"], Value::Null);
        let mut disk = 0;
        for part in whole["parts"].as_array().unwrap() {
            let label = part["quantization"].as_str().unwrap();
            let own = bench.run(&format!("info {id}:{label} --json")).expect(0).json();
            assert_eq!((&own["quantization"], &own["part"]["quantization"]), (&json!(label), &json!(label)));
            let parameters = if label == "Q8_0" { 256 * (64 + 64 + 512) } else { 2 * 256 * 64 };
            assert_eq!((&own["parameters"], &own["metadata"]["parameters"]), (&json!(parameters), &json!(parameters)));
            assert_eq!(own["fit"]["need"]["weights_bytes"], own["metadata"]["tensor_bytes"], "{id}:{label}");
            assert_eq!(own["files"].as_array().unwrap().len(), 1);
            for figure in ["size_bytes", "disk_bytes", "reclaimable_bytes"] {
                assert_eq!(own[figure], part[figure], "{figure} of {id}:{label}");
            }
            let plan = bench.run(&format!("delete {id}:{label} --dry-run --json")).expect(0).json();
            assert_eq!(part["reclaimable_bytes"], plan["expected_bytes"]);
            assert!(part["reclaimable_bytes"].as_u64() <= part["disk_bytes"].as_u64(), "{part}");
            disk += part["disk_bytes"].as_u64().unwrap();
        }
        assert!(disk <= whole["disk_bytes"].as_u64().unwrap(), "{whole}");
    }
    bench.run("info flat:m:Q2_K --json").expect(1);
    bench.run("info hf:org/m:Q2_K --json").expect(1);
}

#[test]
fn an_exact_label_means_no_other() {
    let bench =
        everywhere(&[("m-Q4_K_M.gguf", bytes(&full(15))), ("m-UD-Q4_K_M.gguf", bytes(&full(15).key("x", 1u32)))]);
    for id in ["flat:m", "hf:org/m", "lmstudio:org/m"] {
        let plan = bench.run(&format!("delete {id}:Q4_K_M --dry-run --json")).expect(0).json();
        let removed = plan["remove"].to_string();
        assert!(removed.contains("m-Q4_K_M.gguf") && !removed.contains("UD-"), "{id}: {removed}");
    }
}

#[test]
fn what_is_printed_is_accepted_where_it_means_one_thing() {
    let bench = Bench::new();
    let home = bench.scratch.path().join("home");
    let hub = home.join(".cache/huggingface/hub");
    let repository = |folder: &str, name: &str, content: &[u8]| -> PathBuf {
        put(hub.join(folder).join("refs/main"), COMMIT.as_bytes());
        put(hub.join(folder).join("snapshots").join(COMMIT).join(name), content)
    };
    repository("datasets--org--name", "data.csv", b"1,2");
    repository("models--org--m", "m-Q8_0.gguf", &bytes(&full(7)));
    let ollama = Ollama(home.join(".ollama/models"));
    ollama.tag("hf.co/org/other/Q4_K_M", &ollama.manifest(b"{}", &[("model", &bytes(&full(15)))]));
    put(home.join(".lmstudio/models/imported-models/uncategorized/lone.gguf"), &bytes(&full(15)));
    for (number, label) in [(1u32, "Q4_K_M"), (2, "Q8_0")] {
        let (name, content) = (format!("o_r_m-{label}.gguf"), bytes(&full(15).key("n", number)));
        let manifest = json!({"ggufFile": {"rfilename": format!("m-{label}.gguf"), "size": content.len()}});
        put(home.join(format!(".cache/llama.cpp/manifest=o=r={label}.json")), manifest.to_string().as_bytes());
        put(home.join(".cache/llama.cpp").join(&name), &content);
    }
    let plan = |name: &str| bench.run(&format!("delete {name} --dry-run --json"));
    let models = |name: &str| plan(name).expect(0).json()["models"].clone();
    let means = |name: &str, store: &str, id: &str| {
        let models = models(name);
        let found = &models[0];
        assert_eq!(
            (models.as_array().unwrap().len(), &found["store"], &found["id"]),
            (1, &json!(store), &json!(id)),
            "{name}"
        );
    };
    means("datasets/org/name", "hf", "datasets/org/name");
    means("hf.co/org/m", "hf", "org/m");
    means("hf.co/org/m:Q8_0", "hf", "org/m");
    means("hf.co/org/other:Q4_K_M", "ollama", "hf.co/org/other:Q4_K_M");
    means("imported-models/uncategorized/lone.gguf", "lmstudio", "imported-models/uncategorized/lone.gguf");
    means("o/r:Q8_0", "llamacpp", "o_r_m-Q8_0");
    // Every id of the list is accepted as it stands there, with its store in front and without.
    for row in bench.run("list --json").expect(0).json()["models"].as_array().unwrap() {
        let (store, id) = (row["store"].as_str().unwrap(), row["id"].as_str().unwrap());
        means(&format!("{store}:{id}"), store, id);
        means(id, store, id);
    }
    // Two rows are meant, so none is.
    assert!(plan("o/r").expect(1).stderr.contains("o_r_m-Q4_K_M"));
    plan("o/r:Q4_K").expect(1);
    plan("datasets/org/nam").expect(1);
    plan("datasets/org/../org/name").expect(1);
    put(home.join(".lmstudio/models/org/m/m-Q8_0.gguf"), &bytes(&full(7)));
    assert!(plan("hf.co/org/m").expect(1).stderr.contains("lmstudio:org/m"));
}

#[test]
fn what_may_not_be_read_has_unknown_sizes() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = everywhere(&[("m-Q4_K_M.gguf", bytes(&full(15)))]);
    for entry in walkdir::WalkDir::new(bench.scratch.path()) {
        lchown(entry.unwrap().path(), Some(65534), Some(65534)).unwrap();
    }
    let home = bench.scratch.path().join("home");
    let closed =
        [bench.model("m"), home.join(".cache/huggingface/hub/models--org--m"), home.join(".lmstudio/models/org/m")];
    for folder in &closed {
        fs::set_permissions(folder, Permissions::from_mode(0o000)).unwrap();
    }
    let run = |line: &str| {
        let mut command = bench.command(line);
        command.uid(65534).gid(65534);
        command.output().ok().map(|ran| String::from_utf8(ran.stdout).unwrap())
    };
    let (Some(list), Some(text)) = (run("list --json"), run("list --color never")) else { return };
    let list: Value = serde_json::from_str(&list).unwrap();
    for store in ["flat", "hf", "lmstudio"] {
        let row = list["models"].as_array().unwrap().iter().find(|row| row["store"] == store).unwrap();
        assert_eq!((&row["disk_bytes"], &row["size_bytes"]), (&Value::Null, &Value::Null), "{row}");
        assert_eq!((&row["reclaimable_bytes"], &row["damage"]), (&Value::Null, &json!("unreadable")), "{row}");
    }
    assert_eq!(text.matches("unknown").count(), 3, "{text}");
    assert_eq!(text.matches("unreadable").count(), 3, "{text}");
    for folder in &closed {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
}
