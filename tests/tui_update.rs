//! What the screen does with facts, as scripts of messages: no terminal, no clock, no disk.
#![cfg(feature = "tui")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/screen.rs"]
mod screen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rbee_hive::hub::SearchHit;
use rbee_hive::jobs::{
    Basis, Control, EVENT_VERSION, JobEvent, JobEventKind, JobId, JobOutcome, JobSpec, JobState, Update,
};
use rbee_hive::model::{
    DeletionReport, DestinationKind, Failure, FileCheck, FileStatus, Holder, StoreKind, Verification,
};
use rbee_hive::provisioner::PlanTarget;
use rbee_hive::store::fingerprint::Fingerprint;
use rbee_hive::store::flat::FlatStore;
use rbee_hive::store::{Details, Figures, Part, QuantizationPart, Store};
use rbee_hive::tui::Exit;
use rbee_hive::tui::effect::Effect;
use rbee_hive::tui::input::{Gesture, Mouse};
use rbee_hive::tui::msg::{Choice, Generation, Msg, Offer};
use rbee_hive::tui::state::{Dialog, Dirty, Focus, Level};
use screen::{GIB, Script, download, holder, id, model, plan, ten_jobs, thorny_plan};

fn five() -> Vec<rbee_hive::model::Model> {
    vec![model("alpha", 4, 10), model("beta", 9, 40), model("gamma", 1, 2), model("delta", 30, 90), model("eps", 2, 1)]
}

fn submitted(effects: &[Effect]) -> Vec<&JobSpec> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Submit(spec) => Some(spec.as_ref()),
            _ => None,
        })
        .collect()
}

/// The effects since the last call, without the figures of the header.
fn asked(script: &mut Script) -> Vec<Effect> {
    script.taken().into_iter().filter(|effect| !matches!(effect, Effect::ReadHost(..))).collect()
}

fn plan_generation(effect: &Effect) -> Option<Generation> {
    match effect {
        Effect::Plan(generation, _) => Some(*generation),
        _ => None,
    }
}

fn notice(script: &Script) -> String {
    script.state.notices.shown().map(|notice| notice.text.clone()).unwrap_or_default()
}

#[test]
fn marks_hold_models_whatever_is_sorted_filtered_or_found_meanwhile() {
    let mut script = Script::with(80, 24, five());
    assert_eq!(script.names(), ["alpha", "beta", "delta", "eps", "gamma"]);
    script.press("j Space");
    assert_eq!(script.cursor(), "delta");
    script.press("s s S / e Enter");
    script.scanned(vec![model("aaa", 1, 1), model("zzz", 70, 1)]);
    script.press("Esc S d");
    let effects = script.taken();
    let Some(Effect::Plan(_, targets)) = effects.iter().rev().find(|effect| plan_generation(effect).is_some()) else {
        panic!("no plan was asked for: {effects:?}");
    };
    let models: Vec<&str> = targets.iter().map(|target| target.model.id.as_str()).collect();
    assert_eq!(models, ["beta"], "what was marked, not the row that stands in its place");
}

#[test]
fn marks_that_the_filter_hides_are_counted_and_deleted_with_the_others() {
    let mut script = Script::with(120, 24, five());
    script.press("a /");
    script.write("eta");
    script.press("Enter");
    assert_eq!(script.names(), ["beta"]);
    assert!(script.picture().contains("5 marked (4 hidden)"), "{}", script.picture());
    script.press("A a");
    assert_eq!(script.state.models.marks.len(), 1);
}

#[test]
fn marks_of_models_that_are_gone_go() {
    let mut script = Script::with(80, 24, five());
    script.press("a R");
    script.scanned(vec![model("alpha", 4, 10)]);
    script.store_done(StoreKind::Flat, "/data/models", &[]);
    assert_eq!(script.names(), ["alpha"], "the store has answered; what it did not name is gone");
    assert_eq!(script.state.models.marks.len(), 1);
}

#[test]
fn a_store_that_hangs_keeps_its_rows_and_the_others_are_brought_up_to_date() {
    let mut hf = model("org/far", 3, 3);
    hf.identity = id(StoreKind::Hf, "org/far");
    let mut models = five();
    models.push(hf);
    let mut script = Script::with(80, 24, models);
    script.press("R");
    script.scanned(vec![model("alpha", 4, 10)]);
    script.store_done(StoreKind::Flat, "/data/models", &[]);
    assert_eq!(script.names(), ["alpha", "org/far"]);
    script.at += Duration::from_secs(6);
    script.soon(Msg::Tick);
    assert!(script.picture().contains("hf /data/hf does not answer"), "{}", script.picture());
    assert!(script.state.deadline() > script.at, "a tick that changes nothing must not come again at once");
    script.press("q");
    assert_eq!(script.state.exit, Some(Exit::Quit));
}

#[test]
fn the_cursor_stays_on_its_model_while_rows_stream_in() {
    let mut script = Script::new(80, 10);
    script.scanned(vec![model("m", 1, 1), model("n", 1, 1)]);
    script.scanned(vec![model("a", 1, 1)]);
    assert_eq!(script.cursor(), "a", "until a person moves it, it is on the first row");
    script.press("j");
    assert_eq!(script.cursor(), "m");
    for name in ["b", "c", "d", "e", "f", "z"] {
        script.scanned(vec![model(name, 1, 1)]);
        assert_eq!(script.cursor(), "m");
        assert!(script.picture().contains("> "), "the cursor is on the screen:\n{}", script.picture());
    }
    script.press("s s S /");
    assert_eq!(script.cursor(), "m");
    script.write("b");
    assert_eq!(script.cursor(), "b", "a hidden row cannot be under the cursor");
}

#[test]
fn the_cursor_goes_to_the_row_that_took_its_place() {
    let mut script = Script::with(80, 24, five());
    script.press("j j R");
    assert_eq!(script.cursor(), "delta");
    script.scanned(five().into_iter().filter(|model| model.identity.id != "delta").collect());
    script.done();
    assert_eq!(script.cursor(), "eps");
}

