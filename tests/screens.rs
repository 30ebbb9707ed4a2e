//! Pictures of the screen at the sizes that people have, and what every picture must keep.
#![cfg(feature = "tui")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/screen.rs"]
mod screen;
#[path = "support/svg.rs"]
mod svg;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ratatui::style::{Color, Modifier};
use rbee_hive::format::Metadata;
use rbee_hive::hub::SearchHit;
use rbee_hive::jobs::FileProgress;
use rbee_hive::model::memory::{CacheLayers, Device, HostMemory, Ram, Shape};
use rbee_hive::model::{Format, ModelFile, Quantization, RemoteFile, RepoPath, Role, StoreKind};
use rbee_hive::provisioner::ScanEvent;
use rbee_hive::store::Details;
use rbee_hive::store::remote::{RemoteFiles, RemoteRow};
use rbee_hive::tui::effect::Effect;
use rbee_hive::tui::msg::{Choice, Msg, Offer};
use rbee_hive::tui::state::Dialog;
use rbee_hive::tui::theme::Tier;
use screen::{GIB, MIB, Script, holder, id, model, plan, ten_jobs, thorny_plan};

const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (40, 10), (200, 60)];

/// Some models as hosts have them: two stores, an incomplete one, one in use, several quantizations.
fn models() -> Vec<rbee_hive::model::Model> {
    let mut models = vec![
        model("tinyllama", 1, 3),
        model("qwen2.5-coder-32b-instruct", 19, 41),
        model("Meta-Llama-3.1-405B-Instruct-GGUF-a-name-that-is-long-Q4_K_M", 230, 400),
        model("phi3", 2, 0),
        model("mixtral", 26, 1200),
        model("broken", 4, 12),
    ];
    models[1].quantizations = vec![Quantization::new("Q4_K_M"), Quantization::new("Q8_0")];
    models[1].reclaimable_bytes -= 3 * GIB;
    models[5].complete = false;
    models[5].warnings.push("weights-00002-of-00003.gguf is missing".to_owned());
    (models[5].parameters, models[5].quantizations) = (None, Vec::new());
    (models[3].modified, models[3].accessed) = (None, None);
    let mut hf = model("mistralai/Mistral-7B-Instruct-v0.3", 14, 9);
    hf.identity = id(StoreKind::Hf, "mistralai/Mistral-7B-Instruct-v0.3");
    models.push(hf);
    models
}

fn hostile() -> Vec<rbee_hive::model::Model> {
    let mut models = vec![
        model("\u{1b}[2J\u{1b}[31mred\u{7}", 1, 1),
        model("right\u{202e}to-left\u{200b}\u{2066}", 1, 1),
        model("new\nline\ttab\r", 1, 1),
        model("模型模型模型模型模型模型模型模型模型模型模型模型模型-Q4_K_M", 1, 1),
        model("e\u{301}e\u{301}-combining-\u{1f600}-emoji", 1, 1),
        model(&"x".repeat(400), 1, 1),
    ];
    models[0].warnings.push("\u{1b}]0;title\u{7}".to_owned());
    models[0].owner = Some("\u{1b}[1m".to_owned());
    models[0].architecture = Some("\u{9b}31m".to_owned());
    models
}

fn held(script: &mut Script) {
    let (generation, rows) = script
        .taken()
        .into_iter()
        .rev()
        .find_map(|effect| match effect {
            Effect::FindHolders(generation, rows) => Some((generation, rows)),
            _ => None,
        })
        .unwrap();
    let mut held: BTreeMap<_, _> = rows.iter().map(|row| (row.model.identity.clone(), Vec::new())).collect();
    if let Some(phi) = held.get_mut(&id(StoreKind::Flat, "phi3")) {
        phi.push(holder());
    }
    script.send(Msg::Holders(generation, held));
}

