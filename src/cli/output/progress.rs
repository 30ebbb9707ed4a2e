//! One progress bar on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::model::size::duration;
use crate::model::{Bytes, Rate};

/// A bar, or nothing at all. It is drawn when it is told something, never by a clock.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
}

const TEMPLATE: &str = "{prefix}  [{bar:24}] {msg}";

impl Bar {
    pub(crate) fn new(shown: bool) -> Self {
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(4));
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar }
    }

    /// What is being worked on, printable.
    pub(crate) fn label(&self, label: &str) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(super::table::cut(label, 40));
        }
    }

    /// Bytes of all bytes, for work whose speed nobody measured.
    pub(crate) fn show(&self, label: &str, bytes: u64, total: u64) {
        if total > 0 {
            self.label(label);
            self.place(bytes, total, format!("{} of {}", Bytes(bytes), Bytes(total)));
        }
    }

    /// Bytes of all bytes at a measured rate.
    pub(crate) fn show_rate(&self, bytes: u64, total: u64, rate: Option<u64>) {
        let mut message = format!("{} of {}", Bytes(bytes), Bytes(total));
        if let Some(rate) = rate {
            message.push_str(&format!("  {}", Rate(rate)));
            if rate > 0 {
                let left = Duration::from_secs(total.saturating_sub(bytes).div_ceil(rate));
                message.push_str(&format!("  {} left", duration(left)));
            }
        }
        self.place(bytes, total, message);
    }

    fn place(&self, bytes: u64, total: u64, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_message(message);
            bar.set_position(bytes);
        }
    }

    /// Takes the bar away while something else writes.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away for good.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