#[test]
fn y_counts_only_after_the_plan_has_been_drawn_and_read() {
    let mut script = Script::with(80, 24, five());
    script.press("d");
    // Typed ahead, before there was anything to answer.
    script.soon(Msg::Key("y".parse().unwrap()));
    script.planned(plan(&["alpha"]));
    script.soon(Msg::Key("y".parse().unwrap()));
    assert!(submitted(&script.effects).is_empty(), "the plan has not been on the screen yet");
    script.soon(Msg::Drawn);
    script.soon(Msg::Key("y".parse().unwrap()));
    script.at += Duration::from_millis(200);
    script.soon(Msg::Key("y".parse().unwrap()));
    assert!(submitted(&script.effects).is_empty(), "nobody reads that fast");
    script.at += Duration::from_millis(200);
    script.soon(Msg::Key("y".parse().unwrap()));
    assert!(submitted(&script.effects).is_empty(), "it is made anew first");
    script.planned(plan(&["alpha"]));
    let effects = script.taken();
    assert_eq!(submitted(&effects), [&deletion(&["alpha"])], "the plan exactly as it was shown");
    assert!(script.state.dialogs.is_empty());
}

#[test]
fn y_does_nothing_where_the_plan_had_no_room() {
    for (width, height) in [(20, 3), (20, 4), (30, 5), (20, 24), (80, 4)] {
        let mut script = Script::with(width, height, five());
        script.press("d");
        script.planned(plan(&["alpha"]));
        script.soon(Msg::Drawn);
        let picture = script.picture();
        assert!(picture.contains("too small") && !picture.contains("y delete"), "{width}x{height}\n{picture}");
        script.press("y y y");
        assert!(submitted(&script.taken()).is_empty(), "{width}x{height}");
        assert!(notice(&script).contains("too small"), "{}", notice(&script));
        // With room the question is asked anew, and has to be read first.
        script.soon(Msg::Resize(80, 24));
        script.soon(Msg::Key("y".parse().unwrap()));
        assert!(submitted(&script.taken()).is_empty());
        script.soon(Msg::Drawn);
        script.press("y");
        script.planned(plan(&["alpha"]));
        assert_eq!(submitted(&script.taken()).len(), 1);
    }
    let mut script = Script::with(80, 24, five());
    script.press("d");
    script.planned(plan(&["alpha"]));
    script.soon(Msg::Drawn);
    script.soon(Msg::Resize(20, 3));
    script.press("y");
    assert!(submitted(&script.taken()).is_empty(), "what was readable before is not any more");
}

#[test]
fn clearing_a_filter_keeps_the_model_that_it_found() {
    for clear in ["Enter Esc", "Esc"] {
        let mut script = Script::with(80, 24, five());
        script.press("/");
        script.write("delta");
        script.press(clear);
        assert_eq!((script.cursor().as_str(), script.names().len()), ("delta", 5), "{clear}");
    }
}

#[test]
fn what_the_reference_does_not_name_is_not_chosen() {
    let mut script = Script::with(80, 24, five());
    script.press("p");
    script.write("tinyllama:Q9");
    script.press("Enter");
    let generation = script.request(|effect| match effect {
        Effect::List(generation, _) => Some(*generation),
        _ => None,
    });
    let mut offer = offer();
    offer.default = None;
    offer.note = Some("there is no Q9".to_owned());
    script.send(Msg::Listed(generation, Ok(offer)));
    assert!(script.picture().contains("there is no Q9"));
    script.press("Enter Enter");
    assert!(submitted(&script.taken()).is_empty());
    assert!(script.picture().contains("choose one"), "{}", script.picture());
    script.press("j Enter");
    assert_eq!(submitted(&script.taken()).len(), 1, "the first choice, once a person went to it");
}

#[test]
fn enter_and_escape_never_confirm_a_plan() {
    for keys in ["Enter", "Enter Enter Esc", "Esc", "n", "^c", "Space", "d"] {
        let mut script = Script::with(80, 24, five());
        script.press("d");
        script.planned(plan(&["alpha"]));
        script.soon(Msg::Drawn);
        script.press(keys);
        assert!(submitted(&script.effects).is_empty(), "{keys}");
    }
}

#[test]
fn what_is_in_use_or_blocked_asks_a_second_time_and_names_it() {
    let mut script = Script::with(80, 24, five());
    script.press("j d");
    script.planned(thorny_plan());
    script.soon(Msg::Drawn);
    let picture = script.picture();
    for line in ["IN USE by process 4242 (bob)", "CANNOT GO", "stays:"] {
        assert!(picture.contains(line), "{line} in\n{picture}");
    }
    script.press("y");
    script.planned(thorny_plan());
    script.soon(Msg::Drawn);
    assert!(submitted(&script.effects).is_empty());
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Sure(_))));
    assert!(script.picture().contains("process 4242 (bob: llama-server"), "{}", script.picture());
    script.press("n");
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Plan(_))));
    script.press("y");
    script.planned(thorny_plan());
    script.soon(Msg::Drawn);
    // A bounced key is no second answer.
    script.soon(Msg::Key("y".parse().unwrap()));
    assert!(submitted(&script.effects).is_empty());
    script.press("y");
    script.planned(thorny_plan());
    let effects = script.taken();
    assert_eq!(submitted(&effects).len(), 1);
    assert!(script.state.dialogs.is_empty());
}

/// What a yes to the plan of these of the five models submits.
fn deletion(names: &[&str]) -> JobSpec {
    let plan = plan(names);
    let targets = plan.models.iter().cloned().map(PlanTarget::whole).collect();
    JobSpec::Delete { plan, basis: Basis::Seen(targets) }
}

/// A screen with a plan that was drawn.
fn shown(shown: rbee_hive::model::Plan) -> Script {
    let mut script = Script::with(80, 24, five());
    script.press("j d");
    script.planned(shown);
    script.soon(Msg::Drawn);
    script.taken();
    script
}

#[test]
fn a_plan_is_made_anew_on_every_yes_and_runs_only_if_it_says_the_same() {
    let mut script = shown(plan(&["beta"]));
    script.press("y");
    assert!(submitted(&script.effects).is_empty());
    assert!(script.picture().contains("looking again"), "{}", script.picture());
    script.press("y");
    assert!(submitted(&script.effects).is_empty(), "an impatient key changes nothing");
    script.planned(plan(&["beta"]));
    assert_eq!(submitted(&script.taken()), [&deletion(&["beta"])]);
    assert!(script.state.dialogs.is_empty());

    let mut script = shown(plan(&["beta"]));
    script.press("y");
    let mut other = plan(&["beta"]);
    other.steps.pop();
    script.planned(other.clone());
    script.soon(Msg::Drawn);
    assert!(submitted(&script.effects).is_empty());
    assert!(notice(&script).contains("has changed since it was shown"), "{}", notice(&script));
    script.press("y");
    script.planned(other.clone());
    let taken = script.taken();
    let [JobSpec::Delete { plan, .. }] = submitted(&taken)[..] else { panic!("{taken:?}") };
    assert_eq!(*plan, other, "what was shown again runs");
}

