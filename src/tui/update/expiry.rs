//! Plans expire as soon as they are shown: a yes makes the plan anew, and what was read runs only while it is still true.

use super::{Effects, dialogs};
use crate::model::Plan;
use crate::tui::effect::Effect;
use crate::tui::msg::Now;
use crate::tui::state::{Dialog, Level, PlanDialog, State};

/// What a person agreed to, while the plan is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// To the plan.
    Plan,
    /// To the plan, and to what it hurts.
    All,
}

/// The dialog of the plan that is being decided on.
fn dialog(state: &mut State) -> Option<&mut PlanDialog> {
    state.dialogs.iter_mut().rev().find_map(|dialog| match dialog {
        Dialog::Plan(dialog) => Some(dialog),
        _ => None,
    })
}

/// Whether the plan has to be made anew. A sweep is looked over again when it runs.
pub(super) fn expires(state: &State) -> bool {
    state.dialogs.iter().rev().any(|dialog| matches!(dialog, Dialog::Plan(dialog) if dialog.swept.is_empty()))
}

/// Makes the plan anew; what comes decides whether it runs.
pub(super) fn remake(state: &mut State, agreed: Agreed, now: Now) -> Effects {
    let wait = state.wait(now);
    if agreed == Agreed::All {
        // The second question is about a plan that may be another one.
        state.dialogs.pop();
    }
    let Some(dialog) = dialog(state) else { return Vec::new() };
    dialog.wait = Some(wait);
    dialog.agreed = Some(agreed);
    let asked = dialog.targets.clone();
    vec![Effect::Plan(wait.generation, asked)]
}

/// A plan was made anew: the same runs, another one is shown.
pub(super) fn remade(state: &mut State, agreed: Agreed, before: Option<&Plan>, now: Now) -> Effects {
    let same = match (dialog(state).map(|dialog| &dialog.plan), before) {
        (Some(Some(Ok(plan))), Some(before)) => before.covers(plan),
        _ => false,
    };
    if !same {
        let line = "what would go has changed since it was shown: read the plan again; nothing is deleted yet";
        state.say(Level::Warn, line, now);
        return Vec::new();
    }
    match agreed {
        Agreed::Plan => dialogs::agreed(state),
        Agreed::All => dialogs::run(state),
    }
}
