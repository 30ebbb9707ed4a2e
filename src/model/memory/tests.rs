use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn plain(layers: u64, heads_kv: u64, key_length: u64, value_length: u64) -> Shape {
    let cache = vec![CacheLayers { layers, heads_kv, key_length, value_length, window: None }];
    Shape { cache: Some(cache), ..Shape::default() }
}

fn llama_8b() -> Shape {
    Shape {
        vocabulary: Some(128_256),
        embedding_length: Some(4096),
        heads: Some(32),
        embedding_bytes: 295_501_824,
        output: true,
        ..plain(32, 8, 128, 128)
    }
}

fn gemma_4b() -> Shape {
    let run = |layers, window| CacheLayers { layers, heads_kv: 4, key_length: 256, value_length: 256, window };
    Shape { cache: Some(vec![run(29, Some(1024)), run(5, None)]), ..Shape::default() }
}

fn cache(shape: &Shape, context: u64, cache_type: CacheType, sequences: u64) -> u64 {
    let conditions = Conditions { context: Some(context), cache_type, sequences, ..Conditions::default() };
    need(shape, Weights::default(), None, None, &conditions).unwrap().cache_bytes
}

#[test]
fn the_cache_is_what_llama_cpp_allocates() {
    let llama = llama_8b();
    for (shape, context, kind, sequences, mib) in [
        (&llama, 4096, CacheType::F16, 1, 512),
        (&llama, 8192, CacheType::F16, 1, 1024),
        (&llama, 8000, CacheType::F16, 1, 1024),
        (&llama, 8192, CacheType::Q8_0, 1, 544),
        (&llama, 8192, CacheType::Q4_0, 1, 288),
        (&llama, 512, CacheType::F16, 1, 64),
        (&plain(80, 8, 128, 128), 8192, CacheType::F16, 1, 2560),
        (&plain(80, 8, 128, 128), 131_072, CacheType::F16, 1, 40 * 1024),
        (&plain(28, 4, 128, 128), 32_768, CacheType::F16, 1, 1792),
        (&plain(48, 4, 128, 128), 4096, CacheType::F16, 1, 384),
        (&plain(48, 4, 128, 128), 40_960, CacheType::F16, 1, 3840),
        (&gemma_4b(), 8192, CacheType::F16, 1, 160 + 174),
        (&gemma_4b(), 32_768, CacheType::F16, 1, 640 + 174),
        (&gemma_4b(), 32_768, CacheType::F16, 4, 640 + 522),
        (&plain(27, 1, 576, 0), 8192, CacheType::F16, 1, 243),
    ] {
        assert_eq!(cache(shape, context, kind, sequences), mib * MIB, "{shape:?} {context} {kind}");
    }
    // 129.09 MiB.
    assert_eq!(cache(&plain(27, 1, 576, 0), 8192, CacheType::Q8_0, 1), 27 * 8192 * 576 * 34 / 32);
    // MiniMax-M2, one byte a number.
    assert_eq!(cache(&plain(62, 8, 128, 128), 196_608, CacheType::F8, 1), 24_964_497_408);
    // One layer, one head of 32.
    assert_eq!(cache(&plain(1, 1, 32, 32), 4096, CacheType::F16, 1), 524_288);
    assert_eq!(cache(&plain(1, 1, 32, 32), 4096, CacheType::Q8_0, 1), 278_528);
}

#[test]
fn the_compute_buffer_is_that_of_a_batch() {
    let of = |vocabulary, embedding, heads, context, flash_attention| {
        let shape = Shape {
            vocabulary: Some(vocabulary),
            embedding_length: Some(embedding),
            heads: Some(heads),
            ..plain(1, 1, 1, 1)
        };
        let conditions = Conditions { context: Some(context), flash_attention, ..Conditions::default() };
        need(&shape, Weights::default(), None, None, &conditions).unwrap()
    };
    for (vocabulary, embedding, tenths_of_mib) in
        [(128_256, 4096, 2665), (128_256, 8192, 2825), (152_064, 3584, 3110), (262_144, 2560, 5220)]
    {
        assert_eq!(of(vocabulary, embedding, 1, 512, true).host_compute_bytes * 10, tenths_of_mib * MIB);
    }
    // llama.cpp's log of Llama-3-8B on CUDA: 258.5 MiB.
    assert_eq!(of(128_256, 4096, 32, 8192, true).compute_bytes * 10, 2585 * MIB);
    // Llama-3.3-70B at 131,072 without flash attention: 16 GiB of scores.
    let with_scores = of(128_256, 8192, 64, 131_072, false).compute_bytes;
    assert_eq!(with_scores - of(128_256, 8192, 64, 131_072, true).compute_bytes, 16 * GIB);
}