#[test]
fn the_second_question_is_about_the_plan_made_anew() {
    let second = |fresh: rbee_hive::model::Plan| {
        let mut script = shown(thorny_plan());
        script.press("y");
        script.planned(thorny_plan());
        script.soon(Msg::Drawn);
        assert!(matches!(script.state.dialogs.last(), Some(Dialog::Sure(_))), "the same plan asks its question");
        script.press("y");
        assert!(submitted(&script.effects).is_empty());
        script.planned(fresh);
        script
    };
    assert_eq!(submitted(&second(thorny_plan()).taken()).len(), 1);
    let mut freed = thorny_plan();
    freed.in_use_by.clear();
    assert_eq!(submitted(&second(freed).taken()).len(), 1, "who agreed to it while it was held agrees to it now");
    let mut other = thorny_plan();
    other.in_use_by.push(Holder { pid: 4243, ..holder() });
    let mut script = second(other);
    assert!(submitted(&script.taken()).is_empty());
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Plan(_))));
}

#[test]
fn every_users_models_are_asked_for_with_a_key_and_said_to_be_shown() {
    use rbee_hive::tui::msg::Stores;
    let mut script = Script::with(120, 24, five());
    script.taken();
    script.press("u");
    let asked = script.request(|effect| match effect {
        Effect::AllUsers(generation, true) => Some(*generation),
        _ => None,
    });
    let stores = Stores {
        stores: vec![(StoreKind::Ollama, "/home/bob/.ollama/models".into())],
        all_users: true,
        notes: vec!["homes that cannot be read: /home/carol (carol)".to_owned()],
    };
    script.send(Msg::Stores(asked, stores));
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))));
    let picture = script.picture();
    assert!(picture.contains("all users") && picture.contains("carol"), "{picture}");
    script.press("u");
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::AllUsers(_, false))));
}

#[test]
fn a_plan_with_nothing_in_it_cannot_be_confirmed() {
    let mut script = Script::with(80, 24, five());
    script.press("d");
    let mut nothing = thorny_plan();
    nothing.steps.clear();
    script.planned(nothing);
    script.soon(Msg::Drawn);
    script.press("y");
    assert!(submitted(&script.effects).is_empty());
    assert!(!script.picture().contains("y delete"), "{}", script.picture());
}

#[test]
fn a_plan_that_was_closed_or_superseded_is_dropped() {
    let mut script = Script::with(80, 24, five());
    script.press("d");
    let old = script.request(plan_generation);
    script.press("Esc j d");
    let new = script.request(plan_generation);
    assert_ne!(old, new);
    script.send(Msg::Planned(old, Ok(Box::new(plan(&["alpha"])))));
    script.soon(Msg::Drawn);
    script.press("y");
    assert!(submitted(&script.effects).is_empty(), "the answer to a question that was taken back");
    script.send(Msg::Planned(new, Err("cannot read /data: permission denied".to_owned())));
    assert!(script.picture().contains("permission denied"));
    script.press("y Esc");
    assert!(submitted(&script.effects).is_empty() && script.state.dialogs.is_empty());
}

#[test]
fn a_deletion_ends_in_a_notice_with_the_measured_bytes_and_a_new_scan() {
    let mut script = Script::with(100, 24, five());
    script.jobs(Vec::new());
    script.taken();
    let event =
        |number, kind| Msg::Jobs(Update::Event(JobEvent { version: EVENT_VERSION, number, job: JobId(7), kind }));
    let spec = Box::new(deletion(&["alpha"]));
    script.send(event(2, JobEventKind::Queued { spec, position: 0 }));
    script.send(event(3, JobEventKind::Started { file: None, bytes: None, total: None }));
    let report = DeletionReport {
        removed: vec![PathBuf::from("/data/models/alpha/a.gguf")],
        failed: vec![Failure { path: PathBuf::from("/data/models/alpha/b"), error: "permission denied".to_owned() }],
        freed_bytes: 4 * GIB,
        held_bytes: GIB,
        ..DeletionReport::default()
    };
    let outcome = Some(Box::new(JobOutcome::Deleted(report)));
    script.send(event(4, JobEventKind::Finished { path: None, outcome }));
    let line = notice(&script);
    for part in ["alpha", "4.00 GiB freed", "1.00 GiB of it only when", "/data/models/alpha/b: permission denied"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))));
    script.soon(Msg::Key("j".parse().unwrap()));
    assert_eq!(notice(&script), line, "a key pressed at that moment does not take it away");
    script.at += Duration::from_secs(2);
    script.press("j");
    assert_eq!(notice(&script), "");
}

#[test]
fn pasted_text_is_typed_in_a_field_and_means_nothing_elsewhere() {
    let mut script = Script::with(80, 24, five());
    script.press("d");
    script.planned(plan(&["alpha"]));
    script.soon(Msg::Drawn);
    script.send(Msg::Paste("yyqqdd\n".to_owned()));
    assert!(submitted(&script.effects).is_empty() && script.state.exit.is_none());
    script.press("Esc");
    script.send(Msg::Paste("qdy".to_owned()));
    assert!(script.state.exit.is_none() && script.state.dialogs.is_empty());
    script.press("p");
    script.send(Msg::Paste("  org/name:Q8_0\u{1b}\r\n".to_owned()));
    let Some(Dialog::Pull(pull)) = script.state.dialogs.last() else { panic!("no dialog") };
    assert_eq!(pull.line.text(), "org/name:Q8_0");
    script.press("Enter");
    let effects = script.taken();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::List(_, text) if text == "org/name:Q8_0")));
}

#[test]
fn letters_in_a_field_are_letters() {
    let mut script = Script::with(80, 24, five());
    script.press("/");
    script.write("qdyp?");
    assert!(script.state.exit.is_none() && script.state.dialogs.is_empty());
    assert_eq!(script.state.models.filter.text(), "qdyp?");
    script.press("Backspace ^w");
    assert_eq!(script.state.models.filter.text(), "");
    script.write("size>5G age>30d");
    assert_eq!(script.names(), ["beta", "delta"]);
    script.write(" size>");
    assert!(script.picture().contains("is no filter"), "{}", script.picture());
    assert_eq!(script.names(), ["beta", "delta"], "what is right of it holds");
    script.press("Esc");
    assert_eq!(script.names().len(), 5);
}

