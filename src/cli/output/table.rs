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
    /// To how few columns it is cut when the terminal is narrow; none is never cut.
    least: Option<usize>,
    /// How many of its columns are worth more than columns that may be left out.
    worth: usize,
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
        self.columns.push(Column { name, align, least: None, worth: 0, leaves: None });
        self
    }

    /// A column that is cut first; the end of its text is kept, for it tells quantization and shard.
    pub(crate) fn flexible(mut self, name: &'static str) -> Self {
        self.columns.push(Column { name, align: Align::Left, least: Some(LEAST), worth: 0, leaves: None });
        self
    }

    /// The column added last is cut only where nothing else can be left out, as far as it is no longer than `worth`.
    pub(crate) fn worth(mut self, worth: usize) -> Self {
        if let Some(column) = self.columns.last_mut() {
            column.worth = worth;
        }
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
                let Column { least, worth, .. } = self.columns[*column];
                least.map_or(*width, |least| least.max(worth).min(*width))
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
        let mut order: Vec<(usize, usize, usize)> = (0..shown.len())
            .filter_map(|at| Some((self.columns[shown[at]].worth, at, self.columns[shown[at]].least?)))
            .collect();
        order.sort_unstable();
        for (_, at, least) in order {
            let over = total(widths).saturating_sub(terminal);
            widths[at] = widths[at].saturating_sub(over).max(least.min(widths[at]));
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
    fn a_name_is_worth_more_than_what_can_be_left_out() {
        let mut table = Table::new()
            .column("STORE", Align::Left)
            .flexible("NAME")
            .worth(48)
            .flexible("QUANT")
            .leaves(2)
            .column("ON DISK", Align::Right)
            .column("NOTE", Align::Left)
            .leaves(1);
        let id = "Qwen/Qwen2.5-0.5B-Instruct-GGUF";
        let all = "FP16,Q2_K,Q3_K_M,Q4_0,Q4_K_M,Q5_0,Q5_K_M,Q6_K,Q8_0";
        table.row(vec!["hf".into(), id.into(), "Q8_0".into(), "644 MiB".into(), "incomplete".into()]);
        table.row(vec!["flat".into(), "qwen".into(), all.into(), "5.00 GiB".into(), "1 warning".into()]);
        for width in 50..130 {
            let text = table.render(&output(Some(width)));
            assert!(text.contains(id) && text.lines().all(|line| line.width() <= width), "{width}: {text}");
        }
        let text = table.render(&output(Some(80)));
        assert!(text.contains("incomplete") && text.contains("Q8_0"), "{text}");
        assert!(text.lines().any(|line| line.width() > 76), "what is free is used: {text}");
        assert!(!table.render(&output(Some(60))).contains("NOTE"));
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