fn detailed(script: &mut Script) {
    script.at = script.at.max(script.state.deadline().min(script.at + Duration::from_secs(1)));
    script.soon(Msg::Tick);
    let found = script.taken().into_iter().rev().find_map(|effect| match effect {
        Effect::Details(generation, model) => Some((generation, model)),
        _ => None,
    });
    let Some((generation, wanted)) = found else { return };
    let row = script.state.models.get(&wanted).unwrap().model.clone();
    let file = |path: &str, size: u64, role: Role| ModelFile {
        path: path.to_owned(),
        absolute: PathBuf::from("/data/models").join(path),
        size_bytes: size,
        disk_bytes: size,
        role,
        sha256: None,
    };
    let (name, first, second) = match row.identity.id.as_str() {
        name @ "Meta-Llama-3.1-70B-Instruct" => (name, 21 * GIB, 21 * GIB - 4096),
        _ => ("Meta-Llama-3.1-405B-Instruct", 40 * GIB, 39 * GIB),
    };
    let files = vec![
        file(&format!("{name}-Q4_K_M-00001-of-00002.gguf"), first, Role::Shard),
        file(&format!("{name}-Q4_K_M-00002-of-00002.gguf"), second, Role::Shard),
        file("README.md", 4096, Role::Other),
    ];
    let details = Details::new(row, files);
    script.send(Msg::Details(generation, Ok(Box::new(details))));
}

fn offer() -> Box<Offer> {
    let choice = |label: &str, files: usize, bytes: u64, problem: Option<&str>| Choice {
        label: label.to_owned(),
        reference: format!("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF:{label}"),
        files,
        principal: format!("tinyllama-1.1b-chat-v1.0.{label}.gguf"),
        bytes,
        weights: bytes,
        problem: problem.map(str::to_owned),
        file: None,
    };
    Box::new(Offer {
        repository: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF".to_owned(),
        commit: "52e7645ba7c309695bec7ac98f4f005b139cf465".to_owned(),
        folder: PathBuf::from("/home/alice/models"),
        available: Some(3 * GIB),
        cache: Some((PathBuf::from("/data/hf/models--org--name"), Some(40 * GIB))),
        projector: Some(("mmproj-F16.gguf".to_owned(), GIB)),
        choices: vec![
            choice("Q2_K", 1, 483 * MIB, None),
            choice("Q4_K_M", 1, 669 * MIB, None),
            choice("Q8_0", 3, 1170 * MIB, Some("shard 2 of 3 is missing from the listing")),
            choice("F16", 1, 9 * GIB, None),
        ],
        default: Some(1),
        note: None,
        header: None,
    })
}

fn listing(script: &mut Script) -> rbee_hive::tui::msg::Generation {
    script.request(|effect| match effect {
        Effect::List(generation, _) | Effect::Search(generation, _) => Some(*generation),
        _ => None,
    })
}

fn hits() -> Vec<SearchHit> {
    let hit = |id: &str, downloads: u64, gated: bool| SearchHit {
        id: id.to_owned(),
        downloads,
        likes: 120,
        updated: Some(screen::now(Duration::ZERO).wall),
        gated,
        tags: Vec::new(),
    };
    vec![
        hit("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", 1_234_567, false),
        hit("meta-llama/Llama-3.1-405B-Instruct-with-a-name-that-goes-on-and-on-GGUF", 98_765, true),
        hit("a/b", 3, false),
    ]
}

