//! `sweep`: what nothing can use any more is shown with its reasons, agreed to, and then removed as every plan is.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::arguments::Sweep as Arguments;
use super::exit::{Exit, Outcome, Stop};
use super::list::count;
use super::removal::{self, Removed};
use super::session::Session;
use crate::jobs::{self, JobSpec};
use crate::model::{Bytes, Plan, Sweep, SweepItem, text};

/// `sweep --json`.
#[derive(Serialize)]
struct Swept<'a> {
    #[serde(flatten)]
    removed: Removed<'a>,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(flatten)]
    item: &'a SweepItem,
    /// Whether it is part of the plan.
    taken: bool,
}

pub(super) async fn run(session: &mut Session, arguments: Arguments) -> Outcome {
    let Arguments { dry_run, yes, certainty, json } = arguments;
    if !dry_run && !yes && !session.output.answers {
        return Err(Stop::Usage("sweep asks before it removes, and there is no terminal to ask on: give --yes".into()));
    }
    let (sweep, signal) = look(session).await?;
    if let Some(exit) = signal {
        return Ok(exit);
    }
    for warning in &sweep.warnings {
        session.output.say(&format!("llorch-models: {}", text::printable(warning)));
    }
    let chosen = sweep.at_least(certainty);
    let mut plan = sweep.plan(&chosen);
    plan.keep.extend(sweep.kept.iter().cloned());
    let json_of = |report| Swept {
        removed: Removed::new(&plan, report),
        items: sweep.items.iter().enumerate().map(|(at, item)| Item { item, taken: chosen.contains(&at) }).collect(),
    };
    if dry_run {
        if json {
            session.output.json(&json_of(None))?;
        } else {
            session.output.print(&describe(&sweep, &chosen, &plan))?;
        }
        return Ok(Exit::Done);
    }
    if plan.steps.is_empty() {
        if json {
            session.output.json(&json_of(Some(&Default::default())))?;
        } else {
            session.output.print(&describe(&sweep, &chosen, &plan))?;
        }
        // What cannot be removed was not swept; that there is nothing is no failure.
        return Ok(if plan.blocked.is_empty() { Exit::Done } else { Exit::Failed });
    }
    if !yes {
        session.output.say(describe(&sweep, &chosen, &plan).trim_end());
        let output = session.output.clone();
        let question = format!("Remove {}?", count(chosen.len(), "item"));
        let (agreed, signal) = session.blocking(move || output.ask(&question)).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        if !agreed {
            session.output.say("nothing was removed");
            return Ok(Exit::Failed);
        }
    }
    let items: Vec<SweepItem> = chosen.iter().filter_map(|at| sweep.items.get(*at)).cloned().collect();
    let (report, signal) = removal::execute(session, JobSpec::Sweep { plan: plan.clone(), items }).await?;
    if json {
        session.output.json(&json_of(Some(&report)))?;
    } else {
        session.output.print(&removal::result(&format!("sweep of {}", count(chosen.len(), "item")), &plan, &report))?;
    }
    for blocked in &plan.blocked {
        session.output.say(&format!("llorch-models: {}: {}", text::printable_path(&blocked.path), blocked.because));
    }
    Ok(removal::conclude(session, &report, signal))
}

/// Looks through every store, or shows only the one of `--store-path`.
async fn look(session: &mut Session) -> Result<(Sweep, Option<Exit>), Stop> {
    let (inventory, provisioner, cancel) =
        (session.inventory.clone(), session.provisioner.clone(), session.cancel.clone());
    let queue_file = session.settings.paths.state.join("queue.json");
    let store_path = session.store_path.clone();
    if let Some(root) = &store_path
        && !inventory.stores().iter().any(|store| store.root() == root)
    {
        let root = text::printable_path(root);
        return Err(Stop::Usage(format!("no store has the root {root}; `llorch-models list --json` names them")));
    }
    session
        .blocking(move || {
            let context = jobs::sweep_context(&provisioner, Some(&queue_file), &[], Timestamp::now());
            let mut sweep = inventory.sweep(&context, &cancel);
            if let Some(root) = &store_path {
                sweep.retain(|item| item.store_path == *root);
                sweep.kept.retain(|kept| kept.path.starts_with(root));
            }
            sweep
        })
        .await
}

/// What was found, for a person: what goes first, then what has to be asked for, then what stays and why.
fn describe(sweep: &Sweep, chosen: &BTreeSet<usize>, plan: &Plan) -> String {
    let mut out = String::new();
    if sweep.items.is_empty() {
        out.push_str("nothing to sweep\n");
    } else {
        out.push_str(&format!(
            "sweep: {} of {} taken, {} to free\n",
            chosen.len(),
            count(sweep.items.len(), "item"),
            Bytes(plan.expected_bytes)
        ));
    }
    for taken in [true, false] {
        for (_, item) in sweep.items.iter().enumerate().filter(|(at, _)| chosen.contains(at) == taken) {
            let word = if taken { "remove  " } else { "leave   " };
            out.push_str(&format!(
                "  {word}  {}  {}, {}: {}  {}\n",
                text::printable_path(&item.path),
                item.kind,
                item.certainty,
                item.why,
                Bytes(item.bytes)
            ));
        }
    }
    for kept in &plan.keep {
        out.push_str(&format!(
            "  keep      {}  {}\n",
            text::printable_path(&kept.path),
            text::printable(&kept.because)
        ));
    }
    for blocked in &plan.blocked {
        let because = text::printable(&blocked.because);
        out.push_str(&format!("  blocked   {}  {because}\n", text::printable_path(&blocked.path)));
    }
    if let Some(line) = removal::unseen(plan).filter(|_| !chosen.is_empty()) {
        out.push_str(&format!("  {line}\n"));
    }
    if chosen.len() < sweep.items.len() {
        out.push_str("what is left is less sure; --certainty possible takes it, too\n");
    }
    out
}