#[test]
fn idle_knows_who_holds_what() {
    let mut script = Script::with(80, 24, five());
    let (generation, rows) = script
        .taken()
        .into_iter()
        .find_map(|effect| match effect {
            Effect::FindHolders(generation, rows) => Some((generation, rows)),
            _ => None,
        })
        .unwrap();
    let mut held: BTreeMap<_, _> = rows.iter().map(|row| (row.model.identity.clone(), Vec::new())).collect();
    held.insert(id(StoreKind::Flat, "beta"), vec![holder()]);
    script.press("/");
    script.write("idle");
    assert_eq!(script.names(), Vec::<String>::new(), "nobody has looked yet");
    script.send(Msg::Holders(generation, held));
    assert_eq!(script.names(), ["alpha", "delta", "eps", "gamma"]);
    script.press("Esc");
    assert!(script.picture().contains("4242"));
}

#[test]
fn quitting_asks_only_when_work_would_stop() {
    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(1, "org/x", JobState::Running), download(2, "org/y", JobState::Queued)]);
    script.press("q");
    assert!(script.state.exit.is_none());
    assert!(script.picture().contains("1 job runs, 1 more waits"), "{}", script.picture());
    script.press("Enter");
    assert!(script.state.exit.is_none() && !script.state.dialogs.is_empty());
    script.press("Esc q n q ^c");
    assert!(script.state.exit.is_none() && script.state.dialogs.is_empty());
    script.press("q y");
    assert_eq!(script.state.exit, Some(Exit::Quit));

    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(1, "org/x", JobState::Running)]);
    script.press("q");
    assert!(script.picture().contains("1 job runs. Quitting stops it;"), "{}", script.picture());

    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(1, "org/x", JobState::Paused), download(2, "org/y", JobState::Finished)]);
    script.press("^c");
    assert_eq!(script.state.exit, Some(Exit::Quit), "what is paused does not stop");
}

#[test]
fn signals_end_it_with_their_number() {
    let mut script = Script::with(80, 24, five());
    script.send(Msg::End(15));
    assert_eq!(script.state.exit.map(Exit::code), Some(143));
}

#[test]
fn escape_never_does_harm() {
    let mut script = Script::with(80, 24, five());
    script.jobs(ten_jobs());
    script.taken();
    script.press("3 Esc Esc Esc 1 Esc Esc 2 Esc Esc");
    let effects = script.taken();
    let harmless = |effect: &Effect| matches!(effect, Effect::Details(..) | Effect::ReadHost(..));
    assert!(effects.iter().all(harmless), "{effects:?}");
    assert!(script.state.exit.is_none());
}

#[test]
fn escape_and_a_key_in_one_packet_are_both() {
    let mut script = Script::with(80, 24, five());
    script.press("?");
    assert!(!script.state.dialogs.is_empty());
    script.press("M-j");
    assert!(script.state.dialogs.is_empty(), "Escape closes the help");
    let mut other = Script::with(80, 24, five());
    other.press("j");
    assert_eq!(script.state.models.cursor, other.state.models.cursor, "and the key does what it does");
    let before = script.state.models.cursor.clone();
    script.press("M-[ M-O");
    assert_eq!(script.state.models.cursor, before);
}

#[test]
fn keys_of_the_queue() {
    let mut script = Script::with(80, 24, five());
    script.jobs(ten_jobs());
    script.press("3");
    script.taken();
    assert_eq!(script.state.queue.cursor, Some(JobId(4)), "the first that has not ended");
    script.press("Space");
    assert_eq!(asked(&mut script), [Effect::Control(JobId(4), Control::Pause)]);
    script.press("x j X");
    let wanted = [Effect::Control(JobId(4), Control::Cancel), Effect::Control(JobId(5), Control::Discard)];
    assert_eq!(asked(&mut script), wanted);
    script.press("G k k k Space");
    assert_eq!(asked(&mut script), [Effect::Control(JobId(10), Control::Resume)]);
    script.press("K J k J");
    let moves: Vec<Effect> = asked(&mut script);
    let wanted = [
        Effect::Control(JobId(10), Control::MoveTo(0)),
        Effect::Control(JobId(10), Control::MoveTo(1)),
        Effect::Control(JobId(9), Control::MoveTo(1)),
    ];
    assert_eq!(moves, wanted);
    script.press("K");
    assert_eq!(asked(&mut script), [Effect::Control(JobId(9), Control::RunNow)], "before the first are those that run");
    script.press("G k r");
    assert_eq!(asked(&mut script), [Effect::Control(JobId(2), Control::Retry)]);
    script.press("- + C");
    let (less, more) = (Effect::Limit(Some(20 << 20)), Effect::Limit(Some(100 << 20)));
    assert_eq!(asked(&mut script), [less, more, Effect::ClearEnded]);
}

#[test]
fn what_runs_is_in_sight_and_what_has_ended_comes_last() {
    let mut script = Script::with(80, 24, five());
    let mut jobs: Vec<_> =
        (1..=9).map(|number| download(number, &format!("org/old{number}"), JobState::Finished)).collect();
    jobs.push(download(10, "org/now", JobState::Running));
    jobs.push(download(11, "org/next", JobState::Queued));
    script.jobs(jobs);
    let picture = script.picture();
    assert!(picture.contains("now") && picture.contains("next") && picture.contains("1-7 of 11"), "{picture}");
    script.press("3");
    assert!(
        script.picture().contains("C clear ended") && !script.picture().contains("r retry"),
        "{}",
        script.picture()
    );
    script.press("G");
    let picture = script.picture();
    assert!(picture.contains("old9") && picture.contains("2-11 of 11") && !picture.contains("x cancel"), "{picture}");
    script.taken();
    script.press("X");
    assert!(notice(&script).contains("C clears ended jobs"));
    assert!(script.taken().iter().all(|effect| !matches!(effect, Effect::Control(..))));
    let line =
        "a long refusal that needs more than one line of the screen, because it names a path and a way out of it";
    script.send(Msg::Refused(line.to_owned()));
    assert!(script.picture().contains("old9"), "the job under the cursor is not covered:\n{}", script.picture());
    assert!(script.picture().contains("way out"));
    script.press("C");
    assert!(script.taken().contains(&Effect::ClearEnded));
}