type Scene = (&'static str, fn(u16, u16) -> Script);

/// Every scene, at a size.
const SCENES: [Scene; 21] = [
    ("notice", |w, h| {
        let mut script = Script::with(w, h, models());
        let line = "delete broken failed: /data/models/broken/weights-00001-of-00003.gguf is owned by root in a sticky \
                    folder; ask root to remove it, or to clear the sticky bit of /data/models";
        script.send(Msg::Refused(line.to_owned()));
        script
    }),
    ("loading", |w, h| {
        let mut script = Script::new(w, h);
        script.host();
        script
    }),
    ("empty", |w, h| Script::with(w, h, Vec::new())),
    ("models", |w, h| {
        let mut script = Script::with(w, h, models());
        held(&mut script);
        script.press("j Space");
        detailed(&mut script);
        script.jobs(ten_jobs().into_iter().skip(3).take(2).collect());
        script
    }),
    ("thousand", |w, h| {
        let many = (0..1000).map(|n| model(&format!("model-{n:04}"), 1 + n % 70, i64::try_from(n).unwrap())).collect();
        let mut script = Script::with(w, h, many);
        script.press("^d ^d ^d s s");
        script.at += Duration::from_secs(3);
        script.press("j");
        script
    }),
    ("filter", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("/");
        script.write("size>5G llama");
        script
    }),
    ("detail", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("j j Enter");
        detailed(&mut script);
        script
    }),
    ("plan", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("d");
        script.planned(plan(&["tinyllama", "phi3"]));
        script
    }),
    ("plan-thorny", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("d");
        script.planned(thorny_plan());
        script
    }),
    ("plan-sure", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("d");
        script.planned(thorny_plan());
        script.soon(Msg::Drawn);
        script.press("y");
        // The yes makes the plan anew; the same plan is what the second question is about.
        script.planned(thorny_plan());
        script
    }),
    ("pull-field", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("p");
        script.write("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF");
        script
    }),
    ("pull-error", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("p");
        script.write("no/such");
        script.press("Enter");
        let generation = listing(&mut script);
        let error = "no/such is not on https://huggingface.co; if it is private, sign in with a token".to_owned();
        script.send(Msg::Listed(generation, Err(error)));
        script
    }),
    ("pull-hits", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("p");
        script.write("llama");
        script.press("Enter");
        let generation = listing(&mut script);
        script.send(Msg::Found(generation, Ok(hits())));
        script
    }),
    ("pull-files", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("p");
        script.write("tinyllama");
        script.press("Enter");
        let generation = listing(&mut script);
        script.send(Msg::Listed(generation, Ok(offer())));
        script
    }),
    ("queue", |w, h| {
        let mut script = Script::with(w, h, models());
        let mut jobs = ten_jobs();
        jobs[3].files = vec![
            FileProgress {
                file: "a-00001-of-00002.gguf".to_owned(),
                bytes: GIB,
                total: GIB,
                finished: true,
                connections: 0,
            },
            FileProgress {
                file: "a-00002-of-00002.gguf".to_owned(),
                bytes: 0,
                total: 3 * GIB,
                finished: false,
                connections: 4,
            },
        ];
        script.jobs(jobs);
        script.press("3");
        script
    }),
    ("queue-courtesy", |w, h| {
        let mut script = Script::with(w, h, models());
        let mut jobs = ten_jobs();
        jobs[3].courtesy = Some(26 * MIB);
        jobs[4].courtesy = Some(26 * MIB);
        jobs[3].files = vec![
            FileProgress { file: "a-1.gguf".to_owned(), bytes: GIB, total: 3 * GIB, finished: false, connections: 8 },
            FileProgress { file: "config.json".to_owned(), bytes: 900, total: 900, finished: true, connections: 0 },
        ];
        script.jobs(jobs);
        script.press("3 Enter");
        script
    }),
    ("help", |w, h| {
        let mut script = Script::with(w, h, models());
        script.press("?");
        script
    }),
    ("pull-fits", |w, h| {
        let mut script = on_gpus(w, h, 1);
        script.press("p");
        script.write("tinyllama");
        script.press("Enter");
        let generation = listing(&mut script);
        script.send(Msg::Listed(generation, Ok(offer())));
        let Some(Dialog::Files(dialog)) = script.state.dialogs.last() else { panic!("no files") };
        let wait = dialog.wait;
        let row = script.state.models.rows().find(|row| row.model.identity.id == "llama-8b").unwrap().clone();
        script.send(Msg::Header(wait, Ok(Arc::new(remote_row(row.metadata.as_deref().unwrap())))));
        script
    }),
    ("fits", |w, h| on_gpus(w, h, 2)),
    ("fits-silent", |w, h| {
        let mut script = on_gpus(w, h, 0);
        let ram = Some(Ram { total_bytes: 503 * GIB, available_bytes: 410 * GIB });
        let gpu_note = Some("the NVIDIA driver does not answer".to_owned());
        script.send(Msg::Memory(Box::new(HostMemory { gpus: Vec::new(), gpu_note, gpus_unknown: true, ram })));
        script
    }),
    ("fits-detail", |w, h| {
        let mut script = on_gpus(w, h, 8);
        script.press("j Enter");
        script.press("PgDn PgDn PgDn");
        script
    }),
];

/// What the header of the choice in the middle tells.
fn remote_row(metadata: &Metadata) -> RemoteRow {
    let path = RepoPath::parse("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf").unwrap();
    let told = Metadata {
        architecture: Some("llama".to_owned()),
        parameters: Some(1_100_048_384),
        tensor_bytes: Some(667 * MIB),
        ..metadata.clone()
    };
    let set = [RemoteFile { path: path.clone(), size: 669 * MIB, digest: None, blob_id: None, xet_hash: None }];
    RemoteRow::of(&RemoteFiles {
        repository: "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
        set: &set,
        listed: std::slice::from_ref(&path),
        pipeline: false,
        headers: &BTreeMap::from([(path.clone(), Ok(Arc::new(told)))]),
        beside: &BTreeMap::new(),
        projector: None,
    })
}

