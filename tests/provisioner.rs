//! The library over one base folder: what every function promises, without a hub.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use rbee_hive::Error;
use rbee_hive::provisioner::ModelProvisioner;
use tempfile::TempDir;

const TINY: &str = "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF";
const TINY_FOLDER: &str = "tinyllama-1.1b-chat-v1.0-gguf";

/// A scratch base folder with a provisioner over it.
struct Bench {
    scratch: TempDir,
    provisioner: ModelProvisioner,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().to_owned()).offline(true).build();
        Self { scratch, provisioner }
    }

    fn base(&self) -> &Path {
        self.scratch.path()
    }

    /// Puts a file of `size` bytes below the base folder.
    fn put(&self, path: &str, size: usize) -> PathBuf {
        let file = self.base().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, vec![b'x'; size]).unwrap();
        file
    }

    fn folder(&self, path: &str) -> PathBuf {
        let folder = self.base().join(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Marks a folder as filled from `repository`.
    fn record(&self, folder: &str, repository: &str, files: &[(&str, u64)]) {
        let files: Vec<_> = files
            .iter()
            .map(|(path, size)| serde_json::json!({ "path": path, "size": size, "digest": "ab".repeat(32) }))
            .collect();
        let record = serde_json::json!({
            "version": 1,
            "endpoint": "https://huggingface.co",
            "repository": repository,
            "revision": "main",
            "commit": "c".repeat(40),
            "files": files,
        });
        let path = self.base().join(folder).join(".cache/llorch-models/source.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, record.to_string()).unwrap();
    }

    fn listed(&self) -> Vec<(String, String)> {
        let shown = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.provisioner.list_models().unwrap().into_iter().map(|(name, path)| (name, shown(path))).collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

mod listing {
    use super::*;

    #[test]
    fn an_empty_base_folder_has_no_models() {
        assert_eq!(Bench::new().listed(), []);
    }

    #[test]
    fn a_missing_base_folder_has_no_models() {
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("not/there")).build();
        assert_eq!(provisioner.list_models().unwrap(), []);
        assert!(!scratch.path().join("not").exists(), "looking creates nothing");
    }

    #[test]
    fn a_model_is_its_folder_and_its_file() {
        let bench = Bench::new();
        let file = bench.put("mymodel/model.gguf", 10);
        assert_eq!(bench.provisioner.list_models().unwrap(), [("mymodel".to_owned(), file)]);
    }

    #[test]
    fn models_come_sorted() {
        let bench = Bench::new();
        for name in ["tinyllama", "phi3", "qwen"] {
            bench.put(&format!("{name}/{name}.gguf"), 10);
        }
        assert_eq!(
            bench.listed(),
            pairs(&[("phi3", "phi3.gguf"), ("qwen", "qwen.gguf"), ("tinyllama", "tinyllama.gguf")])
        );
    }

    #[test]
    fn only_gguf_files_count() {
        let bench = Bench::new();
        for name in
            ["model.gguf", "config.json", "README.md", "model.gguf.0123456789abcdef.llorch", "model.safetensors"]
        {
            bench.put(&format!("m/{name}"), 10);
        }
        bench.put("top.gguf", 10);
        assert_eq!(bench.listed(), pairs(&[("m", "model.gguf")]));
    }

    #[test]
    fn every_quantization_of_a_folder_is_listed() {
        let bench = Bench::new();
        for name in ["llama-q8.gguf", "llama-fp16.gguf", "llama-q4.gguf"] {
            bench.put(&format!("llama/{name}"), 10);
        }
        assert_eq!(
            bench.listed(),
            pairs(&[("llama", "llama-fp16.gguf"), ("llama", "llama-q4.gguf"), ("llama", "llama-q8.gguf")])
        );
    }

    #[test]
    fn subfolders_and_hidden_folders_are_left_out() {
        let bench = Bench::new();
        bench.put("llama/model.gguf", 10);
        bench.put("llama/quantized/q4.gguf", 10);
        bench.put(".cache/hidden.gguf", 10);
        assert_eq!(bench.listed(), pairs(&[("llama", "model.gguf")]));
    }
}

mod lookup {
    use super::*;

    #[test]
    fn a_repository_is_found_in_the_folder_of_its_last_part() {
        let bench = Bench::new();
        let file = bench.put(&format!("{TINY_FOLDER}/model.gguf"), 10);
        assert_eq!(bench.provisioner.find_local_model(TINY), Some(file));
    }

    #[test]
    fn what_is_not_there_is_not_found_and_nothing_else_is_offered() {
        let bench = Bench::new();
        bench.put("tinyllama/model.gguf", 10);
        for reference in ["nobody/nothing", "tiny", "llama", "tinyllama2", "", "..", "/etc/passwd", "a\\b"] {
            assert_eq!(bench.provisioner.find_local_model(reference), None, "{reference:?}");
        }
    }

    #[test]
    fn the_case_of_a_repository_does_not_matter() {
        let bench = Bench::new();
        let file = bench.put("some-model-gguf/m.gguf", 10);
        assert_eq!(bench.provisioner.find_local_model("Org/Some-Model-GGUF"), Some(file));
    }

    #[test]
    fn the_first_shard_or_file_is_given_never_a_sidecar() {
        let bench = Bench::new();
        bench.put("m/a-mmproj-F16.gguf", 10);
        bench.put("m/m-Q4_K_M-00002-of-00002.gguf", 10);
        let first = bench.put("m/m-Q4_K_M-00001-of-00002.gguf", 10);
        let other = bench.put("m/sub/m-Q8_0.gguf", 10);
        assert_eq!(bench.provisioner.find_local_model("m"), Some(first.clone()));
        assert_eq!(bench.provisioner.find_local_model("m:q4_k_m"), Some(first.clone()));
        assert_eq!(bench.provisioner.find_local_model("m:Q8_0"), Some(other.clone()));
        assert_eq!(bench.provisioner.find_local_model("m:Q2_K"), None);
        fs::remove_file(first).unwrap();
        assert_eq!(
            bench.provisioner.find_local_model("m"),
            Some(other),
            "a set without its first shard cannot be loaded"
        );
    }

    #[test]
    fn a_folder_without_weights_has_nothing_to_load() {
        let bench = Bench::new();
        bench.put("tinyllama/README.md", 10);
        bench.folder(TINY_FOLDER);
        assert_eq!(bench.provisioner.find_local_model(TINY), None);
        assert_eq!(bench.provisioner.find_local_model("tinyllama"), None);
    }
}

mod size {
    use super::*;

    #[test]
    fn a_file_has_its_length() {
        let bench = Bench::new();
        let file = bench.put("test.gguf", 33);
        assert_eq!(bench.provisioner.get_model_size(&file).unwrap(), 33);
    }

    #[test]
    fn a_large_file_and_a_folder_are_counted_whole() {
        let bench = Bench::new();
        let file = bench.put("m/large.gguf", 1 << 20);
        bench.put("m/sub/more.gguf", 24);
        bench.put("m/.cache/bookkeeping", 1000);
        assert_eq!(bench.provisioner.get_model_size(&file).unwrap(), 1 << 20);
        assert_eq!(bench.provisioner.get_model_size(&bench.base().join("m")).unwrap(), (1 << 20) + 24);
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let bench = Bench::new();
        let error = bench.provisioner.get_model_size(&bench.base().join("no.gguf")).unwrap_err();
        assert!(error.to_string().contains("no.gguf"), "{error}");
    }

    #[test]
    fn an_empty_file_is_0() {
        let bench = Bench::new();
        let file = bench.put("empty.gguf", 0);
        assert_eq!(bench.provisioner.get_model_size(&file).unwrap(), 0);
    }
}

mod deletion {
    use super::*;

    #[test]
    fn a_model_goes_with_its_folder_and_nothing_else_does() {
        let bench = Bench::new();
        bench.put(&format!("{TINY_FOLDER}/model.gguf"), 10);
        bench.put(&format!("{TINY_FOLDER}/.cache/huggingface/download/model.gguf.metadata"), 10);
        let other = bench.put("other/model.gguf", 10);
        bench.provisioner.delete_model(TINY).unwrap();
        assert!(!bench.base().join(TINY_FOLDER).exists());
        assert!(other.exists());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let bench = Bench::new();
        let error = bench.provisioner.delete_model("nonexistent/model").unwrap_err();
        assert!(matches!(error, Error::ModelNotFound { .. }));
        assert!(error.to_string().contains("not found"), "{error}");
    }

    #[test]
    fn every_file_of_a_model_goes() {
        let bench = Bench::new();
        for name in ["model.gguf", "config.json", "tokenizer.json", "sub/more.gguf"] {
            bench.put(&format!("llama/{name}"), 10);
        }
        bench.provisioner.delete_model("llama").unwrap();
        assert!(!bench.base().join("llama").exists());
        assert!(bench.base().exists());
    }
}

mod info {
    use super::*;

    #[test]
    fn it_tells_reference_folder_size_and_files() {
        let bench = Bench::new();
        let file = bench.put(&format!("{TINY_FOLDER}/model.gguf"), 1000);
        bench.put(&format!("{TINY_FOLDER}/config.json"), 100);
        bench.put(&format!("{TINY_FOLDER}/.cache/huggingface/x.metadata"), 7);
        let info = bench.provisioner.get_model_info(TINY).unwrap();
        assert_eq!(info.reference, TINY);
        assert_eq!(info.model_dir.file_name().unwrap(), TINY_FOLDER);
        assert_eq!((info.total_size, info.file_count), (1100, 2));
        assert_eq!(info.gguf_files, [file]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let error = Bench::new().provisioner.get_model_info("nonexistent/model").unwrap_err();
        assert!(matches!(error, Error::ModelNotFound { .. }), "{error}");
    }

    #[test]
    fn several_quantizations_are_told_together_and_alone() {
        let bench = Bench::new();
        let deep = bench.put("llama/sub/m-Q4_K_M.gguf", 500);
        let flat = bench.put("llama/m-Q8_0.gguf", 800);
        bench.put("llama/readme.txt", 50);
        let info = bench.provisioner.get_model_info("llama").unwrap();
        assert_eq!((info.total_size, info.file_count), (1350, 3));
        assert_eq!(info.gguf_files, [flat, deep.clone()]);
        let info = bench.provisioner.get_model_info("llama:Q4_K_M").unwrap();
        assert_eq!((info.total_size, info.file_count, info.gguf_files), (500, 1, vec![deep]));
    }
}

mod verification {
    use super::*;

    #[test]
    fn a_model_with_weights_is_right() {
        let bench = Bench::new();
        bench.put("tinyllama/model.gguf", 16);
        bench.provisioner.verify_model("tinyllama").unwrap();
    }

    #[test]
    fn no_gguf_files_are_told() {
        let bench = Bench::new();
        bench.put("broken/config.json", 2);
        let error = bench.provisioner.verify_model("broken").unwrap_err();
        assert!(error.to_string().starts_with("No .gguf files"), "{error}");
        assert!(bench.provisioner.verify_model("missing").unwrap_err().to_string().contains("not found"));
    }

    #[test]
    fn an_empty_gguf_file_is_told() {
        let bench = Bench::new();
        bench.put("empty/sub/model.gguf", 0);
        bench.put("empty/other.gguf", 10);
        let error = bench.provisioner.verify_model("empty").unwrap_err();
        assert!(error.to_string().starts_with("Empty .gguf file"), "{error}");
        assert!(error.to_string().contains("sub/model.gguf"), "{error}");
    }

    #[test]
    fn every_gguf_file_is_looked_at() {
        let bench = Bench::new();
        bench.put("multi/q4.gguf", 7);
        bench.put("multi/q8.gguf", 7);
        bench.provisioner.verify_model("multi").unwrap();
    }
}

mod disk_usage {
    use super::*;

    #[test]
    fn an_empty_base_folder_takes_nothing() {
        assert_eq!(Bench::new().provisioner.get_total_disk_usage().unwrap(), 0);
    }

    #[test]
    fn one_model_counts() {
        let bench = Bench::new();
        bench.put("tinyllama/model.gguf", 1000);
        assert_eq!(bench.provisioner.get_total_disk_usage().unwrap(), 1000);
    }

    #[test]
    fn several_models_count_at_every_depth_and_a_file_with_two_names_once() {
        let bench = Bench::new();
        let file = bench.put("tinyllama/model.gguf", 500);
        bench.put("qwen/a/b/model.gguf", 300);
        bench.put("qwen/config.json", 50);
        bench.put("qwen/.cache/bookkeeping", 9999);
        fs::hard_link(file, bench.base().join("qwen/same.gguf")).unwrap();
        assert_eq!(bench.provisioner.get_total_disk_usage().unwrap(), 850);
    }

    #[test]
    fn a_missing_base_folder_takes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let provisioner = ModelProvisioner::builder(scratch.path().join("missing")).build();
        assert_eq!(provisioner.get_total_disk_usage().unwrap(), 0);
    }
}

mod names {
    use super::*;

    #[test]
    fn the_last_part_in_lower_case_is_the_folder() {
        let bench = Bench::new();
        let file = bench.put("qwen2.5-0.5b-instruct-gguf/model.gguf", 4);
        let references = [
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        ];
        for reference in references {
            assert_eq!(bench.provisioner.find_local_model(reference), Some(file.clone()), "{reference}");
        }
    }

    #[test]
    fn a_folder_that_belongs_to_another_repository_never_answers() {
        let bench = Bench::new();
        let alice = bench.put("model-gguf/m.Q4_K_M.gguf", 10);
        bench.record("model-gguf", "alice/Model-GGUF", &[("m.Q4_K_M.gguf", 10)]);
        let bob = bench.put("bob--model-gguf/m.Q4_K_M.gguf", 20);
        bench.record("bob--model-gguf", "bob/Model-GGUF", &[("m.Q4_K_M.gguf", 20)]);
        assert_eq!(bench.provisioner.find_local_model("alice/Model-GGUF"), Some(alice.clone()));
        assert_eq!(bench.provisioner.find_local_model("bob/Model-GGUF"), Some(bob.clone()));
        assert_eq!(bench.provisioner.find_local_model("carol/Model-GGUF"), None);
        assert!(bench.provisioner.delete_model("carol/Model-GGUF").unwrap_err().to_string().contains("not found"));
        bench.provisioner.delete_model("bob/Model-GGUF").unwrap();
        assert!(alice.exists() && !bob.exists());
    }
}

mod integration {
    use super::*;

    #[test]
    fn a_folder_as_the_official_client_leaves_it_works_throughout() {
        let bench = Bench::new();
        let weights = bench.put(&format!("{TINY_FOLDER}/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"), 500);
        for name in ["config.json", "tokenizer.json", "README.md", ".gitattributes"] {
            bench.put(&format!("{TINY_FOLDER}/{name}"), 10);
        }
        let provisioner = &bench.provisioner;
        assert_eq!(provisioner.list_models().unwrap(), [(TINY_FOLDER.to_owned(), weights.clone())]);
        assert_eq!(provisioner.find_local_model(TINY), Some(weights));
        provisioner.verify_model(TINY).unwrap();
        assert_eq!(provisioner.get_model_info(TINY).unwrap().file_count, 5);
        provisioner.delete_model(TINY).unwrap();
        assert_eq!(provisioner.get_total_disk_usage().unwrap(), 0);
    }

    #[test]
    fn models_of_different_sizes_are_told_apart() {
        let bench = Bench::new();
        let sizes = [("phi3", 1000), ("qwen", 500), ("tinyllama", 100)];
        for (name, size) in sizes {
            bench.put(&format!("{name}/{name}.gguf"), size);
        }
        let listed = bench.provisioner.list_models().unwrap();
        let found: Vec<(&str, i64)> = listed
            .iter()
            .map(|(name, path)| (name.as_str(), bench.provisioner.get_model_size(path).unwrap()))
            .collect();
        assert_eq!(found, sizes.map(|(name, size)| (name, i64::try_from(size).unwrap())));
        assert_eq!(bench.provisioner.get_total_disk_usage().unwrap(), 1600);
    }
}

mod edge_cases {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn odd_names_are_models_too() {
        let bench = Bench::new();
        bench.put("model/model-v1.2.3_Q4_K_M [copy] #1.gguf", 4);
        bench.put("späte Übung/日本.GGUF", 4);
        let raw = bench.base().join(OsStr::from_bytes(b"raw\xff"));
        fs::create_dir(&raw).unwrap();
        fs::write(raw.join("m.gguf"), b"x").unwrap();
        assert_eq!(
            bench.listed(),
            pairs(&[
                ("model", "model-v1.2.3_Q4_K_M [copy] #1.gguf"),
                ("raw\\xff", "m.gguf"),
                ("späte Übung", "日本.GGUF"),
            ])
        );
        assert!(bench.provisioner.find_local_model("späte Übung").is_some());
    }

    #[test]
    fn relative_and_absolute_base_folders_work_and_nothing_is_created() {
        for base in ["no-such-models-folder", "/no-such-models-folder/at/all"] {
            let provisioner = ModelProvisioner::new(PathBuf::from(base));
            assert_eq!(provisioner.list_models().unwrap(), []);
            assert_eq!(provisioner.base_dir(), Path::new(base));
            assert!(!Path::new(base).exists());
        }
    }

    #[test]
    fn hostile_references_are_refused_before_the_disk_is_touched() {
        let bench = Bench::new();
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("precious.gguf");
        fs::write(&precious, b"x").unwrap();
        std::os::unix::fs::symlink(outside.path(), bench.base().join("link")).unwrap();
        bench.put("m/model.gguf", 4);
        let long_way = format!("../{}", outside.path().file_name().unwrap().to_str().unwrap());
        for reference in ["", " ", ".", "..", "/", "/etc", "../m", "m/..", "a/../m", "m\0", "a\\b", ".cache", &long_way]
        {
            for error in [
                bench.provisioner.delete_model(reference).unwrap_err(),
                bench.provisioner.verify_model(reference).unwrap_err(),
                bench.provisioner.get_model_info(reference).unwrap_err(),
            ] {
                assert!(matches!(error, Error::InvalidReference { .. }), "{reference:?}: {error}");
            }
        }
        assert!(bench.base().join("m/model.gguf").exists());
        // A link out of the base folder may go; what it leads to never does.
        let _ = bench.provisioner.delete_model("link");
        assert!(precious.exists());
    }
}

mod shared_folders {
    use super::*;

    const QWEN: &str = "qwen/qwen2.5-0.5b-instruct-q4_k_m.gguf";
    const QWEN_FP16: &str = "qwen/qwen2.5-0.5b-instruct-fp16.gguf";

    #[test]
    fn an_alias_means_its_own_file_in_a_folder_that_others_share() {
        for (gone, gone_alias, stays) in [(QWEN, "qwen", QWEN_FP16), (QWEN_FP16, "qwen-fp16", QWEN)] {
            let bench = Bench::new();
            let gone = bench.put(gone, 10);
            let stays = bench.put(stays, 20);
            assert_eq!(bench.provisioner.find_local_model(gone_alias), Some(gone.clone()));
            bench.provisioner.delete_model(gone_alias).unwrap();
            assert!(!gone.exists() && stays.exists(), "{gone_alias}");
        }
    }

    #[test]
    fn an_entry_of_the_catalog_is_installed_when_its_own_file_is() {
        let bench = Bench::new();
        let installed = |alias: &str| {
            let entry = bench.provisioner.catalog().get(alias).unwrap();
            bench.provisioner.is_installed(entry).unwrap()
        };
        bench.put(QWEN_FP16, 10);
        bench.put("tinyllama/something-else.gguf", 10);
        assert!(installed("qwen-fp16"));
        assert!(!installed("qwen") && !installed("tinyllama") && !installed("mistral"));
    }

    #[test]
    fn a_quantization_means_its_own_files() {
        let bench = Bench::new();
        let small = bench.put("m/Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", 10);
        let second = bench.put("m/Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", 10);
        let large = bench.put("m/m-Q8_0.gguf", 20);
        bench.provisioner.delete_model("m:q4_k_m").unwrap();
        assert!(!small.exists() && !second.exists() && large.exists());
        assert!(matches!(bench.provisioner.delete_model("m:q4_k_m"), Err(Error::ModelNotFound { .. })));
    }
}

#[test]
fn errors_become_anyhow_errors_with_a_question_mark() {
    fn work(provisioner: &ModelProvisioner) -> anyhow::Result<()> {
        provisioner.verify_model("missing")?;
        Ok(())
    }
    let error = work(&Bench::new().provisioner).unwrap_err();
    assert!(error.downcast_ref::<Error>().is_some());
}

#[tokio::test]
async fn other_providers_are_refused_by_name() {
    let error = Bench::new().provisioner.download_model("org/name", "modelscope").await.unwrap_err();
    assert_eq!(error.to_string(), "provider 'modelscope' is not supported; use 'hf'");
}

#[test]
fn white_space_is_part_of_a_folders_name() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["a", "a "] {
        fs::create_dir(scratch.path().join(name)).unwrap();
        fs::write(scratch.path().join(name).join("m.gguf"), b"GGUF").unwrap();
    }
    let provisioner = ModelProvisioner::builder(scratch.path().to_owned()).build();
    provisioner.delete_model("a ").unwrap();
    assert!(scratch.path().join("a").exists() && !scratch.path().join("a ").exists());
    for other in [" a", "a\t", "a\n", "a\u{a0}"] {
        assert!(provisioner.delete_model(other).is_err(), "{other:?}");
    }
    assert!(scratch.path().join("a").exists());
}