#[test]
fn hints_name_only_keys_that_do_something() {
    let mut script = Script::with(120, 24, five());
    script.press("3");
    let last = |script: &Script| script.picture().lines().last().unwrap().to_owned();
    for word in ["pause", "cancel", "retry", "clear ended"] {
        assert!(!last(&script).contains(word), "{}", last(&script));
    }
    script.jobs(vec![download(1, "org/x", JobState::Running)]);
    assert!(last(&script).contains("pause") && last(&script).contains("cancel"), "{}", last(&script));
    script.press("Enter");
    assert!(last(&script).contains("back"), "{}", last(&script));
    assert!(!last(&script).contains("delete") && !last(&script).contains("verify"), "{}", last(&script));
}

#[test]
fn the_order_is_told_when_its_column_is_hidden() {
    let mut script = Script::with(80, 24, five());
    for _ in 0..10 {
        script.press("s");
        let heading = script.picture().lines().nth(1).unwrap().to_owned();
        assert!(heading.contains('▲'), "{heading}");
    }
}

#[test]
fn the_cursor_of_the_queue_stays_on_its_job() {
    let mut script = Script::with(80, 24, five());
    script.jobs(ten_jobs());
    script.press("3 j");
    let mut jobs = ten_jobs();
    jobs.swap(4, 0);
    jobs.remove(1);
    script.jobs(jobs);
    assert_eq!(script.state.queue.cursor, Some(JobId(5)));
}

#[test]
fn progress_waits_for_its_frame_and_everything_else_does_not() {
    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(1, "org/x", JobState::Running)]);
    let event =
        |number, kind| Msg::Jobs(Update::Event(JobEvent { version: EVENT_VERSION, number, job: JobId(1), kind }));
    script.state.dirty = Dirty::Clean;
    let progress = JobEventKind::Progress {
        file: None,
        path: None,
        bytes: 1,
        total: 10,
        rate: Some(1),
        eta_s: Some(9),
        connections: Some(1),
        courtesy: None,
    };
    script.send(event(2, progress));
    assert_eq!(script.state.dirty, Dirty::Progress);
    script.send(event(3, JobEventKind::Failed { error: "no network".to_owned() }));
    assert_eq!(script.state.dirty, Dirty::Now);
    assert!(notice(&script).contains("download org/x failed: no network"), "{}", notice(&script));
    script.state.dirty = Dirty::Clean;
    script.soon(Msg::Drawn);
    assert_eq!(script.state.dirty, Dirty::Clean, "a frame that was drawn asks for no other");
}

fn offer() -> Box<Offer> {
    let choice = |label: &str, reference: &str, bytes: u64| Choice {
        label: label.to_owned(),
        reference: reference.to_owned(),
        files: 1,
        principal: format!("name-{label}.gguf"),
        bytes,
        weights: bytes,
        problem: None,
        file: None,
    };
    Box::new(Offer {
        repository: "org/name".to_owned(),
        commit: "0123456789".to_owned(),
        folder: PathBuf::from("/data/models"),
        available: Some(151 * GIB),
        cache: Some((PathBuf::from("/data/hf/models--org--name"), Some(40 * GIB))),
        projector: Some(("mmproj-F16.gguf".to_owned(), GIB)),
        choices: vec![
            choice("Q4_K_M", "org/name", 4 * GIB),
            choice("Q8_0", "org/name:Q8_0", 8 * GIB),
            choice("F16", "org/name:F16", 200 * GIB),
        ],
        default: Some(0),
        note: None,
        header: None,
    })
}

/// The dialog of a pull, after `reference` was typed and asked for.
fn pulling(reference: &str) -> (Script, Generation) {
    let mut script = Script::with(80, 24, five());
    script.press("p");
    script.write(reference);
    script.press("Enter");
    let generation = script.request(|effect| match effect {
        Effect::List(generation, _) => Some(*generation),
        _ => None,
    });
    (script, generation)
}