/// A host with GPUs, and models of which some fit where.
fn on_gpus(width: u16, height: u16, gpus: usize) -> Script {
    let mut script = Script::new(width, height);
    script.host();
    let rows = [("llama-8b", 5, 32), ("llama-405b", 230, 126), ("llama-70b", 131, 80), ("too-large", 900, 126)];
    let rows = rows.into_iter().chain([("unknown", 3, 0)]).map(|(name, gib, layers)| {
        let cache = vec![CacheLayers { layers, heads_kv: 8, key_length: 128, value_length: 128, window: None }];
        let shape = Shape {
            cache: (layers > 0).then_some(cache),
            vocabulary: Some(128_256),
            embedding_length: Some(4096),
            ..Shape::default()
        };
        let metadata = Metadata {
            tensor_bytes: Some(gib * GIB),
            layers: Some(layers).filter(|layers| *layers > 0),
            heads: Some(32),
            heads_kv: Some(8),
            context_length: Some(131_072),
            chat_template: Some(true),
            licence: Some("llama3.1".to_owned()),
            shape,
            ..Metadata::unknown(Format::Gguf)
        };
        let row = screen::row(model(name, gib, 3)).with_metadata(Some(Arc::new(metadata)));
        ScanEvent::Row(Box::new(row))
    });
    script.send(Msg::Scanned(script.state.models.scan.generation, rows.collect()));
    script.done();
    let gpu = |number: usize| Device {
        label: format!("GPU{number}"),
        name: "NVIDIA H200".to_owned(),
        total_bytes: Some(139 * GIB + GIB / 2 - 1),
        free_bytes: Some((96 - number as u64 * 5) * GIB),
        ..Device::default()
    };
    let ram = Some(Ram { total_bytes: 503 * GIB, available_bytes: 410 * GIB });
    let memory = HostMemory { gpus: (0..gpus).map(gpu).collect(), ram, ..HostMemory::default() };
    script.send(Msg::Memory(Box::new(memory)));
    script
}

#[test]
fn pictures() {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for (width, height) in SIZES {
            for (name, scene) in SCENES {
                insta::assert_snapshot!(format!("{name}-{width}x{height}"), scene(width, height).picture());
            }
        }
    });
}

#[test]
fn long_wide_and_hostile_names() {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for (width, height) in SIZES {
            let mut script = Script::with(width, height, hostile());
            insta::assert_snapshot!(format!("hostile-{width}x{height}"), script.picture());
            script.press("Enter");
            insta::assert_snapshot!(format!("hostile-detail-{width}x{height}"), script.picture());
        }
    });
}

/// Notices, dialogs and errors with text from outside.
fn hostile_scripts(width: u16, height: u16) -> Vec<Script> {
    let evil = "\u{1b}[31m\u{202e}\u{7}evil\r\n";
    let mut scripts = Vec::new();
    let mut script = Script::with(width, height, hostile());
    script.press("Enter");
    detailed(&mut script);
    scripts.push(script);
    let mut script = Script::with(width, height, hostile());
    script.send(Msg::Refused(evil.to_owned()));
    scripts.push(script);
    let mut script = Script::with(width, height, hostile());
    script.press("d");
    let mut hostile_plan = plan(&["\u{1b}[31m"]);
    hostile_plan.in_use_by.push(rbee_hive::model::Holder { pid: 1, user: evil.to_owned(), command: evil.to_owned() });
    hostile_plan.steps[0].name = evil.into();
    script.planned(hostile_plan);
    script.soon(Msg::Drawn);
    scripts.push(script);
    let mut script = Script::with(width, height, Vec::new());
    script.press("p");
    script.write("llama");
    script.press("Enter");
    let generation = listing(&mut script);
    let mut found = hits();
    found[0].id = evil.to_owned();
    script.send(Msg::Found(generation, Ok(found)));
    scripts.push(script);
    let mut script = Script::with(width, height, Vec::new());
    script.press("p");
    script.write("a/b");
    script.press("Enter");
    let generation = listing(&mut script);
    let mut hostile_offer = offer();
    hostile_offer.repository = evil.to_owned();
    hostile_offer.choices[0].principal = evil.to_owned();
    hostile_offer.choices[0].problem = Some(evil.to_owned());
    script.send(Msg::Listed(generation, Ok(hostile_offer)));
    script.press("k");
    scripts.push(script);
    let mut script = Script::with(width, height, Vec::new());
    let mut jobs = ten_jobs();
    jobs[3].why = Some(evil.to_owned());
    jobs[4].files = vec![FileProgress { file: evil.to_owned(), bytes: 1, total: 0, finished: false, connections: 0 }];
    script.jobs(jobs);
    script.press("3 j");
    scripts.push(script);
    scripts
}

