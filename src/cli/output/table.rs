//! Tables for people: aligned by display width, cut to the terminal, never cut into a pipe.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Output;

/// On which side a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column.
#[derive(Clone, Debug)]
struct Column {
    name: &'static str,
    align: Align,
    /// Whether it gives way when the terminal is narrow.
    flexible: bool,
    /// When it is left out of a narrow terminal: the lowest number first. None stays, whole if it is not flexible.
    leaves: Option<u8>,
}

/// Rows under a header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// Between two columns.
const GAP: usize = 2;
/// A flexible column never gets narrower.
const LEAST: usize = 12;

impl Table {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn column(mut self, name: &'static str, align: Align) -> Self {
        self.columns.push(Column { name, align, flexible: false, leaves: None });
        self
    }

    /// A column that is cut first; the end of its text is kept, for it tells quantization and shard.
    pub(crate) fn flexible(mut self, name: &'static str) -> Self {
        self.columns.push(Column { name, align: Align::Left, flexible: true, leaves: None });
        self
    }

    /// The column added last is left out where the others have no room beside it; the lowest `turn` goes first.
    pub(crate) fn leaves(mut self, turn: u8) -> Self {
        if let Some(column) = self.columns.last_mut() {
            column.leaves = Some(turn);
        }
        self
    }

    /// Adds a row: one printable cell a column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, with a line break after every row. Columns without any text are left out.
    pub(crate) fn render(&self, output: &Output) -> String {
        let mut shown: Vec<usize> = (0..self.columns.len())
            .filter(|column| self.rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty())))
            .collect();
        let mut widths: Vec<usize> = shown
            .iter()
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(*column)).map(|cell| cell.width());
                cells.chain([self.columns[*column].name.width()]).max().unwrap_or(0)
            })
            .collect();
        if let Some(terminal) = output.width {
            self.leave_out(&mut shown, &mut widths, terminal);
            self.shrink(&shown, &mut widths, terminal);
        }
        let mut text = String::new();
        let header: Vec<String> = shown.iter().map(|column| self.columns[*column].name.to_owned()).collect();
        let header = self.line(&shown, &widths, &header);
        text.push_str(&if output.color { format!("\u{1b}[1m{header}\u{1b}[0m") } else { header });
        text.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = shown.iter().map(|column| row.get(*column).cloned().unwrap_or_default()).collect();
            text.push_str(&self.line(&shown, &widths, &cells));
            text.push('\n');
        }
        text
    }

    /// Takes columns away until the rest fits, with flexible ones as narrow as they get.
    fn leave_out(&self, shown: &mut Vec<usize>, widths: &mut Vec<usize>, terminal: usize) {
        loop {
            let least = |(column, width): (&usize, &usize)| {
                if self.columns[*column].flexible { LEAST.min(*width) } else { *width }
            };
            let total = shown.iter().zip(&*widths).map(least).sum::<usize>() + GAP * shown.len().saturating_sub(1);
            let next = (0..shown.len())
                .filter_map(|at| Some((self.columns[shown[at]].leaves?, at)))
                .min()
                .filter(|_| total > terminal);
            let Some((_, at)) = next else { return };
            shown.remove(at);
            widths.remove(at);
        }
    }

    fn shrink(&self, shown: &[usize], widths: &mut [usize], terminal: usize) {
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        for (at, column) in shown.iter().enumerate() {
            let over = total(widths).saturating_sub(terminal);
            if over > 0 && self.columns[*column].flexible {
                widths[at] = widths[at].saturating_sub(over).max(LEAST.min(widths[at]));
            }
        }
    }

    fn line(&self, shown: &[usize], widths: &[usize], cells: &[String]) -> String {
        let mut line = String::new();
        for (at, (column, cell)) in shown.iter().zip(cells).enumerate() {
            if at > 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = cut(cell, widths[at]);
            let padding = " ".repeat(widths[at].saturating_sub(cell.width()));
            match self.columns[*column].align {
                Align::Left => line.extend([cell.as_str(), padding.as_str()]),
                Align::Right => line.extend([padding.as_str(), cell.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Text of at most `width` columns; the middle goes, the end stays.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let tail_room = room * 2 / 3;
    let mut used = 0;
    let tail_start = text
        .char_indices()
        .rev()
        .take_while(|(_, c)| {
            used += c.width().unwrap_or(0);
            used <= tail_room
        })
        .last()
        .map_or(text.len(), |(at, _)| at);
    let tail = &text[tail_start..];
    let mut used = tail.width();
    let head: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(width: Option<usize>) -> Output {
        Output { color: false, width, bars: false, answers: false }
    }

    fn table() -> Table {
        let mut table = Table::new().flexible("NAME").column("SIZE", Align::Right).column("NOTE", Align::Left);
        table.row(vec!["org/a-rather-long-name-Q4_K_M-00001-of-00003".into(), "1.00 KiB".into(), String::new()]);
        table.row(vec!["日本語".into(), "669 MiB".into(), String::new()]);
        table
    }

    #[test]
    fn columns_line_up_by_width_and_empty_ones_are_left_out() {
        assert_eq!(
            table().render(&output(None)),
            "NAME                                              SIZE\n\
             org/a-rather-long-name-Q4_K_M-00001-of-00003  1.00 KiB\n\
             日本語                                         669 MiB\n"
        );
    }

    #[test]
    fn a_narrow_terminal_costs_the_middle_of_a_name() {
        let text = table().render(&output(Some(40)));
        assert!(text.lines().all(|line| line.width() <= 40), "{text}");
        assert!(text.contains("-00001-of-00003  1.00 KiB"), "{text}");
        assert!(text.contains('…'));
    }

    #[test]
    fn columns_leave_before_a_whole_one_is_cut() {
        let mut table = Table::new()
            .column("MODEL", Align::Left)
            .column("LIKES", Align::Right)
            .leaves(1)
            .column("NOTE", Align::Left)
            .leaves(3)
            .flexible("QUANTIZATIONS")
            .leaves(2);
        let id = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF";
        table.row(vec![id.into(), "1234".into(), "gated".into(), "Q2_K, Q3_K_M, Q4_K_M, Q5_K_M, Q8_0".into()]);
        for width in 42..120 {
            let text = table.render(&output(Some(width)));
            assert!(text.contains(id) && text.lines().all(|line| line.width() <= width), "{width}: {text}");
        }
        assert!(table.render(&output(Some(70))).contains("gated"));
        assert!(!table.render(&output(Some(65))).contains("LIKES"));
    }

    #[test]
    fn cutting_keeps_to_the_width() {
        for width in 0..20 {
            for text in ["abcdefghijklmnop", "日本語日本語日本語", "a"] {
                assert!(cut(text, width).width() <= width, "{text} at {width}");
            }
        }
    }
}