#[test]
fn the_sum_leaves_the_embeddings_in_the_hosts_memory_unless_they_are_the_output() {
    let weights = Weights { bytes: 4_912_898_304, extra_bytes: 0 };
    let sum = need(&llama_8b(), weights, Some(32), Some(131_072), &Conditions::default()).unwrap();
    assert_eq!(sum.context, 8192);
    assert_eq!(sum.host_weights_bytes, 295_501_824);
    // 4.30 + 1.00 + 0.25 + 0.5 GiB.
    let gib = sum.gpu_bytes as f64 / GIB as f64;
    assert!((6.0..6.1).contains(&gib), "{gib}");
    let tied = Shape { output: false, ..llama_8b() };
    let tied = need(&tied, weights, Some(32), Some(131_072), &Conditions::default()).unwrap();
    assert_eq!(tied.gpu_bytes - sum.gpu_bytes, 295_501_824);
    assert_eq!(tied.cpu_bytes, sum.cpu_bytes);
}

#[test]
fn the_context_is_the_trained_one_up_to_a_limit_unless_somebody_says_another() {
    let default = Conditions::default();
    assert_eq!(default.context_for(Some(2048)), 2048);
    assert_eq!(default.context_for(Some(131_072)), 8192);
    assert_eq!(default.context_for(None), 8192);
    assert_eq!(default.context_for(Some(0)), 8192);
    assert_eq!(Conditions { context: Some(100_000), ..default }.context_for(Some(2048)), 100_000);
}

#[test]
fn what_makes_no_sense_is_unknown_never_small() {
    let weights = Weights { bytes: 1000, extra_bytes: 0 };
    let of = |shape: &Shape| need(shape, weights, Some(1), None, &Conditions::default());
    assert!(of(&Shape::default()).is_err());
    for shape in [
        plain(u64::MAX, 8, 128, 128),
        plain(1, u64::MAX, 128, 128),
        plain(1, 1, u64::MAX, u64::MAX),
        plain(1 << 40, 1 << 20, 1, 1),
        Shape { vocabulary: Some(u64::MAX), ..plain(1, 1, 1, 1) },
        Shape { state_bytes: u64::MAX, ..plain(1, 1, 1, 1) },
        plain(0, 1, 1, 1),
        plain(1, 0, 1, 1),
        plain(1, 1, 0, 0),
        Shape { vocabulary: Some(0), ..plain(1, 1, 1, 1) },
        Shape { embedding_length: Some(0), ..plain(1, 1, 1, 1) },
        Shape { heads: Some(0), ..plain(1, 1, 1, 1) },
        Shape { embedding_length: Some(3), heads: Some(8), ..plain(1, 1, 1, 1) },
    ] {
        assert!(of(&shape).is_err(), "{shape:?}");
    }
    let context = Conditions { context: Some(u64::MAX), ..Conditions::default() };
    assert!(need(&plain(1, 1, 1, 1), weights, None, None, &context).is_err());
    // No attention at all is no error: an embedding model keeps nothing.
    assert_eq!(of(&Shape { cache: Some(Vec::new()), ..Shape::default() }).unwrap().cache_bytes, 0);
}

fn gpu(label: &str, free: u64) -> Device {
    Device {
        label: label.to_owned(),
        name: "NVIDIA H200".to_owned(),
        total_bytes: Some(140 * GIB),
        free_bytes: Some(free),
        ..Device::default()
    }
}

fn host(free: &[u64], ram: u64) -> HostMemory {
    HostMemory {
        gpus: free.iter().enumerate().map(|(at, free)| gpu(&format!("GPU{at}"), *free)).collect(),
        ram: Some(Ram { total_bytes: ram, available_bytes: ram }),
        ..HostMemory::default()
    }
}

/// 10 GiB of weights in 32 layers.
fn ten() -> Result<Need, String> {
    need(&plain(32, 8, 128, 128), Weights { bytes: 10 * GIB, extra_bytes: 0 }, Some(32), None, &Conditions::default())
}