#[test]
fn no_control_character_reaches_the_screen() {
    for (width, height) in SIZES {
        let scenes = SCENES.iter().map(|(_, scene)| scene(width, height));
        for script in scenes.chain(hostile_scripts(width, height)) {
            let (buffer, _) = script.buffer(Tier::Sixteen, false);
            for cell in buffer.content() {
                let symbol = cell.symbol();
                assert!(!symbol.chars().any(rbee_hive::model::text::is_unsafe), "{symbol:?}\n{}", script.picture());
            }
        }
    }
}

#[test]
fn every_scene_survives_every_size() {
    let sizes = [0, 1, 2, 3, 4, 5, 7, 10, 15, 19, 20, 23, 39, 40, 59, 60, 80, 109, 110, 111, 250];
    for (name, scene) in SCENES {
        let mut script = scene(80, 24);
        for width in sizes {
            for height in sizes {
                script.soon(Msg::Resize(width, height));
                let (buffer, caret) = script.buffer(Tier::Sixteen, false);
                if let Some(caret) = caret {
                    assert!(caret.x < width && caret.y < height, "{name} at {width}x{height}: caret at {caret:?}");
                }
                assert_eq!((buffer.area.width, buffer.area.height), (width, height));
            }
        }
    }
}

#[test]
fn ascii_is_ascii() {
    for (name, scene) in SCENES {
        let script = scene(100, 30);
        let (buffer, _) = script.buffer(Tier::Sixteen, true);
        let picture = screen::text(&buffer);
        assert!(picture.is_ascii(), "{name}:\n{picture}");
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        for (name, scene) in SCENES.into_iter().filter(|(name, _)| matches!(*name, "models" | "queue" | "pull-files")) {
            insta::assert_snapshot!(format!("ascii-{name}"), screen::text(&scene(80, 24).buffer(Tier::None, true).0));
        }
    });
}

#[test]
fn without_colours_everything_is_still_told() {
    for (name, scene) in SCENES {
        let script = scene(80, 24);
        let (buffer, _) = script.buffer(Tier::None, false);
        for cell in buffer.content() {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{name}: {:?}", cell.symbol());
        }
        let colourful = script.buffer(Tier::Rich, false).0;
        assert_eq!(screen::text(&buffer), screen::text(&colourful), "{name}: the words do not depend on colours");
    }
    let (_, scene) = SCENES.into_iter().find(|(name, _)| *name == "models").unwrap();
    let (buffer, _) = scene(80, 24).buffer(Tier::None, false);
    let reversed = |y: u16| (3..70).all(|x| buffer[(x, y)].modifier.contains(Modifier::REVERSED));
    let cursor: Vec<u16> = (2..20).filter(|y| reversed(*y)).collect();
    assert_eq!(cursor.len(), 1, "exactly the row under the cursor is reversed");
    let row: String = (0..20).map(|x| buffer[(x, cursor[0])].symbol()).collect();
    assert!(row.contains('>'), "and it has a sign too: {row}");
}

#[test]
fn sixteen_colours_leave_the_terminals_own_background() {
    for (name, scene) in SCENES {
        for cell in scene(120, 40).buffer(Tier::Sixteen, false).0.content() {
            assert_eq!(cell.bg, Color::Reset, "{name}");
            assert!(!matches!(cell.fg, Color::Rgb(..) | Color::Indexed(_)), "{name}");
        }
    }
}