#[test]
fn pulling_lists_then_queues() {
    let mut script = Script::with(80, 24, five());
    script.press("p");
    script.write("org/name");
    script.press("Enter Enter");
    let asked: Vec<Effect> = script.taken().into_iter().filter(|effect| matches!(effect, Effect::List(..))).collect();
    let [Effect::List(generation, _)] = asked.as_slice() else { panic!("asked once: {asked:?}") };
    script.send(Msg::Listed(*generation, Ok(offer())));
    script.press("j Enter");
    let effects = script.taken();
    let [JobSpec::Download(request)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(request.reference, "org/name:Q8_0");
    assert_eq!((request.to, request.mmproj), (DestinationKind::Flat, false));
    assert!(script.state.dialogs.is_empty());
}

#[test]
fn several_choices_are_marked_and_queued_together() {
    let (mut script, generation) = pulling("org/name");
    let mut offer = offer();
    for name in ["imatrix.dat", "README.md"] {
        offer.choices.push(Choice {
            label: "file".to_owned(),
            reference: "org/name".to_owned(),
            principal: name.to_owned(),
            bytes: GIB,
            weights: 0,
            file: Some(name.to_owned()),
            ..offer.choices[0].clone()
        });
    }
    script.send(Msg::Listed(generation, Ok(offer)));
    script.press("Space Space m G Space k Space");
    let shown = script.picture();
    assert!(shown.contains("4 marked, 15.0 GiB; 136 GiB free after that"), "{shown}");
    script.press("Enter");
    let effects = script.taken();
    let asked: Vec<(&str, &[String], bool)> = submitted(&effects)
        .into_iter()
        .map(|spec| match spec {
            JobSpec::Download(request) => (request.reference.as_str(), request.files.as_slice(), request.mmproj),
            other => panic!("{other:?}"),
        })
        .collect();
    let files = ["imatrix.dat".to_owned(), "README.md".to_owned()];
    assert_eq!(asked, [("org/name", &[][..], true), ("org/name:Q8_0", &[][..], true), ("org/name", &files[..], false)]);
}

#[test]
fn a_pull_can_go_to_the_cache_with_the_projector() {
    let (mut script, generation) = pulling("org/name");
    script.send(Msg::Listed(generation, Ok(offer())));
    script.press("t m");
    let shown = script.picture();
    assert!(shown.contains("to /data/hf/") && shown.contains("with mmproj, 1.00 GiB"), "{shown}");
    script.press("Enter");
    let effects = script.taken();
    let [JobSpec::Download(request)] = submitted(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((request.to, request.mmproj), (DestinationKind::Hf, true));
}

#[test]
fn pulling_searches_for_words() {
    let mut script = Script::with(80, 24, five());
    script.press("p");
    script.write("tiny llama");
    script.press("Enter");
    let generation = script.request(|effect| match effect {
        Effect::Search(generation, text) if text == "tiny llama" => Some(*generation),
        _ => None,
    });
    let hit = |id: &str| SearchHit {
        id: id.to_owned(),
        downloads: 1_234_567,
        likes: 12,
        updated: None,
        gated: id.contains("gated"),
        tags: Vec::new(),
    };
    script.send(Msg::Found(generation, Ok(vec![hit("org/one"), hit("org/gated")])));
    script.press("j Enter");
    let generation = script.request(|effect| match effect {
        Effect::List(generation, text) if text == "org/gated" => Some(*generation),
        _ => None,
    });
    script.send(Msg::Listed(generation, Err("org/gated is gated: accept its terms".to_owned())));
    assert!(script.picture().contains("accept its terms"), "{}", script.picture());
    script.press("k Enter");
    let generation = script.request(|effect| match effect {
        Effect::List(generation, _) => Some(*generation),
        _ => None,
    });
    script.send(Msg::Listed(generation, Ok(offer())));
    script.press("Enter");
    assert_eq!(submitted(&script.taken()).len(), 1);
    assert!(script.state.dialogs.is_empty());
}

#[test]
fn an_alias_is_a_reference_and_a_malformed_one_is_an_error() {
    for (text, lists, fails) in [
        ("tinyllama", true, false),
        ("qwen:Q8_0", true, false),
        ("mistral", false, false),
        ("a/b/c", false, true),
        ("../x", false, true),
    ] {
        let mut script = Script::with(80, 24, five());
        script.press("p");
        script.write(text);
        script.press("Enter");
        let effects = script.taken();
        assert_eq!(effects.iter().any(|effect| matches!(effect, Effect::List(..))), lists, "{text}");
        let Some(Dialog::Pull(pull)) = script.state.dialogs.last() else { panic!("no dialog") };
        assert_eq!(pull.error.is_some(), fails, "{text}: {:?}", pull.error);
    }
}

#[test]
fn an_answer_after_the_text_was_changed_is_dropped() {
    let (mut script, generation) = pulling("org/name");
    script.write("2");
    assert_eq!(asked(&mut script), [Effect::StopAsking]);
    script.send(Msg::Listed(generation, Ok(offer())));
    assert!(matches!(script.state.dialogs.last(), Some(Dialog::Pull(_))));
}

#[test]
fn the_detail_follows_the_cursor_once_it_rests() {
    let mut script = Script::with(140, 30, five());
    script.soon(Msg::Tick);
    script.taken();
    let asks = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Details(..))).count();
    for _ in 0..3 {
        script.soon(Msg::Key("j".parse().unwrap()));
    }
    assert_eq!(asks(&script.taken()), 0, "nothing is read while the cursor moves");
    script.at = script.state.deadline();
    script.soon(Msg::Tick);
    let generation = script.request(|effect| match effect {
        Effect::Details(generation, model) if model.id == "eps" => Some(*generation),
        _ => None,
    });
    script.press("k");
    let mut eps = model("eps", 2, 1);
    eps.warnings.push("from another row".to_owned());
    let details = Details::new(eps, Vec::new());
    script.send(Msg::Details(generation, Ok(Box::new(details))));
    assert!(!script.picture().contains("from another row"), "an answer about another row is dropped");
}

#[test]
fn parts_are_marked_and_deleted_in_the_detail() {
    let mut script = Script::with(80, 24, five());
    script.press("Enter");
    let generation = script.request(|effect| match effect {
        Effect::Details(generation, _) => Some(*generation),
        _ => None,
    });
    let mut details = Details::new(model("alpha", 4, 10), Vec::new());
    let figures = Figures { size_bytes: GIB, disk_bytes: GIB, reclaimable_bytes: GIB / 2 };
    let labels = ["Q4_K_M", "Q8_0", "F16"];
    details.parts = labels
        .map(|label| QuantizationPart { quantization: label.to_owned(), header: None, bits_per_weight: None, figures })
        .to_vec();
    script.send(Msg::Details(generation, Ok(Box::new(details))));
    let staged = |effects: Vec<Effect>| -> Vec<PlanTarget> {
        effects
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Plan(_, targets) => Some(targets),
                _ => None,
            })
            .unwrap()
    };
    let part =
        |label: &str| PlanTarget { model: id(StoreKind::Flat, "alpha"), part: Part::Quantization(label.to_owned()) };
    script.taken();
    script.press("d");
    assert_eq!(staged(script.taken()), [PlanTarget::whole(id(StoreKind::Flat, "alpha"))], "no part is chosen yet");
    script.press("Esc");
    // The text before the parts is read first.
    while script.state.detail.part.is_none() {
        script.press("j");
    }
    let picture = script.picture();
    assert!(picture.contains("> ") && picture.contains("Q4_K_M · frees 512 MiB"), "{picture}");
    script.press("d");
    assert_eq!(staged(script.taken()), [part("Q4_K_M")]);
    assert!(script.picture().contains("delete Q4_K_M of alpha"), "{}", script.picture());
    script.press("Esc Space j Space");
    assert_eq!(script.state.detail.marks.len(), 2);
    script.taken();
    script.press("d");
    assert_eq!(staged(script.taken()), [part("Q4_K_M"), part("F16")]);
    script.press("Esc A");
    assert!(script.state.detail.marks.is_empty());
    // What is out of sight is not meant.
    script.press("g d");
    assert_eq!(staged(script.taken()), [PlanTarget::whole(id(StoreKind::Flat, "alpha"))]);
}

#[test]
fn a_disk_that_does_not_answer_is_said() {
    let mut script = Script::with(140, 30, five());
    script.at = script.state.deadline();
    script.soon(Msg::Tick);
    script.at += Duration::from_secs(5);
    script.soon(Msg::Tick);
    assert!(script.picture().contains("the store does not answer"), "{}", script.picture());
    script.press("d");
    script.at += Duration::from_secs(5);
    script.soon(Msg::Tick);
    assert!(script.picture().contains("the store does not answer; Esc closes"), "{}", script.picture());
}

