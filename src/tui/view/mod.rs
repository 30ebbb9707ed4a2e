//! The state as a picture. Pure: it reads the state and writes cells.
//!
//! ```text
//! ┌ gpu01 ─ 17 models · 412 GiB on disk ─ /data 84% · 151 GiB free ──────────┐  header
//! │ models: heading and rows                            │ detail where the   │
//! │                                                     │ models keep their  │
//! │                                                     │ columns, else alone│
//! ├ queue: 1 running · 2 waiting ────────────────────────────────────────────┤  rule
//! │ jobs                                                                     │
//! └ a notice, or the keys that work here ────────────────────────────────────┘  footer
//! ```

mod canvas;
mod detail;
mod dialogs;
mod figures;
mod footer;
mod header;
mod help;
mod models;
mod parts;
mod plan;
mod pull;
mod queue;
mod sweep;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use super::state::{Dialog, State};
use super::theme::{Look, Role};
use canvas::Canvas;
pub(crate) use detail::{length as detail_length, parts as detail_parts};
pub(crate) use dialogs::sure_readable;
pub(crate) use help::length as help_length;
pub(crate) use plan::{body_rows as plan_rows, length as plan_length, readable as plan_readable};
pub(crate) use sweep::rows as sweep_rows;

/// Draws `state` into `buffer`, and says where the caret of a text field is.
pub fn draw(state: &State, look: &Look, buffer: &mut Buffer) -> Option<Position> {
    let mut canvas = Canvas { buffer, look };
    let layout = state.layout();
    let symbols = look.symbols;
    if layout.screen.is_empty() {
        return None;
    }
    let frame = Rect::new(0, 1, layout.screen.width, layout.screen.height.saturating_sub(2));
    canvas.sides(frame);
    header::draw(&mut canvas, state, &layout);
    if let Some(area) = layout.models {
        models::draw(&mut canvas, state, area);
    }
    if let Some(area) = layout.detail {
        detail::draw(&mut canvas, state, area);
    }
    queue::draw(&mut canvas, state, &layout);
    if let (Some(models), Some(_)) = (layout.models, layout.detail) {
        // The line between models and detail.
        let x = models.right();
        for y in models.top()..models.bottom() {
            canvas.put(layout.screen, x, y, symbols.vertical, Role::Border);
        }
        canvas.cross(x, layout.header.y, symbols.crossings[0]);
        canvas.cross(x, layout.rule.y, symbols.crossings[1]);
    }
    let mut caret = footer::draw(&mut canvas, state, &layout);
    for dialog in &state.dialogs {
        caret = match dialog {
            Dialog::Plan(dialog) => plan::draw(&mut canvas, state, dialog, &layout),
            Dialog::Sure(dialog) => dialogs::sure(&mut canvas, state, dialog, &layout),
            Dialog::Pull(dialog) => pull::field(&mut canvas, state, dialog, &layout),
            Dialog::Hits(dialog) => pull::hits(&mut canvas, state, dialog, &layout),
            Dialog::Files(dialog) => pull::files(&mut canvas, state, dialog, &layout),
            Dialog::Sweep(dialog) => sweep::draw(&mut canvas, state, dialog, &layout),
            Dialog::Help { scroll } => help::draw(&mut canvas, state, *scroll, &layout),
            Dialog::Quit => dialogs::quit(&mut canvas, state, &layout),
        };
    }
    footer::notice(&mut canvas, state, &layout);
    caret.filter(|caret| layout.screen.contains(*caret))
}
