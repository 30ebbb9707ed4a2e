//! What a person means, whatever key it was.

macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal,)*) => {
        /// What a person means. `assets/keymap.toml` says which key says it where.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action {
            $($(#[$doc])* $action,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$action),*];

            /// The name in keymap files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$action => $name,)* }
            }

            /// The action of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$action),)* _ => None }
            }
        }
    };
}

actions! {
    /// One row up.
    Up = "up",
    /// One row down.
    Down = "down",
    /// Half a page up.
    HalfPageUp = "half-page-up",
    /// Half a page down.
    HalfPageDown = "half-page-down",
    /// To the first row.
    First = "first",
    /// To the last row.
    Last = "last",
    /// The next pane.
    NextPane = "next-pane",
    /// The pane before.
    PreviousPane = "previous-pane",
    /// The models.
    ModelsPane = "models-pane",
    /// The detail.
    DetailPane = "detail-pane",
    /// The queue.
    QueuePane = "queue-pane",
    /// The detail of the row; in a dialog: what the dialog is for.
    Open = "open",
    /// Back from the detail; clears the filter.
    Back = "back",
    /// Marks or unmarks the row and moves down.
    Mark = "mark",
    /// Marks every row that is shown.
    MarkAll = "mark-all",
    /// Clears the marks.
    ClearMarks = "clear-marks",
    /// Begins to filter.
    Filter = "filter",
    /// The next sort key.
    Sort = "sort",
    /// Reverses the order.
    Reverse = "reverse",
    /// Stages a deletion plan for the marks or the row.
    Delete = "delete",
    /// Opens the pull dialog.
    Pull = "pull",
    /// Verifies the marks or the row.
    Verify = "verify",
    /// Converts the row.
    Convert = "convert",
    /// Looks for what nothing can use any more.
    Sweep = "sweep",
    /// Scans the stores again.
    Rescan = "rescan",
    /// Shows the stores of every user, or hides them again.
    AllUsers = "all-users",
    /// Copies the path.
    Copy = "copy",
    /// Pauses the job, or lets it go on.
    TogglePause = "toggle-pause",
    /// Cancels the job; its partial stays.
    Cancel = "cancel",
    /// Cancels the job and removes its partial.
    Discard = "discard",
    /// Puts a job that ended without success back into the queue.
    Retry = "retry",
    /// Moves a job that waits towards the front.
    Earlier = "earlier",
    /// Moves a job that waits towards the end.
    Later = "later",
    /// Raises the speed limit.
    Faster = "faster",
    /// Lowers the speed limit.
    Slower = "slower",
    /// Removes the jobs that have ended from the list.
    ClearEnded = "clear-ended",
    /// Says yes to what the dialog asks.
    Confirm = "confirm",
    /// Sends the download to the other kind of store.
    Destination = "destination",
    /// Takes the vision projector along, or leaves it.
    Projector = "projector",
    /// Closes the dialog, or leaves a text field without keeping it.
    Close = "close",
    /// The help.
    Help = "help",
    /// Draws everything anew.
    Redraw = "redraw",
    /// Stops the program until the shell continues it.
    Suspend = "suspend",
    /// Quits.
    Quit = "quit",
    /// Erases the character before the caret.
    Erase = "erase",
    /// Erases the character at the caret.
    EraseForward = "erase-forward",
    /// Erases the word before the caret.
    EraseWord = "erase-word",
    /// Erases everything before the caret.
    EraseLine = "erase-line",
    /// Moves the caret to the left.
    CaretLeft = "caret-left",
    /// Moves the caret to the right.
    CaretRight = "caret-right",
    /// Moves the caret to the start.
    CaretStart = "caret-start",
    /// Moves the caret to the end.
    CaretEnd = "caret-end",
}

impl Action {
    /// Whether it edits a line of text.
    #[must_use]
    pub fn edits_text(self) -> bool {
        self >= Self::Erase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_edits_text_stands_at_the_end() {
        let edits: Vec<&str> = Action::ALL.into_iter().filter(|action| action.edits_text()).map(Action::name).collect();
        assert!(edits.iter().all(|name| name.starts_with("erase") || name.starts_with("caret")), "{edits:?}");
        assert_eq!(edits.len(), 8);
    }
}
