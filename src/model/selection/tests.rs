//! Which files are chosen.

use proptest::prelude::*;

use super::*;

fn files(paths: &[&str]) -> Vec<RemoteFile> {
    let mut files: Vec<RemoteFile> = paths
        .iter()
        .map(|path| RemoteFile {
            path: RepoPath::parse(path).unwrap(),
            size: 10,
            digest: None,
            blob_id: None,
            xet_hash: None,
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn chosen_with(paths: &[&str], refused: &[&str], wanted: &Wanted) -> Result<Vec<String>> {
    let files = files(paths);
    let refused: Vec<(String, String)> =
        refused.iter().map(|path| ((*path).to_owned(), "it has a '.' or '..' part".to_owned())).collect();
    let listing = Candidates { repository: "org/name", files: &files, refused: &refused };
    select(&listing, wanted).map(|selection| selection.files.iter().map(|f| f.path.to_string()).collect())
}

fn chosen(paths: &[&str], wanted: &Wanted) -> Result<Vec<String>> {
    chosen_with(paths, &[], wanted)
}

fn quantization(label: &str) -> Wanted {
    Wanted::Quantization(label.to_owned())
}

const GGUF: [&str; 9] = [
    "README.md",
    "config.json",
    "m-F16-00001-of-00002.gguf",
    "m-F16-00002-of-00002.gguf",
    "m.Q2_K.gguf",
    "m.q4_k_m.gguf",
    "mmproj-m-Q8_0.gguf",
    "Q8_0/m-Q8_0-00001-of-00002.gguf",
    "Q8_0/m-Q8_0-00002-of-00002.gguf",
];

#[test]
fn a_quantization_is_its_files_and_nothing_else() {
    assert_eq!(chosen(&GGUF, &quantization("Q4_K_M")).unwrap(), ["m.q4_k_m.gguf"]);
    assert_eq!(
        chosen(&GGUF, &quantization("fp16")).unwrap(),
        ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf"]
    );
    assert_eq!(
        chosen(&GGUF, &quantization("q8_0")).unwrap(),
        ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]
    );
}

#[test]
fn a_folder_may_tell_the_quantization() {
    let paths = ["Q5_K_M/weights-00001-of-00002.gguf", "Q5_K_M/weights-00002-of-00002.gguf", "Q6_K/weights.gguf"];
    assert_eq!(chosen(&paths, &quantization("Q5_K_M")).unwrap().len(), 2);
    assert_eq!(chosen(&paths, &quantization("Q6_K")).unwrap(), ["Q6_K/weights.gguf"]);
}

#[test]
fn the_default_is_q4_k_m_then_q8_0_then_the_first() {
    assert_eq!(chosen(&GGUF, &Wanted::Default).unwrap(), ["m.q4_k_m.gguf"]);
    assert_eq!(chosen(&["m.Q2_K.gguf", "m.Q8_0.gguf"], &Wanted::Default).unwrap(), ["m.Q8_0.gguf"]);
    assert_eq!(chosen(&["m.Q2_K.gguf", "m.Q6_K.gguf"], &Wanted::Default).unwrap(), ["m.Q2_K.gguf"]);
    assert_eq!(chosen(&["plain.gguf", "README.md"], &Wanted::Default).unwrap(), ["plain.gguf"]);
}

#[test]
fn the_exact_label_comes_before_a_publishers_prefix() {
    let paths = ["m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf"];
    assert_eq!(chosen(&paths, &quantization("Q4_K_XL")).unwrap(), ["m-Q4_K_XL.gguf"]);
    assert_eq!(chosen(&paths, &quantization("UD-Q4_K_XL")).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
    assert_eq!(chosen(&paths[..1], &quantization("Q4_K_XL")).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
}

#[test]
fn a_tag_that_is_no_label_is_the_last_token_of_the_name() {
    let paths = ["Phi-3-mini-4k-instruct-q4.gguf", "Phi-3-mini-4k-instruct-fp16.gguf"];
    assert_eq!(chosen(&paths, &quantization("Q4")).unwrap(), ["Phi-3-mini-4k-instruct-q4.gguf"]);
    assert_eq!(chosen(&paths, &Wanted::Default).unwrap(), ["Phi-3-mini-4k-instruct-fp16.gguf"]);
}

#[test]
fn an_unknown_quantization_lists_what_there_is() {
    let error = chosen(&GGUF, &quantization("Q3_K_S")).unwrap_err();
    assert!(matches!(&error, Error::FileNotFound { .. }));
    let text = error.to_string();
    assert!(text.contains("quantization 'Q3_K_S'") && text.contains("Q2_K") && text.contains("Q8_0"), "{text}");
}

#[test]
fn two_models_of_one_quantization_are_named_not_guessed() {
    let error = chosen(&["a-7b.Q4_K_M.gguf", "a-13b.Q4_K_M.gguf"], &Wanted::Default).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--file 'a-7b.Q4_K_M.gguf'") && text.contains("a-13b"), "{text}");
}

#[test]
fn an_incomplete_set_names_what_is_missing() {
    let paths = ["m-Q4_K_M-00001-of-00003.gguf", "m-Q4_K_M-00003-of-00003.gguf"];
    for wanted in [Wanted::Default, quantization("Q4_K_M"), Wanted::File(RepoPath::parse(paths[0]).unwrap())] {
        let text = chosen(&paths, &wanted).unwrap_err().to_string();
        assert!(text.contains("m-Q4_K_M-00002-of-00003.gguf"), "{text}");
    }
}

#[test]
fn a_named_file_comes_alone_and_a_shard_with_its_set() {
    let file = |path: &str| Wanted::File(RepoPath::parse(path).unwrap());
    assert_eq!(chosen(&GGUF, &file("m.Q2_K.gguf")).unwrap(), ["m.Q2_K.gguf"]);
    assert_eq!(chosen(&GGUF, &file("mmproj-m-Q8_0.gguf")).unwrap(), ["mmproj-m-Q8_0.gguf"]);
    assert_eq!(chosen(&GGUF, &file("m-F16-00002-of-00002.gguf")).unwrap().len(), 2);
    assert!(chosen(&GGUF, &file("other.gguf")).unwrap_err().to_string().contains("m.Q2_K.gguf"));
}

#[test]
fn patterns_match_whole_paths() {
    let patterns = |list: &[&str]| Wanted::Patterns(list.iter().map(|p| (*p).to_owned()).collect());
    assert_eq!(chosen(&GGUF, &patterns(&["*"])).unwrap().len(), GGUF.len());
    assert_eq!(chosen(&GGUF, &patterns(&["Q8_0/*", "*.json"])).unwrap().len(), 3);
    assert_eq!(chosen(&GGUF, &patterns(&["mmproj*"])).unwrap(), ["mmproj-m-Q8_0.gguf"]);
    assert!(chosen(&GGUF, &patterns(&["*.json", "*.onnx"])).unwrap_err().to_string().contains("*.onnx"));
    assert!(chosen(&GGUF, &patterns(&["*", "config.json"])).is_ok(), "a pattern may match what another has");
}

#[test]
fn safetensors_come_with_configuration_and_tokenizer_and_without_copies() {
    let paths = [
        ".gitattributes",
        "README.md",
        "LICENSE.txt",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "original/consolidated.00.pth",
        "original/params.json",
        "onnx/model.onnx",
        "onnx/config.json",
        "1_Pooling/config.json",
    ];
    assert_eq!(
        chosen(&paths, &Wanted::Default).unwrap(),
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "1_Pooling/config.json",
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
            "merges.txt",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
}

#[test]
fn a_pipeline_keeps_the_plain_precision_of_each_part() {
    let paths = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
    ];
    let files = chosen(&paths, &Wanted::Default).unwrap();
    assert_eq!(files.len(), 5, "{files:?}");
    assert!(!files.iter().any(|path| path.contains("fp16") || path.ends_with(".bin")), "{files:?}");
}

#[test]
fn a_repository_without_weights_says_so() {
    let text = chosen(&["README.md", "pytorch_model.bin"], &Wanted::Default).unwrap_err().to_string();
    assert!(text.contains("GGUF or safetensors weights") && text.contains("pytorch_model.bin"), "{text}");
}

#[test]
fn one_hostile_path_refuses_the_whole_selection() {
    let everything = Wanted::Patterns(vec!["*".to_owned()]);
    let cases: [(&[&str], &[&str], Wanted); 8] = [
        (&["m.Q4_K_M.gguf"], &["../x.Q4_K_M.gguf"], Wanted::Default),
        (&["m.Q4_K_M.gguf"], &["..\\x.Q4_K_M.gguf"], quantization("Q4_K_M")),
        (&["m.Q2_K.gguf"], &["/x.Q4_K_M.gguf"], Wanted::Default),
        (&["m.safetensors", "config.json"], &["../config.json"], everything.clone()),
        (&["m.gguf", "M.GGUF"], &[], everything.clone()),
        (&["a/b", "a"], &[], everything.clone()),
        (&[".cache/llorch-models/source.json", "m.gguf"], &[], everything.clone()),
        (&["m.gguf.0123456789abcdef.llorch", "m.gguf"], &[], everything),
    ];
    for (paths, refused, wanted) in cases {
        let result = chosen_with(paths, refused, &wanted);
        assert!(matches!(result, Err(Error::UnsafePath { .. })), "{paths:?} {refused:?}: {result:?}");
    }
}

#[test]
fn what_is_not_selected_may_be_hostile() {
    assert_eq!(chosen_with(&["m.Q4_K_M.gguf"], &["../README.md"], &Wanted::Default).unwrap(), ["m.Q4_K_M.gguf"]);
}

#[test]
fn the_principal_file_is_never_a_sidecar_or_the_middle_of_a_set() {
    let cases: [(&[&str], &str); 6] = [
        (&["mmproj-a.gguf", "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
        (&["z.gguf", "b.gguf", "config.json"], "b.gguf"),
        (&["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (&["model.safetensors", "config.json"], "model.safetensors"),
        (&["mmproj-a.gguf", "README.md"], "README.md"),
        (&["mmproj-a.gguf"], "mmproj-a.gguf"),
    ];
    for (paths, wanted) in cases {
        assert_eq!(principal(paths.iter().copied()), Some(wanted), "{paths:?}");
    }
    assert_eq!(principal([]), None);
}

proptest! {
    #[test]
    fn a_selection_is_part_of_the_listing_and_whole(
        paths in prop::collection::btree_set("(Q8_0/|a/|original/)?[ab](-Q4_K_M|-Q8_0|-f16)?(-0000[123]-of-0000[23])?\\.(gguf|safetensors|json)", 1..12),
        label in prop_oneof![Just("Q4_K_M"), Just("Q8_0"), Just("F16")],
    ) {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        for wanted in [Wanted::Default, quantization(label)] {
            if let Ok(selected) = chosen(&paths, &wanted) {
                prop_assert!(!selected.is_empty());
                prop_assert!(selected.iter().all(|path| paths.contains(&path.as_str())));
                prop_assert!(missing_shards(selected.iter().map(String::as_str)).is_empty());
                if matches!(wanted, Wanted::Quantization(_)) {
                    let labels: Vec<_> = selected.iter().map(|path| label_of(path)).collect();
                    prop_assert!(labels.iter().all(|found| found.as_ref().is_some_and(|found| found.is(label))), "{:?}", selected);
                }
            }
        }
    }

    #[test]
    fn any_text_as_pattern_is_safe(pattern in any::<String>()) {
        let _ = chosen(&GGUF, &Wanted::Patterns(vec![pattern]));
    }
}