#[test]
fn verifying_and_copying_are_about_the_marks_or_the_row() {
    let mut script = Script::with(80, 24, five());
    script.press("j V");
    let effects = script.taken();
    assert_eq!(submitted(&effects), [&JobSpec::Verify { models: vec![id(StoreKind::Flat, "beta")], quick: false }]);
    script.press("y");
    assert!(script.taken().contains(&Effect::Copy("/data/models/beta".to_owned())));
    assert!(notice(&script).contains("/data/models/beta"), "shown too, for terminals that do not take it");
    script.press("g Space j Enter");
    assert_eq!(script.state.focus, Focus::Detail);
    script.taken();
    script.press("V");
    let effects = script.taken();
    let shown = script.cursor();
    let meant = JobSpec::Verify { models: vec![id(StoreKind::Flat, &shown)], quick: false };
    assert_eq!(submitted(&effects), [&meant], "what the detail shows, whatever is marked");
}

#[test]
fn an_empty_host_survives_every_key() {
    let keys = "j k ^d ^u g G Enter Esc Space a A d V y s S R / x Esc p Esc 3 Space x X r J K + - C y Enter Esc / Esc 2 d V y j \
                k G Tab S-Tab ? j G q ^l ^z";
    for (columns, rows) in [(80, 24), (40, 10), (1, 1), (0, 0), (200, 60)] {
        let mut script = Script::new(columns, rows);
        script.press(keys);
        script.done();
        script.press(keys);
        script.buffer(rbee_hive::tui::theme::Tier::None, true);
        assert!(submitted(&script.effects).is_empty());
    }
}

#[test]
fn a_line_that_is_typed_is_in_sight_whatever_is_said() {
    for (width, height) in [(120, 40), (80, 24), (40, 10)] {
        let mut script = Script::with(width, height, five());
        script.jobs(vec![download(1, "org/one", JobState::Running)]);
        for keys in ["/", "Esc 3 /"] {
            script.press(keys);
            let long = format!("{} stands in the way", "what was said ".repeat(20));
            script.soon(Msg::Refused(long));
            script.soon(Msg::Paste("one".to_owned()));
            let picture = script.picture();
            let last = picture.lines().last().unwrap();
            assert!(last.contains("/one"), "{width}x{height}:\n{picture}");
            assert!(picture.contains("what was said"), "{picture}");
            assert!(picture.matches("one").count() > 1, "the job is in sight:\n{picture}");
        }
    }
}

#[test]
fn a_notice_of_two_lines_covers_no_job() {
    for height in [10, 24] {
        let mut script = Script::with(80, height, five());
        script.jobs(ten_jobs());
        script.soon(Msg::Refused("word ".repeat(60)));
        let layout = script.state.layout();
        assert_eq!(layout.notice.height, 2);
        assert!(!layout.queue.intersects(layout.notice), "{layout:?}");
        assert!(layout.queue.height > 0);
    }
}

#[test]
fn what_is_wrong_with_a_filter_is_not_said_under_another() {
    let mut script = Script::with(80, 24, five());
    script.press("/");
    script.write("size>");
    script.press("Enter");
    assert!(notice(&script).contains("size>"), "{}", notice(&script));
    script.soon(Msg::Key("^u".parse().unwrap()));
    assert_eq!(notice(&script), "");
    script.write("size>");
    script.press("Enter");
    script.soon(Msg::Refused("something else".to_owned()));
    script.press("Esc j j");
    assert_eq!(notice(&script), "");
}

#[test]
fn a_key_that_a_job_does_not_take_names_its_model() {
    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(11, "org/one", JobState::Finished)]);
    script.send(Msg::Unchanged(JobId(11), "it is finished; delete the model instead".to_owned()));
    assert_eq!(notice(&script), "org/one: it is finished; delete the model instead");
}

#[test]
fn a_failure_is_no_longer_said_when_the_job_runs_again() {
    let mut script = Script::with(80, 24, five());
    script.jobs(vec![download(1, "org/one", JobState::Running)]);
    script.jobs(vec![download(1, "org/one", JobState::Failed)]);
    assert!(notice(&script).contains("failed"), "{}", notice(&script));
    script.jobs(vec![download(1, "org/one", JobState::Running)]);
    assert_eq!(notice(&script), "");
}

#[test]
fn refusals_and_trouble_are_said() {
    let mut script = Script::with(80, 24, five());
    script.send(Msg::Refused("job 3: it has ended".to_owned()));
    assert_eq!(script.state.notices.shown().map(|notice| notice.level), Some(Level::Bad));
    assert!(script.picture().contains("job 3: it has ended"));
}

#[test]
fn a_verification_that_found_damage_does_not_look_finished() {
    let mut script = Script::with(100, 24, five());
    script.jobs(Vec::new());
    script.taken();
    let event =
        |number, kind| Msg::Jobs(Update::Event(JobEvent { version: EVENT_VERSION, number, job: JobId(1), kind }));
    let spec = Box::new(JobSpec::Verify { models: vec![id(StoreKind::Flat, "beta")], quick: false });
    script.send(event(2, JobEventKind::Queued { spec, position: 0 }));
    script.send(event(3, JobEventKind::Started { file: None, bytes: None, total: None }));
    let file = FileCheck::new("beta-Q4_K_M.gguf", FileStatus::Corrupt);
    let verification = Verification { model: id(StoreKind::Flat, "beta"), ok: false, files: vec![file] };
    let outcome = Some(Box::new(JobOutcome::Verified(vec![verification])));
    script.send(event(4, JobEventKind::Finished { path: None, outcome }));
    assert_eq!(notice(&script), "verified beta: beta-Q4_K_M.gguf is corrupt");
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))), "rows show what was found");
    script.at += Duration::from_secs(2);
    script.press("j");
    let picture = script.picture();
    let line = picture.lines().find(|line| line.contains("verify beta")).unwrap_or_else(|| panic!("{picture}"));
    assert!(line.contains("damaged") && line.contains("is corrupt"), "{line}");
}

