//! The characters that are not text: lines, bars, marks.

/// One set of characters.
#[derive(Debug)]
pub struct Symbols {
    /// Horizontal line.
    pub horizontal: &'static str,
    /// Vertical line.
    pub vertical: &'static str,
    /// Corners: top left, top right, bottom left, bottom right.
    pub corners: [&'static str; 4],
    /// A line that meets the left and the right edge.
    pub tees: [&'static str; 2],
    /// A vertical line that meets a horizontal one from below and from above.
    pub crossings: [&'static str; 2],
    /// Stands for what was cut.
    pub ellipsis: &'static str,
    /// Stands for a value that there is not.
    pub none: &'static str,
    /// Between items of a line.
    pub dot: &'static str,
    /// Sorted with the smallest first, and the other way round.
    pub sorted: [&'static str; 2],
    /// Done and missing part of a bar.
    pub bar: [&'static str; 2],
    /// Between the sides of a size: `80×24`.
    pub times: &'static str,
    /// Before a lower bound.
    pub at_least: &'static str,
}

pub(super) static UNICODE: Symbols = Symbols {
    horizontal: "─",
    vertical: "│",
    corners: ["┌", "┐", "└", "┘"],
    tees: ["├", "┤"],
    crossings: ["┬", "┴"],
    ellipsis: "…",
    none: "–",
    dot: "·",
    sorted: ["▲", "▼"],
    bar: ["█", "░"],
    times: "×",
    at_least: "≥",
};

pub(super) static ASCII: Symbols = Symbols {
    horizontal: "-",
    vertical: "|",
    corners: ["+", "+", "+", "+"],
    tees: ["+", "+"],
    crossings: ["+", "+"],
    ellipsis: "~",
    none: "-",
    dot: "|",
    sorted: ["^", "v"],
    bar: ["#", "."],
    times: "x",
    at_least: ">=",
};
