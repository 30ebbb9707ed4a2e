//! What a piece of text means.

macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident = $name:literal,)*) => {
        /// What a piece of text means; the theme says how that looks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Role {
            $($(#[$doc])* $role,)*
        }

        impl Role {
            /// Every role.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$role),*];

            /// The name in theme files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$role => $name,)* }
            }

            /// The role of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$role),)* _ => None }
            }
        }
    };
}

roles! {
    /// Ordinary text.
    Text = "text",
    /// What matters less.
    Dim = "dim",
    /// Headings of panes and columns.
    Title = "title",
    /// Lines between panes.
    Border = "border",
    /// The heading of the pane that keys go to.
    Focus = "focus",
    /// The row under the cursor in the pane that keys go to.
    Cursor = "cursor",
    /// The row under the cursor elsewhere.
    CursorElsewhere = "cursor-elsewhere",
    /// Marked rows.
    Mark = "mark",
    /// Done, right.
    Good = "good",
    /// Worth a look.
    Warn = "warn",
    /// Wrong, lost, about to be deleted.
    Bad = "bad",
    /// The name of a key.
    Key = "key",
    /// The done part of a bar.
    Bar = "bar",
    /// The rest of a bar.
    BarRest = "bar-rest",
    /// A text field.
    Field = "field",
}
