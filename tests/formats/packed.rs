//! Quantized weights in safetensors: how many parameters they have, whatever their layout.

use std::time::{Duration, Instant};

use rbee_hive::format::config_json::Config;
use rbee_hive::format::safetensors::Packed;
use rbee_hive::format::{Metadata, read_metadata};
use rbee_hive::model::Quantization;

use crate::memory::peak_of;
use crate::support::{file, in_time};

type Tensors = Vec<(String, &'static str, Vec<u64>)>;

/// A file with these tensors; data are not written, so that the header alone can tell.
pub fn safetensors(tensors: &Tensors) -> (Vec<u8>, u64) {
    let (mut json, mut at) = (String::from("{"), 0);
    for (index, (name, dtype, shape)) in tensors.iter().enumerate() {
        let bits = match *dtype {
            "F64" | "I64" => 64,
            "F32" | "I32" | "U32" => 32,
            "F16" | "BF16" | "I16" => 16,
            "F4" => 4,
            _ => 8,
        };
        let end = at + shape.iter().product::<u64>() * bits / 8;
        let comma = if index > 0 { "," } else { "" };
        json.push_str(&format!(
            "{comma}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        ));
        at = end;
    }
    json.push('}');
    ([&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat(), at)
}

/// What the header of a file with these tensors tells, without a word from its configuration.
fn header(tensors: &Tensors) -> Metadata {
    let (bytes, data) = safetensors(tensors);
    let handle = file(&bytes);
    handle.set_len(bytes.len() as u64 + data).unwrap();
    read_metadata(&handle, "model.safetensors").unwrap()
}

fn told(tensors: &Tensors, quantization: &str) -> Metadata {
    let mut metadata = header(tensors);
    if !quantization.is_empty() {
        let config = format!(r#"{{"model_type":"llama",{quantization}}}"#);
        Config::parse(config.as_bytes()).unwrap().complete(&mut metadata);
    }
    metadata
}

fn tensors(list: &[(&str, &'static str, &[u64])]) -> Tensors {
    list.iter().map(|(name, dtype, shape)| ((*name).to_owned(), *dtype, shape.to_vec())).collect()
}

/// 128 inputs, 256 outputs, groups of 64.
const LAYER: u64 = 128 * 256;
/// An embedding of 1,000 tokens and a norm, in F16.
const PLAIN: u64 = 1000 * 128 + 128;

fn with_plain(mut list: Tensors) -> Tensors {
    list.extend(tensors(&[("model.embed_tokens.weight", "F16", &[1000, 128]), ("model.norm.weight", "F16", &[128])]));
    list
}

fn gptq(bits: u64) -> Tensors {
    let packed = 128 * bits / 32;
    tensors(&[
        ("l.qweight", "I32", &[packed, 256]),
        ("l.qzeros", "I32", &[2, 256 * bits / 32]),
        ("l.scales", "F16", &[2, 256]),
        ("l.g_idx", "I32", &[128]),
        ("l.bias", "F16", &[256]),
    ])
}

#[test]
fn every_layout_has_the_parameters_that_were_packed() {
    let awq =
        tensors(&[("l.qweight", "I32", &[128, 32]), ("l.qzeros", "I32", &[2, 32]), ("l.scales", "F16", &[2, 256])]);
    let four_bits = |dtype, shape: &[u64], kind: &str| {
        let mut list = tensors(&[
            ("l.weight.absmax", "U8", &[LAYER / 64]),
            ("l.weight.nested_absmax", "F32", &[LAYER / 64 / 256]),
            ("l.weight.nested_quant_map", "F32", &[256]),
            ("l.weight.quant_map", "F32", &[16]),
        ]);
        list.push((format!("l.weight.quant_state.bitsandbytes__{kind}"), "U8", vec![120]));
        list.push(("l.weight".to_owned(), dtype, shape.to_vec()));
        list
    };
    let eight_bits =
        tensors(&[("l.weight", "I8", &[256, 128]), ("l.SCB", "F32", &[256]), ("l.weight_format", "U8", &[])]);
    let gpt_oss = tensors(&[
        ("e.gate_up_proj_blocks", "U8", &[4, 256, 4, 16]),
        ("e.gate_up_proj_scales", "U8", &[4, 256, 4]),
        ("e.gate_up_proj_bias", "BF16", &[4, 256]),
    ]);
    let compressed = |bits: u64| {
        tensors(&[
            ("l.weight_packed", "I32", &[256, 128 * bits / 32]),
            ("l.weight_scale", "BF16", &[256, 2]),
            ("l.weight_zero_point", "I32", &[256 * bits / 32, 2]),
            ("l.weight_shape", "I64", &[2]),
        ])
    };
    let nvfp4 = |name| {
        let mut list = tensors(&[
            ("l.weight_scale", "F8_E4M3", &[256, 8]),
            ("l.weight_scale_2", "F32", &[]),
            ("l.weight_global_scale", "F32", &[1]),
            ("l.input_scale", "F32", &[]),
        ]);
        list.push((format!("l.{name}"), "U8", vec![256, 64]));
        list
    };
    let modelopt_int4 = tensors(&[
        ("l.weight", "U8", &[128, 128]),
        ("l.weight_scale", "F16", &[256, 1]),
        ("l.pre_quant_scale", "F16", &[128]),
    ]);
    let fp8 = |scale| {
        let mut list = tensors(&[("l.weight", "F8_E4M3", &[256, 128])]);
        list.push((format!("l.{scale}"), "F32", vec![2, 1]));
        list
    };
    let fused = tensors(&[
        ("e.gate_up_proj", "F8_E4M3", &[4, 128, 64]),
        ("e.gate_up_proj_scale", "F32", &[4, 1, 64]),
        ("e.gate_up_proj_scale_inv", "F32", &[4, 1, 64]),
    ]);
    let mlx = |bits: u64| {
        tensors(&[
            ("l.weight", "U32", &[256, 128 * bits / 32]),
            ("l.scales", "BF16", &[256, 2]),
            ("l.biases", "BF16", &[256, 2]),
        ])
    };
    let quantized = |text: &str| format!(r#""quantization_config":{text}"#);
    let groups = |weights: &str, format: &str| {
        quantized(&format!(
            r#"{{"quant_method":"compressed-tensors","format":"{format}","config_groups":{{"group_0":{{"weights":{weights},"input_activations":null}}}}}}"#
        ))
    };
    let method = |name: &str| quantized(&format!(r#"{{"quant_method":"{name}"}}"#));
    let cases: Vec<(&str, Tensors, String, u64, Option<&str>)> = vec![
        ("gptq 2", gptq(2), String::new(), LAYER + 256, Some("GPTQ-INT2")),
        ("gptq 3", gptq(3), String::new(), LAYER + 256, Some("GPTQ-INT3")),
        ("gptq 4", gptq(4), String::new(), LAYER + 256, Some("GPTQ-INT4")),
        ("gptq 8", gptq(8), quantized(r#"{"quant_method":"gptq","bits":8}"#), LAYER + 256, Some("GPTQ-INT8")),
        ("awq", awq.clone(), String::new(), LAYER, Some("AWQ-INT4")),
        ("awq with config", awq, quantized(r#"{"quant_method":"awq","bits":4}"#), LAYER, Some("AWQ-INT4")),
        ("nf4", four_bits("U8", &[LAYER / 2, 1], "nf4"), String::new(), LAYER, Some("NF4")),
        ("fp4", four_bits("U8", &[LAYER / 2, 1], "fp4"), method("bitsandbytes"), LAYER, Some("FP4")),
        ("nf4 in bf16", four_bits("BF16", &[LAYER / 4, 1], "nf4"), String::new(), LAYER, Some("NF4")),
        ("int8", eight_bits, String::new(), LAYER, Some("INT8")),
        ("gpt-oss", gpt_oss, method("mxfp4"), 4 * LAYER + 4 * 256, Some("MXFP4")),
        (
            "compressed-tensors 4",
            compressed(4),
            groups(r#"{"num_bits":4,"type":"int"}"#, "pack-quantized"),
            LAYER,
            Some("W4A16"),
        ),
        (
            "compressed-tensors 8",
            compressed(8),
            groups(r#"{"num_bits":8,"type":"int"}"#, "pack-quantized"),
            LAYER,
            Some("W8A16"),
        ),
        (
            "compressed-tensors nvfp4",
            nvfp4("weight_packed"),
            groups(r#"{"num_bits":4,"type":"float"}"#, "nvfp4-pack-quantized"),
            LAYER,
            Some("NVFP4"),
        ),
        (
            "compressed-tensors fp8",
            fp8("weight_scale"),
            groups(r#"{"num_bits":8,"type":"float"}"#, "float-quantized"),
            LAYER,
            Some("FP8"),
        ),
        (
            "modelopt nvfp4",
            nvfp4("weight"),
            quantized(r#"{"quant_method":"modelopt","quant_algo":"NVFP4"}"#),
            LAYER,
            Some("NVFP4"),
        ),
        ("nvfp4 alone", nvfp4("weight"), String::new(), LAYER, Some("NVFP4")),
        (
            "modelopt int4",
            modelopt_int4.clone(),
            quantized(r#"{"quant_method":"modelopt","quant_algo":"W4A16_AWQ"}"#),
            LAYER,
            Some("W4A16_AWQ"),
        ),
        ("modelopt int4 alone", modelopt_int4, String::new(), LAYER, None),
        ("fp8", fp8("weight_scale_inv"), method("fp8"), LAYER, Some("FP8")),
        ("fp8 alone", fp8("weight_scale_inv"), String::new(), LAYER, Some("FP8")),
        ("fused experts", fused, String::new(), 4 * 128 * 64, Some("FP8")),
        ("mlx 4", mlx(4), r#""quantization":{"group_size":64,"bits":4}"#.to_owned(), LAYER, Some("MLX-INT4")),
        ("mlx 6", mlx(6), r#""quantization":{"group_size":64,"bits":6}"#.to_owned(), LAYER, Some("MLX-INT6")),
        ("plain", Vec::new(), String::new(), 0, Some("F16")),
    ];
    for (name, list, config, parameters, label) in cases {
        let list = with_plain(list);
        let told = told(&list, &config);
        assert_eq!(told.parameters, Some(parameters + PLAIN), "{name}: {:?}", told.packed);
        assert_eq!(told.quantization.as_ref().map(Quantization::as_str), label, "{name}");
        assert_eq!(told.warnings, [""; 0], "{name}");
        assert_eq!(told.packed.is_some(), name != "plain", "{name}");
        let bits = told.tensor_bytes.unwrap() as f64 * 8.0 / (parameters + PLAIN) as f64;
        assert!((told.bits_per_weight().unwrap() - bits).abs() < 1e-9, "{name}");
        let says = told.facts().iter().any(|(_, value)| value.contains("not counted as parameters"));
        assert_eq!(says, name != "plain", "{name}");
    }
}

#[test]
fn what_does_not_tell_its_number_has_none() {
    let only_weights = tensors(&[("l.qweight", "I32", &[16, 256])]);
    let words = tensors(&[("l.weight_packed", "I32", &[256, 12]), ("l.weight_scale", "F16", &[256, 2])]);
    let exl2 =
        tensors(&[("l.q_weight", "I32", &[64, 256]), ("l.q_scale", "I32", &[2, 32]), ("l.q_perm", "I16", &[128])]);
    let exl3 = tensors(&[("l.trellis", "I16", &[8, 16, 64]), ("l.suh", "F16", &[128]), ("l.svh", "F16", &[256])]);
    let hqq = tensors(&[("l.W_q", "U8", &[256, 64]), ("l.scale", "F16", &[512]), ("l.zero", "F16", &[512])]);
    let quanto = tensors(&[("l.weight._data", "I8", &[256, 128]), ("l.weight._scale", "F16", &[256, 1])]);
    let eetq = tensors(&[("l.weight", "I8", &[128, 256]), ("l.weight_scales", "F16", &[256])]);
    let aqlm = tensors(&[("l.codes", "I8", &[256, 16, 2]), ("l.codebooks", "F16", &[2, 256, 1, 8])]);
    let mlx = tensors(&[("l.weight", "U32", &[256, 16]), ("l.scales", "F16", &[256, 2])]);
    let config = |method: &str| format!(r#""quantization_config":{{"quant_method":"{method}","bits":4}}"#);
    let cases = [
        ("bits unknown", only_weights, String::new()),
        ("no configuration", words.clone(), String::new()),
        // Releases differ in how they pack three bits.
        (
            "three bits in words",
            words,
            r#""quantization_config":{"quant_method":"compressed-tensors","config_groups":{"a":{"weights":{"num_bits":3,"type":"int"}}}}"#
                .to_owned(),
        ),
        ("exl2", exl2, config("exl2")),
        ("exl3", exl3, config("exl3")),
        ("hqq", hqq.clone(), config("hqq")),
        ("hqq alone", hqq, String::new()),
        ("quanto", quanto, config("quanto")),
        ("eetq", eetq, config("eetq")),
        ("aqlm", aqlm, config("aqlm")),
        ("mlx alone", mlx.clone(), String::new()),
        ("mlx of several widths", mlx, r#""quantization":{"group_size":64,"bits":4,"l":{"bits":8}}"#.to_owned()),
    ];
    for (name, list, config) in cases {
        let told = told(&list, &config);
        assert_eq!(told.parameters, None, "{name}: {:?}", told.packed);
        assert_eq!(told.bits_per_weight(), None, "{name}");
        assert!(
            told.facts().contains(&("weights", "packed: the number of parameters is not known".to_owned())),
            "{name}"
        );
    }
}

/// A set is cut wherever its files are full: a weight may lie in one file, and what tells its width in the next.
#[test]
fn parts_add_up_wherever_the_set_is_cut() {
    let all = with_plain(
        gptq(4)
            .into_iter()
            .chain(gptq(4).into_iter().map(|(name, dtype, shape)| (name.replacen('l', "m", 1), dtype, shape)))
            .collect(),
    );
    let config = Config::parse(br#"{"quantization_config":{"quant_method":"gptq","bits":4}}"#).unwrap();
    let whole = told(&all, r#""quantization_config":{"quant_method":"gptq","bits":4}"#);
    assert_eq!(whole.parameters, Some(2 * (LAYER + 256) + PLAIN));
    for cut in 1..all.len() {
        let (first, second) = all.split_at(cut);
        let mut sum = header(&first.to_vec());
        sum.add_part(&header(&second.to_vec()));
        config.complete(&mut sum);
        // Scales whose weights are all in another file look like parameters.
        let told = sum.parameters.unwrap();
        assert!((whole.parameters.unwrap()..=whole.parameters.unwrap() + 512).contains(&told), "{cut}: {told}");
        assert_eq!((sum.tensor_bytes, sum.tensors), (whole.tensor_bytes, whole.tensors));
    }
}

#[test]
fn sums_beyond_all_bounds_are_unknown() {
    let huge = Packed { known: u64::MAX, bits: 8, width: Some(4), several: true, ..Packed::default() };
    assert_eq!(huge.parameters(Some(1)), None);
    let words = Packed { words: u64::MAX, width: Some(4), ..Packed::default() };
    assert_eq!(words.parameters(Some(1)), None);
    let none = Packed { bits: 8, width: Some(0), ..Packed::default() };
    assert_eq!(none.parameters(Some(1)), None);
}

#[test]
fn very_many_scaled_tensors_take_little_time_and_memory() {
    let mut list = Tensors::new();
    for index in 0..50_000 {
        list.push((format!("model.layers.{index}.weight"), "F8_E4M3", vec![2, 2]));
        list.push((format!("model.layers.{index}.weight_scale_inv"), "F32", vec![]));
    }
    let (bytes, data) = safetensors(&list);
    let handle = file(&bytes);
    handle.set_len(bytes.len() as u64 + data).unwrap();
    let started = Instant::now();
    let (told, peak) = peak_of(|| read_metadata(&handle, "model.safetensors").unwrap());
    assert_eq!((told.parameters, told.quantization), (Some(200_000), Some(Quantization::new("FP8"))));
    assert!(peak < 64 << 20, "{peak} of {}", bytes.len());
    let again = || drop(read_metadata(&handle, "model.safetensors"));
    in_time(Duration::from_secs(5), started, again, || "very many tensors".to_owned());
}

/// Rows are padded to whole integers: their groups tell how many weights they have, or the order of those groups does.
#[test]
fn padding_of_rows_is_not_counted() {
    let config = |bits: u64, group: &str| {
        format!(
            r#""quantization_config":{{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{{
            "a":{{"weights":{{"num_bits":{bits},"type":"int","group_size":{group}}}}}}}}}"#
        )
    };
    // 96 columns in groups of 32: of three bits ten lie in an integer, of five six, of six five.
    for (bits, in_one) in [(1, 32), (2, 16), (3, 10), (4, 8), (5, 6), (6, 5), (7, 4), (8, 4)] {
        let columns = 96_u64.div_ceil(in_one);
        let packed = tensors(&[("l.weight_packed", "I32", &[256, columns]), ("l.weight_scale", "BF16", &[256, 3])]);
        let known = told(&packed, &config(bits, "32"));
        assert_eq!(known.parameters, Some(256 * 96), "{bits}");
        assert!(known.facts().contains(&("weights", "packed; scales are not counted as parameters".to_owned())));
    }
    // 100 columns of four bits lie in 13 integers, which have room for 104.
    let padded = tensors(&[("l.weight_packed", "I32", &[256, 13]), ("l.weight_scale", "BF16", &[256, 5])]);
    assert_eq!(told(&padded, &config(4, "20")).parameters, Some(256 * 100));
    let channels = tensors(&[("l.weight_packed", "I32", &[256, 13]), ("l.weight_scale", "BF16", &[256, 1])]);
    let approximate = told(&channels, &config(4, "null"));
    assert_eq!(approximate.parameters, Some(256 * 104));
    let line = "packed; scales are not counted as parameters, padding of rows may be";
    assert!(approximate.facts().contains(&("weights", line.to_owned())), "{:?}", approximate.facts());
    let ordered = tensors(&[("l.weight_packed", "I32", &[256, 13]), ("l.weight_g_idx", "I32", &[100])]);
    assert_eq!(told(&ordered, &config(4, "null")).parameters, Some(256 * 100));
    // A size that the integers have no room for, or not half as many weights as they have room for, is none.
    for group in ["64", "2", "-1", "0", "\"x\"", "18446744073709551615"] {
        assert_eq!(told(&padded, &config(4, group)).parameters, Some(256 * 104), "{group}");
    }
    let many = tensors(&[("l.weight_packed", "I32", &[256, 13]), ("l.weight_g_idx", "I32", &[u64::from(u32::MAX)])]);
    assert!(told(&many, &config(4, "null")).parameters.is_none_or(|count| count <= 256 * 13 * 32));
}
