//! Where things are on a screen of some size. Pure geometry, for update (pages, scrolling) and view alike.

use ratatui::layout::Rect;

/// The pane that keys go to while no dialog is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Focus {
    /// The models.
    #[default]
    Models,
    /// The detail.
    Detail,
    /// The queue.
    Queue,
}

/// Columns that the models keep: with less the detail stands in their place, not beside them. All of the usual columns fit.
pub const TABLE: u16 = 89;
/// The detail has at least so many columns beside the models.
const DETAIL: u16 = 40;

/// The room that a notice takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Lines that it would like.
    pub lines: u16,
    /// Whether it stands above the line at the bottom, which is being typed in, instead of over it.
    pub above: bool,
}

/// The places of the panes. A place without room has no height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Everything.
    pub screen: Rect,
    /// The line at the top.
    pub header: Rect,
    /// Headings and rows of the models; `None` where the detail stands in their place.
    pub models: Option<Rect>,
    /// The detail.
    pub detail: Option<Rect>,
    /// The line above the queue.
    pub rule: Rect,
    /// The jobs.
    pub queue: Rect,
    /// The line at the bottom.
    pub footer: Rect,
    /// The notice: over the line at the bottom, or above it; no pane is under the rest of it.
    pub notice: Rect,
}

impl Layout {
    /// The layout of a screen with `jobs` in its queue and a notice.
    #[must_use]
    pub fn new(size: (u16, u16), focus: Focus, jobs: usize, said: Said) -> Self {
        let (width, height) = size;
        let screen = Rect::new(0, 0, width, height);
        let line = |y: u16| Rect::new(0, y.min(height), width, u16::from(y < height));
        let over = u16::from(!said.above && said.lines > 0);
        // The panes keep a line each.
        let apart = (said.lines - over).min(height.saturating_sub(5));
        let inside = height.saturating_sub(3 + apart);
        let most = if focus == Focus::Queue { inside / 2 } else { inside / 3 };
        let wanted = u16::try_from(jobs.max(1)).unwrap_or(u16::MAX);
        let queue = wanted.min(most.max(1)).min(inside.saturating_sub(1));
        let main = inside - queue;
        // The frame takes a column on either side.
        let inner = width.saturating_sub(2);
        let area = |x: u16, y: u16, width: u16, height: u16| Rect::new(x, y, width, height).intersection(screen);
        let (models, detail) = if inner > TABLE + DETAIL {
            let right = (inner * 2 / 5).clamp(DETAIL, 78).min(inner - 1 - TABLE);
            let left = inner - right - 1;
            (Some(area(1, 1, left, main)), Some(area(2 + left, 1, right, main)))
        } else if focus == Focus::Detail {
            (None, Some(area(1, 1, inner, main)))
        } else {
            (Some(area(1, 1, inner, main)), None)
        };
        Self {
            screen,
            header: line(0),
            models,
            detail,
            rule: line(1 + main),
            queue: area(1, 2 + main, inner, queue),
            footer: line(height.saturating_sub(1).max(1)),
            notice: area(0, height.saturating_sub(apart + 1), width, apart + over),
        }
    }

    /// Rows of models that fit below their heading.
    #[must_use]
    pub fn model_rows(&self) -> usize {
        self.models.map_or(0, |area| usize::from(area.height.saturating_sub(1)))
    }

    /// Lines of detail that fit.
    #[must_use]
    pub fn detail_rows(&self) -> usize {
        self.detail.map_or(0, |area| usize::from(area.height))
    }

    /// Jobs that fit.
    #[must_use]
    pub fn queue_rows(&self) -> usize {
        usize::from(self.queue.height)
    }

    /// The place of a dialog that would like `width` and `height`, frame included.
    #[must_use]
    pub fn dialog(&self, width: u16, height: u16) -> Rect {
        let width = width.min(self.screen.width);
        let height = height.min(self.screen.height.saturating_sub(1).max(1)).min(self.screen.height);
        Rect::new((self.screen.width - width) / 2, (self.screen.height - height) / 2, width, height)
    }

    /// Width and height that a large dialog has, frame included.
    #[must_use]
    pub fn large_dialog(&self) -> Rect {
        let width =
            if self.screen.width < 60 { self.screen.width } else { self.screen.width.saturating_sub(4).min(120) };
        let height =
            if self.screen.height < 20 { self.screen.height.saturating_sub(1) } else { self.screen.height - 4 };
        self.dialog(width, height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_screen_at_any_size() {
        for width in [0, 1, 2, 3, 20, 40, 60, 80, 131, 132, 133, 200, 500] {
            for height in [0, 1, 2, 3, 4, 5, 10, 20, 24, 60, 200] {
                for focus in [Focus::Models, Focus::Detail, Focus::Queue] {
                    let said = [(0, false), (1, false), (2, false), (1, true), (2, true)];
                    for (jobs, (lines, above)) in
                        [0, 1, 10, 100_000].into_iter().flat_map(|jobs| said.map(|said| (jobs, said)))
                    {
                        let layout = Layout::new((width, height), focus, jobs, Said { lines, above });
                        let areas = [Some(layout.header), layout.models, layout.detail, Some(layout.rule)];
                        assert!(!above || !layout.notice.intersects(layout.footer) || height < 2);
                        let others = [layout.queue, layout.footer, layout.notice, layout.large_dialog()].map(Some);
                        for area in areas.into_iter().chain(others).flatten() {
                            let inside = area.right() <= width && area.bottom() <= height;
                            assert!(inside || area.is_empty(), "{area:?} at {width}x{height}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn everything_has_a_place_at_80_by_24_and_something_at_40_by_10() {
        let layout = Layout::new((80, 24), Focus::Models, 10, Said::default());
        assert_eq!((layout.model_rows(), layout.queue_rows(), layout.detail), (13, 7, None));
        let layout = Layout::new((40, 10), Focus::Models, 10, Said::default());
        assert_eq!((layout.model_rows(), layout.queue_rows()), (4, 2));
        assert!(Layout::new((132, 40), Focus::Models, 0, Said::default()).detail.is_some());
    }
}