#[test]
fn a_verdict_is_about_free_memory_with_a_margin_on_each_device() {
    let exact = ten().unwrap().gpu_bytes;
    let word = |host: &HostMemory| fit(ten(), host).verdict.word();
    assert_eq!(word(&host(&[exact + MARGIN], 0)), "fits");
    assert_eq!(word(&host(&[exact + MARGIN - 1], 0)), "tight");
    assert_eq!(word(&host(&[exact], 0)), "tight");
    assert_eq!(word(&host(&[exact - 1], 0)), "no");
    assert_eq!(word(&host(&[exact - 1], 64 * GIB)), "CPU only");
    assert_eq!(word(&host(&[], 64 * GIB)), "CPU only");
    assert_eq!(word(&host(&[], GIB)), "no");
    assert_eq!(word(&host(&[8 * GIB, 8 * GIB], 0)), "fits 2 GPUs");
    assert_eq!(word(&host(&[6 * GIB, 6 * GIB, 6 * GIB], 0)), "fits 3 GPUs");
    // Two times 6 GiB would hold the weights alone, but not with cache, overheads and margins.
    assert_eq!(word(&host(&[6 * GIB, 6 * GIB], 0)), "no");
    let best = fit(ten(), &host(&[GIB, 100 * GIB], 0));
    assert_eq!((best.devices, best.verdict), (vec!["GPU1".to_owned()], Verdict::Fits));
}

#[test]
fn instances_of_a_gpu_are_never_added_up_and_unknown_memory_is_not_zero() {
    let mut shared = host(&[8 * GIB, 8 * GIB], 0);
    shared.gpus.iter_mut().for_each(|gpu| gpu.instance = true);
    assert_eq!(fit(ten(), &shared).verdict, Verdict::No);
    let mut silent = host(&[8 * GIB], 64 * GIB);
    silent.gpus[0].free_bytes = None;
    let answer = fit(ten(), &silent);
    assert_eq!((answer.verdict, answer.need_bytes), (Verdict::Unknown, Some(ten().unwrap().gpu_bytes)));
    let because = answer.because.unwrap();
    assert!(because.contains("GPU0 is not known") && because.ends_with("memory alone would do"), "{because}");
    // What is known not to be of use is no reason to know nothing.
    silent.gpus[0].unusable = true;
    silent.gpus[0].note = Some("it is lost".to_owned());
    let answer = fit(ten(), &silent);
    assert_eq!(
        (answer.verdict, answer.because.is_some_and(|why| why.contains("it is lost"))),
        (Verdict::CpuOnly, true)
    );
    assert_eq!(fit(ten(), &HostMemory::default()).verdict, Verdict::Unknown);
    assert_eq!(fit(Err("why".to_owned()), &host(&[GIB], GIB)).because.as_deref(), Some("why"));
}

#[test]
fn a_gpu_that_shares_the_hosts_memory_is_counted_once() {
    let (shape, weights) = (llama_8b(), Weights { bytes: 10 * GIB, extra_bytes: 0 });
    let needs = || need(&shape, weights, Some(32), None, &Conditions::default());
    let sum = needs().unwrap();
    assert_eq!(sum.unified_bytes, sum.gpu_bytes + sum.host_weights_bytes + sum.host_overhead_bytes);
    let word = |host: &HostMemory| fit(needs(), host).verdict.word();
    let unified = |free: u64, count: usize| {
        let mut host = host(&vec![0; count], free);
        for gpu in &mut host.gpus {
            gpu.unified = true;
            gpu.share(host.ram);
        }
        host
    };
    assert_eq!(word(&unified(sum.unified_bytes + MARGIN, 1)), "fits");
    assert_eq!(word(&unified(sum.unified_bytes + MARGIN - 1, 1)), "tight");
    // Two that share what there is have no more than one.
    assert_eq!(word(&unified(sum.unified_bytes - 1, 2)), "CPU only");
    assert_eq!(word(&unified(sum.cpu_bytes - 1, 2)), "no");
    // Beside a GPU with memory of its own, either is enough.
    let mut both = unified(100 * GIB, 2);
    both.gpus[0] = gpu("GPU0", sum.gpu_bytes);
    assert_eq!(fit(needs(), &both).devices, ["GPU1"]);
    let mut unknown = unified(100 * GIB, 1);
    unknown.gpus[0].share(None);
    assert_eq!(fit(needs(), &unknown).verdict, Verdict::Unknown);
}

#[test]
fn a_driver_that_was_not_heard_leaves_open_what_the_gpus_hold() {
    let silent = |free: &[u64], ram: u64| HostMemory {
        gpus_unknown: true,
        gpu_note: Some("the NVIDIA driver does not answer".to_owned()),
        ..host(free, ram)
    };
    for (ram, expected) in [(64 * GIB, "would do"), (GIB, "would not do")] {
        let answer = fit(ten(), &silent(&[], ram));
        assert_eq!((answer.verdict.word().as_str(), answer.devices.len()), ("unknown", 0));
        let because = answer.because.unwrap();
        assert!(because.contains("driver does not answer") && because.ends_with(expected), "{because}");
    }
    // A GPU that is known is enough.
    assert_eq!(fit(ten(), &silent(&[100 * GIB], 0)).verdict, Verdict::Fits);
    // A driver that says that there is none leaves nothing open.
    let none = HostMemory { gpu_note: Some("it knows no GPU".to_owned()), ..host(&[], 64 * GIB) };
    assert_eq!(fit(ten(), &none).verdict, Verdict::CpuOnly);
}

