//! `delete`: the plan is shown, agreed to, and then run exactly as it was shown.

use super::arguments::Delete;
use super::exit::{Exit, Outcome, Stop};
use super::list::count;
use super::removal::{self, Removed};
use super::session::{Found, Session};
use crate::error::Error;
use crate::jobs::{Basis, JobSpec};
use crate::model::{DeletionReport, Plan, text};
use crate::provisioner::PlanTarget;

pub(super) async fn run(session: &mut Session, arguments: Delete) -> Outcome {
    let Delete { reference, dry_run, yes, force, json } = arguments;
    if !dry_run && !yes && !session.output.answers {
        return Err(Stop::Usage(
            "delete asks before it deletes, and there is no terminal to ask on: give --yes".into(),
        ));
    }
    let targets = match session.find(reference).await? {
        Found::Targets(targets) => targets,
        Found::Signal(exit) => return Ok(exit),
    };
    let mut plan = match plan_of(session, &targets).await? {
        Planned::Plan(plan) => *plan,
        Planned::Signal(exit) => return Ok(exit),
    };
    if dry_run {
        if json {
            session.output.json(&Removed::new(&plan, None))?;
        } else {
            session.output.print(&removal::describe(&names(&plan), &plan))?;
        }
        return Ok(Exit::Done);
    }
    loop {
        if let Err(refusal) = refuse(&plan, force) {
            if json {
                // What forbids it is for programs, too: nothing was freed.
                session.output.json(&Removed::new(&plan, Some(&DeletionReport::default())))?;
            }
            return Err(refusal.into());
        }
        if yes {
            break;
        }
        session.output.say(removal::describe(&names(&plan), &plan).trim_end());
        // Asked on a thread of its own: a signal must reach a program that waits for an answer.
        let output = session.output.clone();
        let question = format!("Delete {}?", names(&plan));
        let (agreed, signal) = session.blocking(move || output.ask(&question)).await?;
        if let Some(exit) = signal {
            return Ok(exit);
        }
        if !agreed {
            session.output.say("nothing was deleted");
            return Ok(Exit::Failed);
        }
        // Time has passed: what was shown may not be what would go by now.
        let again = match plan_of(session, &targets).await? {
            Planned::Plan(plan) => *plan,
            Planned::Signal(exit) => return Ok(exit),
        };
        if plan.covers(&again) {
            break;
        }
        session.output.say("what would go has changed since it was shown; nothing is deleted yet");
        plan = again;
    }
    let (report, signal) =
        removal::execute(session, JobSpec::Delete { plan: plan.clone(), basis: Basis::JustMade }).await?;
    if json {
        session.output.json(&Removed::new(&plan, Some(&report)))?;
    } else {
        session.output.print(&removal::result(&names(&plan), &plan, &report))?;
    }
    Ok(removal::conclude(session, &report, signal))
}

enum Planned {
    Plan(Box<Plan>),
    Signal(Exit),
}

async fn plan_of(session: &mut Session, targets: &[PlanTarget]) -> Result<Planned, Stop> {
    let (inventory, targets) = (session.inventory.clone(), targets.to_vec());
    let (plan, signal) = session.blocking(move || inventory.plan_deletion(&targets)).await?;
    Ok(match signal {
        Some(exit) => Planned::Signal(exit),
        None => Planned::Plan(Box::new(plan?)),
    })
}

/// What needs `--force`, or cannot be done at all.
fn refuse(plan: &Plan, force: bool) -> Result<(), Error> {
    let what = names(plan);
    let refusal = |reason: String| Err(Error::DeletionRefused { what: what.clone(), reason });
    if plan.steps.is_empty() {
        let because = plan.blocked.first().map(|blocked| blocked.because.as_str());
        let because = because.or_else(|| plan.keep.first().map(|kept| kept.because.as_str()));
        return refusal(format!(
            "nothing of it can be deleted{}",
            because.map(|b| format!(": {b}")).unwrap_or_default()
        ));
    }
    if force {
        return Ok(());
    }
    if let Some(holder) = plan.in_use_by.first() {
        let command = text::printable(&holder.command);
        return refusal(format!(
            "it is in use by process {} ({}, {command}); end that first, or give --force",
            holder.pid, holder.user
        ));
    }
    if let Some(broken) = plan.breaks.first() {
        return refusal(format!(
            "{} links to it ({}) and would break; delete that too, or give --force",
            broken.model,
            text::printable_path(&broken.path)
        ));
    }
    if let Some(blocked) = plan.blocked.first() {
        return refusal(format!(
            "{} cannot be deleted: {}; --force deletes the rest",
            text::printable_path(&blocked.path),
            blocked.because
        ));
    }
    Ok(())
}

fn names(plan: &Plan) -> String {
    match plan.models.as_slice() {
        [one] => one.to_string(),
        many => count(many.len(), "model"),
    }
}