#[test]
fn a_small_terminal_says_so_and_still_shows_models() {
    let picture = SCENES.iter().find(|(name, _)| *name == "models").unwrap().1(40, 10).picture();
    assert!(picture.contains("60×20") && picture.contains("mixtral"), "{picture}");
    let large = SCENES.iter().find(|(name, _)| *name == "models").unwrap().1(80, 24).picture();
    assert!(!large.contains("60×20"));
}

#[test]
fn a_stalled_download_shows_its_stall() {
    let mut script = Script::with(120, 40, models());
    script.jobs(ten_jobs());
    script.press("3 j Enter");
    let lines: Vec<String> = script.picture().lines().map(str::to_owned).collect();
    let stalled = "waiting    36% stalled: no byte for 10 s; connects anew after 20 s";
    assert!(lines.iter().any(|line| line.contains(stalled)), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("because") && line.contains("stalled")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("0 B/s")), "no last speed: {lines:#?}");
}

#[test]
fn nothing_moves_while_nothing_happens() {
    let mut script = Script::with(120, 40, models());
    held(&mut script);
    detailed(&mut script);
    let before = script.buffer(Tier::Sixteen, false).0;
    for _ in 0..50 {
        script.at += Duration::from_secs(61);
        script.soon(Msg::Tick);
        let read = script.taken().into_iter().any(|effect| matches!(effect, Effect::ReadHost(..)));
        assert!(read, "the figures are read once a minute");
        script.at -= Duration::from_secs(1);
        script.host();
    }
    let changed: Vec<_> =
        before.diff(&script.buffer(Tier::Sixteen, false).0).into_iter().map(|(x, y, _)| (x, y)).collect();
    // Only ages may have changed, as an hour has passed.
    assert!(changed.len() < 30, "{changed:?}");
}

/// What a host looks like on a working day.
fn working_day() -> Script {
    let mut rows = models();
    rows.retain(|row| row.identity.id != "mixtral" && !row.identity.id.starts_with("Meta-Llama"));
    let mut llama = model("Meta-Llama-3.1-70B-Instruct", 42, 41);
    llama.quantizations = vec![Quantization::new("Q4_K_M")];
    rows.extend([llama, model("gemma-2-27b-it", 16, 200), model("codestral-22b", 12, 90)]);
    rows.iter_mut().for_each(|row| row.parameters = row.parameters.map(|_| row.size_bytes / GIB * 1_680_000_000));
    let mut script = Script::with(120, 30, rows);
    held(&mut script);
    script.press("j Space Space");
    detailed(&mut script);
    let mut jobs: Vec<_> =
        ten_jobs().into_iter().skip(3).take(2).chain(ten_jobs().into_iter().skip(8).take(1)).collect();
    let names = ["QuantFactory/Meta-Llama-3-8B-Instruct-GGUF:Q8_0", "mistral", "TheBloke/Llama-2-7B-GGUF:Q5_K_M"];
    for (job, name) in jobs.iter_mut().zip(names) {
        job.spec = rbee_hive::jobs::JobSpec::Download(rbee_hive::provisioner::DownloadRequest::new(name));
    }
    (jobs[0].rate, jobs[0].eta_s) = (Some(29 * MIB), Some(100));
    (jobs[1].rate, jobs[1].eta_s) = (Some(21 * MIB), Some(124));
    script.jobs(jobs);
    script
}

/// The picture in the README is this program's own; `UPDATE_PICTURES=1 cargo test --test screens` draws it anew.
#[test]
fn the_picture_in_the_readme_is_drawn_from_the_program() {
    let picture = svg::svg(&working_day().buffer(Tier::Rich, false).0);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/screen.svg");
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        std::fs::write(&path, &picture).unwrap();
    }
    let shown = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == picture, "assets/screen.svg is not what the program draws; see this test");
}

/// The key table in the README is made from the keymap; `UPDATE_PICTURES=1 cargo test --test screens` writes it anew.
#[test]
fn the_keys_in_the_readme_are_those_of_the_keymap() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- keys: made from assets/keymap.toml -->\n", "<!-- end of keys -->");
    let start = readme.find(begin).expect("the README has a place for the keys") + begin.len();
    let stop = start + readme[start..].find(end).expect("and an end of it");
    let table = rbee_hive::tui::keymap::markdown();
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &readme[..start], &readme[stop..])).unwrap();
        return;
    }
    assert_eq!(&readme[start..stop], table);
}