#[test]
fn what_gpus_cannot_hold_may_be_shared_with_the_hosts_memory() {
    let sum = ten().unwrap();
    let fixed = sum.overhead_bytes + sum.compute_bytes;
    let of = |free: &[u64], ram: u64| fit(ten(), &host(free, ram));
    let stays = sum.host_weights_bytes + sum.host_compute_bytes + sum.host_overhead_bytes;
    // On the GPU: all but its margin, what is fixed and less than a layer. The rest in RAM.
    let on_gpu = 5 * GIB - fixed - MARGIN - sum.layer_bytes;
    let rest = sum.gpu_bytes - fixed - on_gpu + stays;
    for (ram, fits) in [(rest, true), (rest - 1, false)] {
        let answer = of(&[5 * GIB], ram);
        let shared = answer.shared.unwrap();
        assert_eq!((answer.verdict, shared.fits, shared.devices), (Verdict::No, fits, vec!["GPU0".to_owned()]));
        assert_eq!(shared.need_bytes <= shared.room_bytes, fits);
    }
    assert!(of(&[5 * GIB, 4 * GIB], rest - 2 * GIB).shared.unwrap().fits);
    // Where the host's memory would do alone, too.
    assert!(of(&[5 * GIB], 64 * GIB).shared.unwrap().fits);
    // Nothing to share with, nothing to share, no room for a layer.
    for (free, ram) in [(&[][..], GIB), (&[100 * GIB], GIB), (&[GIB], GIB)] {
        assert_eq!(of(free, ram).shared, None);
    }
    let mut divided = host(&[5 * GIB, 5 * GIB], rest);
    divided.gpus.iter_mut().for_each(|gpu| gpu.instance = true);
    assert_eq!(fit(ten(), &divided).shared.unwrap().devices, ["GPU0"]);
}

#[test]
fn more_context_than_the_model_was_trained_for_is_said() {
    let of = |shape: &Shape, context| {
        let conditions = Conditions { context, ..Conditions::default() };
        need(shape, Weights { bytes: GIB, extra_bytes: 0 }, Some(32), Some(32_768), &conditions)
    };
    let shape = plain(32, 8, 128, 128);
    assert_eq!(of(&shape, Some(32_768)).unwrap().beyond_training, None);
    assert_eq!(of(&shape, None).unwrap().beyond_training, None);
    assert_eq!(of(&shape, Some(131_072)).unwrap().beyond_training, Some(32_768));
    let answer = fit(of(&shape, Some(131_072)), &host(&[100 * GIB], 0));
    assert_eq!(answer.verdict, Verdict::Fits);
    assert_eq!(answer.because.as_deref(), Some("the model was trained for 32,768 tokens"));
    // Scaling reaches further, but not without end.
    let scaled = Shape { reach: Some(131_072), ..shape };
    assert_eq!(of(&scaled, Some(131_072)).unwrap().beyond_training, None);
    assert_eq!(of(&scaled, Some(131_073)).unwrap().beyond_training, Some(131_072));
}

#[test]
fn names_are_short_in_the_header() {
    let of = |name: &str| Device { name: name.to_owned(), ..Device::default() }.short_name().to_owned();
    assert_eq!(of("NVIDIA H200"), "H200");
    assert_eq!(of("NVIDIA GeForce RTX 4090"), "RTX 4090");
    assert_eq!(of("AMD Instinct MI300X"), "Instinct MI300X");
    assert_eq!(of("NVIDIA "), "NVIDIA ");
    let word = |name: &str| Device { name: name.to_owned(), ..Device::default() }.model_word().to_owned();
    for (name, expected) in [
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("AMD Instinct MI300X", "MI300X"),
        ("", "GPU"),
    ] {
        assert_eq!(word(name), expected);
    }
}

#[test]
fn cache_types_are_read_by_their_names() {
    assert_eq!("Q8_0".parse::<CacheType>().unwrap(), CacheType::Q8_0);
    assert!("q9".parse::<CacheType>().unwrap_err().contains("q8_0"));
}
