//! Drawing that cannot leave its area: lines of styled text, frames, bars.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::tui::text;
use crate::tui::theme::{Look, Role};

/// A line as pieces of text with a meaning.
pub(crate) type Spans = Vec<(String, Role)>;

/// A buffer with a look.
pub(crate) struct Canvas<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) look: &'a Look,
}

impl Canvas<'_> {
    /// Writes `text` from column `x` of `area`'s line `y` (both from its corner), as far as it fits.
    pub(crate) fn put(&mut self, area: Rect, x: u16, y: u16, text: &str, role: Role) -> u16 {
        self.put_styled(area, x, y, text, self.look.style(role))
    }

    pub(crate) fn put_styled(&mut self, area: Rect, x: u16, y: u16, text: &str, style: Style) -> u16 {
        let area = area.intersection(self.buffer.area);
        if x >= area.width || y >= area.height {
            return x;
        }
        let room = usize::from(area.width - x);
        let (end, _) = self.buffer.set_stringn(area.x + x, area.y + y, text, room, style);
        end.saturating_sub(area.x)
    }

    /// Writes pieces one after the other.
    pub(crate) fn spans(&mut self, area: Rect, mut x: u16, y: u16, spans: &[(String, Role)]) -> u16 {
        for (text, role) in spans {
            x = self.put(area, x, y, text, *role);
        }
        x
    }

    /// Gives a whole line of `area` a style on top of what is there.
    pub(crate) fn tint(&mut self, area: Rect, y: u16, role: Role) {
        if y < area.height {
            let line = Rect::new(area.x, area.y + y, area.width, 1).intersection(self.buffer.area);
            let style = self.look.style(role);
            self.buffer.set_style(line, style);
        }
    }

    /// Empties `area`.
    pub(crate) fn clear(&mut self, area: Rect) {
        let area = area.intersection(self.buffer.area);
        for y in area.top()..area.bottom() {
            for x in area.left()..area.right() {
                self.buffer[(x, y)].reset();
            }
        }
    }

    /// A horizontal line over the width of the screen that begins and ends with the given characters.
    pub(crate) fn rule(&mut self, area: Rect, ends: [&str; 2]) {
        let width = usize::from(area.width);
        let middle = self.look.symbols.horizontal.repeat(width.saturating_sub(2));
        let line = match width {
            0 => return,
            1 => ends[0].to_owned(),
            _ => format!("{}{middle}{}", ends[0], ends[1]),
        };
        self.put(area, 0, 0, &line, Role::Border);
    }

    /// Puts a line-drawing character where two lines meet, unless there is text.
    pub(crate) fn cross(&mut self, x: u16, y: u16, symbol: &str) {
        let horizontal = self.look.symbols.horizontal;
        if self.buffer.cell((x, y)).is_some_and(|cell| cell.symbol() == horizontal) {
            self.put(self.buffer.area, x, y, symbol, Role::Border);
        }
    }

    /// Vertical lines at the left and right edge of `area`.
    pub(crate) fn sides(&mut self, area: Rect) {
        let vertical = self.look.symbols.vertical;
        for y in 0..area.height {
            self.put(area, 0, y, vertical, Role::Border);
            if area.width > 1 {
                self.put(area, area.width - 1, y, vertical, Role::Border);
            }
        }
    }

    /// An empty framed box with a heading; gives the room inside.
    pub(crate) fn boxed(&mut self, area: Rect, title: &str, hints: &[(String, Role)]) -> Rect {
        let area = area.intersection(self.buffer.area);
        if area.width < 2 || area.height < 2 {
            self.clear(area);
            return area;
        }
        self.clear(area);
        let corners = self.look.symbols.corners;
        let line = |y: u16| Rect::new(area.x, y, area.width, 1);
        self.rule(line(area.top()), [corners[0], corners[1]]);
        self.rule(line(area.bottom() - 1), [corners[2], corners[3]]);
        self.sides(Rect::new(area.x, area.y + 1, area.width, area.height - 2));
        let room = usize::from(area.width).saturating_sub(4);
        let title = text::cut(title, room.saturating_sub(2), self.look.symbols.ellipsis);
        if !title.is_empty() {
            self.put(line(area.top()), 2, 0, &format!(" {title} "), Role::Focus);
        }
        if !hints.is_empty() {
            let bottom = Rect::new(area.x + 2, area.bottom() - 1, area.width.saturating_sub(4), 1);
            let x = self.put(bottom, 0, 0, " ", Role::Text);
            let x = self.spans(bottom, x, 0, hints);
            self.put(bottom, x, 0, " ", Role::Text);
        }
        Rect::new(area.x + 1, area.y + 1, area.width - 2, area.height - 2)
    }

    /// Lines from number `scroll` on, as many as fit; gives whether some are left out at the end.
    pub(crate) fn lines(&mut self, area: Rect, lines: &[Spans], scroll: usize) -> bool {
        let rows = usize::from(area.height);
        let scroll = scroll.min(lines.len().saturating_sub(rows));
        for (y, spans) in (0..area.height).zip(lines.iter().skip(scroll)) {
            self.spans(area, 0, y, spans);
        }
        lines.len() > scroll + rows
    }
}

/// The first row to show so that row `cursor` of `length` is in the middle of `rows`.
pub(crate) fn centred(cursor: usize, rows: usize, length: usize) -> usize {
    cursor.saturating_sub(rows / 2).min(length.saturating_sub(rows))
}

/// Key names and words for the hint line of a pane, as many as fit into `room`.
pub(crate) fn hints(hints: Vec<(String, String, u8)>, room: usize, dot: &str) -> Spans {
    let mut hints = hints;
    loop {
        let width: usize = hints.iter().map(|(key, word, _)| text::width(key) + text::width(word) + 1).sum::<usize>()
            + hints.len().saturating_sub(1) * (2 + text::width(dot));
        if width <= room {
            break;
        }
        // The last of the highest rank gives way.
        let Some(worst) = hints.iter().map(|(_, _, rank)| *rank).max() else { return Vec::new() };
        let Some(at) = hints.iter().rposition(|(_, _, rank)| *rank == worst) else { return Vec::new() };
        hints.remove(at);
    }
    let mut spans = Spans::new();
    for (key, word, _) in hints {
        if !spans.is_empty() {
            spans.push((format!(" {dot} "), Role::Dim));
        }
        spans.push((key, Role::Key));
        spans.push((format!(" {word}"), Role::Text));
    }
    spans
}
