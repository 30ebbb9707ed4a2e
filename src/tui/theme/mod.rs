//! Roles instead of colours, and the tiers that give them a look.

mod role;
mod symbols;

use std::collections::BTreeMap;

use ratatui::style::{Color, Modifier, Style};

pub use role::Role;
pub use symbols::Symbols;

/// The theme that is built in.
const DEFAULT: &str = include_str!("../../../assets/themes/default.toml");

/// How many colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// None: bold, underline, reverse and words carry everything.
    None,
    /// The sixteen that every terminal has, in the shades that its user chose.
    Sixteen,
    /// 24-bit colours.
    Rich,
}

/// The look of each role, and the characters that lines are drawn with.
#[derive(Clone, Debug)]
pub struct Look {
    styles: BTreeMap<Role, Style>,
    /// The characters.
    pub symbols: &'static Symbols,
}

impl Look {
    /// The built-in theme at `tier`.
    #[must_use]
    pub fn new(tier: Tier, ascii: bool) -> Self {
        let symbols = if ascii { &symbols::ASCII } else { &symbols::UNICODE };
        // A test proves that the built-in theme parses; a screen without styles still works.
        let styles = parse(DEFAULT, tier).unwrap_or_default();
        Self { styles, symbols }
    }

    /// The style of a role.
    #[must_use]
    pub fn style(&self, role: Role) -> Style {
        self.styles.get(&role).copied().unwrap_or_default()
    }
}

/// The styles of `tier` in a theme file: tables `none`, `sixteen` and `rich`, each `role = "words"`; `rich` only names what
/// differs from `sixteen`.
fn parse(theme: &str, tier: Tier) -> Result<BTreeMap<Role, Style>, String> {
    let tables: BTreeMap<String, BTreeMap<String, String>> =
        toml::from_str(theme).map_err(|error| error.to_string())?;
    let mut styles = BTreeMap::new();
    let names: &[&str] = match tier {
        Tier::None => &["none"],
        Tier::Sixteen => &["sixteen"],
        Tier::Rich => &["sixteen", "rich"],
    };
    for name in names {
        for (role, words) in tables.get(*name).ok_or_else(|| format!("no table [{name}]"))? {
            let role = Role::from_name(role).ok_or_else(|| format!("[{name}] {role}: no such role"))?;
            let style = style(words).ok_or_else(|| format!("[{name}] {}: '{words}' is no style", role.name()))?;
            styles.insert(role, style);
        }
    }
    Ok(styles)
}

/// `bold`, `dim`, `underline`, `reverse`, a colour's name or `#rrggbb`, and `on COLOUR`.
fn style(words: &str) -> Option<Style> {
    let mut style = Style::default();
    let mut on = false;
    for word in words.split_whitespace() {
        style = match word {
            "on" => {
                on = true;
                continue;
            }
            "bold" => style.add_modifier(Modifier::BOLD),
            "dim" => style.add_modifier(Modifier::DIM),
            "underline" => style.add_modifier(Modifier::UNDERLINED),
            "reverse" => style.add_modifier(Modifier::REVERSED),
            color => {
                let color: Color = color.parse().ok()?;
                if std::mem::take(&mut on) { style.bg(color) } else { style.fg(color) }
            }
        };
    }
    (!on).then_some(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_theme_names_every_role_in_every_tier() {
        for tier in [Tier::None, Tier::Sixteen, Tier::Rich] {
            let styles = parse(DEFAULT, tier).unwrap();
            for role in Role::ALL {
                assert!(styles.contains_key(&role), "{} is missing in {tier:?}", role.name());
            }
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        for (role, style) in parse(DEFAULT, Tier::None).unwrap() {
            assert_eq!((style.fg, style.bg), (None, None), "{}", role.name());
        }
    }

    #[test]
    fn nonsense_is_named() {
        assert!(parse("[sixteen]\nnothing = \"bold\"", Tier::Sixteen).unwrap_err().contains("nothing"));
        assert!(parse("[sixteen]\ntitle = \"shiny\"", Tier::Sixteen).unwrap_err().contains("shiny"));
        assert_eq!(style("bold on"), None);
    }
}
