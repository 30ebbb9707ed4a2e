//! One progress bar on standard error, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthStr;

use super::table::cut;
use crate::model::size::duration;
use crate::model::{Bytes, Rate};

/// A bar, or nothing at all. It is drawn when it is told something, never by a clock.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
}

/// Widest bar and widest label, in columns.
const BAR: usize = 24;
const LABEL: usize = 40;
/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;

impl Bar {
    pub(crate) fn new(shown: bool) -> Self {
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(4));
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
    }

    /// What is being worked on, printable.
    pub(crate) fn label(&self, label: &str) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(label.to_owned());
        }
    }

    /// Bytes of all bytes, for work whose speed nobody measured.
    pub(crate) fn show(&self, label: &str, bytes: u64, total: u64) {
        if total > 0 {
            self.label(label);
            self.place(bytes, total, &format!("{} of {}", Bytes(bytes), Bytes(total)));
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
        self.place(bytes, total, &message);
    }

    fn place(&self, bytes: u64, total: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
            let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
            bar.set_message(line(&bar.prefix(), bytes, total, message, columns.unwrap_or(COLUMNS)));
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

/// Label, bar and figures in fewer than `columns` columns: the label gives way first, then the bar, then the figures.
fn line(label: &str, bytes: u64, total: u64, figures: &str, columns: usize) -> String {
    let figures = cut(figures, columns.saturating_sub(1));
    let mut room = columns.saturating_sub(1 + figures.width());
    let mut line = String::new();
    // Brackets and a blank, and a bar in which something can be seen.
    let bar = room.saturating_sub(3).min(BAR);
    let bar = if bar < 4 { 0 } else { bar.min((room.saturating_sub(5) / 2).max(4)) };
    if bar > 0 {
        room -= bar + 3;
    }
    if room >= 10 {
        let label = cut(label, (room - 2).min(LABEL));
        if !label.is_empty() {
            line.push_str(&label);
            line.push_str("  ");
        }
    }
    if bar > 0 {
        let share = u128::from(bytes.min(total)) * bar as u128 / u128::from(total.max(1));
        let done = usize::try_from(share).unwrap_or(bar).min(bar);
        let head = if done < bar && bytes > 0 { ">" } else { "" };
        line.push_str(&format!("[{:bar$}] ", format!("{}{head}", "=".repeat(done))));
    }
    line.push_str(&figures);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_wraps_and_keeps_its_figures() {
        let label = "qwen2.5-0.5b-instruct-q4_k_m-00001-of-00003.gguf";
        let figures = "1.23 GiB of 4.56 GiB  12.3 MiB/s  4 m 30 s left";
        for columns in 1..200 {
            let line = line(label, 30, 100, figures, columns);
            assert!(line.width() < columns.max(1), "{columns}: {line}");
            assert!(columns <= figures.len() || line.ends_with(figures), "{columns}: {line}");
        }
        assert_eq!(line("a.gguf", 1, 2, "1 B of 2 B", 120), format!("a.gguf  [{:24}] 1 B of 2 B", "============>"));
        assert!(line(label, 30, 100, figures, 80).contains(".gguf  ["), "{}", line(label, 30, 100, figures, 80));
    }
}