#[test]
fn the_mouse_goes_to_rows_and_panes_and_starts_nothing() {
    let mouse = |gesture, column, row| Msg::Mouse(Mouse { gesture, column, row });
    let mut script = Script::with(80, 24, five());
    script.jobs(ten_jobs());
    script.taken();
    script.send(mouse(Gesture::Click, 10, 4));
    assert_eq!(script.cursor(), "delta");
    script.send(mouse(Gesture::WheelDown, 0, 0));
    assert_eq!(script.cursor(), "gamma");
    let queue = script.state.layout().queue;
    script.send(mouse(Gesture::Click, 5, queue.y + 1));
    assert_eq!(script.state.focus, Focus::Queue);
    for column in [0, 79, 500] {
        for row in 0..30 {
            script.send(mouse(Gesture::Click, column, row));
            script.send(mouse(Gesture::WheelUp, column, row));
        }
    }
    let started = asked(&mut script);
    assert!(started.is_empty(), "{started:?}");
    script.press("1 d");
    script.planned(plan(&["alpha"]));
    script.soon(Msg::Drawn);
    for row in 0..24 {
        script.send(mouse(Gesture::Click, 40, row));
    }
    assert!(submitted(&script.effects).is_empty() && script.state.dialogs.len() == 1);
}

#[test]
fn the_bell_rings_only_if_wanted_and_only_when_all_is_done() {
    for bell in [false, true] {
        let mut script = Script::with(80, 24, five());
        script.state.facts.bell = bell;
        script.jobs(vec![download(1, "org/x", JobState::Running), download(2, "org/y", JobState::Running)]);
        for (number, job) in [(2, 1), (3, 2)] {
            script.taken();
            let kind = JobEventKind::Failed { error: "no network".to_owned() };
            script.send(Msg::Jobs(Update::Event(JobEvent { version: EVENT_VERSION, number, job: JobId(job), kind })));
            assert_eq!(script.taken().contains(&Effect::Bell), bell && job == 2);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is pressed in whatever order: it draws, and nothing is deleted that was not shown and confirmed.
    #[test]
    fn any_keys_in_any_order_are_survived(
        keys in proptest::collection::vec(0usize..60, 0..80), width in 0u16..140, height in 0u16..40,
    ) {
        let names = "j k ^d ^u g G Enter Esc Space a A / s S d p x X r J K + - V R y n ? ^l q ^c Tab S-Tab 1 2 3 C Backspace ^w \
                     Left Right Home End Del PgDn PgUp Up Down z 0 é M-x F1";
        let names: Vec<&str> = names.split(' ').collect();
        let mut script = Script::with(width, height, five());
        script.jobs(ten_jobs());
        for key in keys {
            script.state.exit = None;
            let Some(name) = names.get(key) else {
                // A plan, late or not asked for.
                let asked = script.effects.iter().rev().find_map(plan_generation);
                let agreed = script.state.dialogs.iter().any(|dialog| matches!(dialog, Dialog::Plan(dialog) if dialog.agreed.is_some()));
                let before = script.effects.len();
                script.send(Msg::Planned(asked.unwrap_or_default(), Ok(Box::new(thorny_plan()))));
                let deletes = submitted(&script.effects[before..]).iter().any(|spec| matches!(spec, JobSpec::Delete { .. }));
                prop_assert!(!deletes || agreed, "deleted without a yes");
                continue;
            };
            let stood = matches!(script.state.dialogs.last(), Some(Dialog::Plan(_) | Dialog::Sure(_)));
            let before = script.effects.len();
            script.press(name);
            script.buffer(rbee_hive::tui::theme::Tier::Sixteen, false);
            let deletes = submitted(&script.effects[before..]).iter().any(|spec| matches!(spec, JobSpec::Delete { .. }));
            prop_assert!(!deletes || (stood && *name == "y"), "{name} deleted");
        }
    }
}

/// What the folders of a store tell; two kinds of it differ.
fn seen(folders: usize) -> Fingerprint {
    let scratch = tempfile::tempdir().unwrap();
    (0..folders).for_each(|index| std::fs::create_dir(scratch.path().join(index.to_string())).unwrap());
    FlatStore::new(scratch.path().to_owned(), Vec::new()).fingerprint()
}

/// The look at the stores that has been asked for since the last call.
fn look(effects: &[Effect]) -> Option<Generation> {
    effects.iter().find_map(|effect| match effect {
        Effect::Look(generation) => Some(*generation),
        _ => None,
    })
}

#[test]
fn what_another_program_does_to_a_store_is_scanned_and_nothing_moves() {
    let mut script = Script::with(80, 24, five());
    script.press("j j Space a j");
    let (cursor, marks) = (script.cursor(), script.state.models.marks.clone());
    let (before, after) = (seen(1), seen(2));
    let generation = script.state.models.scan.generation;
    script.send(Msg::Looked(generation, before));
    script.taken();
    script.state.host_asked = script.at + Duration::from_secs(3600);
    assert_eq!(script.state.look_due(), Some(script.at + Duration::from_secs(10)));
    // Nothing new: nothing is scanned, nothing is drawn, and the next look is planned.
    script.at = script.state.look_due().unwrap();
    script.state.dirty = Dirty::Clean;
    script.soon(Msg::Tick);
    let asked = look(&script.taken()).expect("a look is asked for");
    assert_eq!(script.state.look_due(), None);
    script.soon(Msg::Looked(asked, before));
    assert_eq!(script.state.dirty, Dirty::Clean);
    assert!(!script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))));
    // Something new.
    script.at = script.state.look_due().expect("the next look is planned");
    script.soon(Msg::Tick);
    let asked = look(&script.taken()).unwrap();
    script.send(Msg::Looked(asked, after));
    assert!(script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))));
    assert_eq!(script.state.look_due(), None, "a scan runs");
    let mut models = five();
    models.push(model("zeta", 1, 1));
    script.scanned(models);
    script.store_done(StoreKind::Flat, "/data/models", &[]);
    assert_eq!((script.cursor(), &script.state.models.marks), (cursor, &marks));
    // The answer to a look from before the scan is old.
    script.send(Msg::Looked(asked, before));
    assert!(!script.taken().iter().any(|effect| matches!(effect, Effect::Scan(_))));
}

#[test]
fn nobody_looks_while_this_program_changes_the_stores() {
    let mut script = Script::with(80, 24, five());
    let generation = script.state.models.scan.generation;
    script.send(Msg::Looked(generation, seen(1)));
    assert!(script.state.look_due().is_some());
    script.press("?");
    assert_eq!(script.state.look_due(), None, "a dialog is open");
    script.press("Esc");
    script.state.queue.snapshot.jobs.push(download(1, "x", JobState::Running));
    assert_eq!(script.state.look_due(), None, "a job runs");
}
