//! Names in Ollama's manifest trees, as pure functions.
//!
//! Source of the format: Ollama's own name parser; both trees have exactly four levels, `<host>/<namespace>/<model>/<tag>`.

use std::fmt;

/// The registry that a name without host means.
pub(super) const DEFAULT_HOST: &str = "registry.ollama.ai";
/// What the second tree calls the same registry.
const DEFAULT_HOST_V2: &str = "ollama.com";
const DEFAULT_NAMESPACE: &str = "library";

/// A full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) host: String,
    pub(super) namespace: String,
    pub(super) model: String,
    pub(super) tag: String,
}

impl Name {
    /// Reads the four folder names of a manifest; `None` if one of them can be no part of a name.
    pub(super) fn of_path(parts: [&str; 4]) -> Option<Self> {
        let host = parts[0].replace("%3A", ":").replace("%3a", ":");
        let host = if host.eq_ignore_ascii_case(DEFAULT_HOST_V2) { DEFAULT_HOST.to_owned() } else { host };
        let valid = is_part(&host, 350, |b| matches!(b, b'.' | b':'))
            && is_part(parts[1], 80, |_| false)
            && is_part(parts[2], 80, |b| b == b'.')
            && is_part(parts[3], 80, |b| b == b'.');
        valid.then(|| Self {
            host,
            namespace: parts[1].to_owned(),
            model: parts[2].to_owned(),
            tag: parts[3].to_owned(),
        })
    }

    /// The form in which two names are the same: lookup ignores case.
    pub(super) fn key(&self) -> (String, String, String, String) {
        let lower = str::to_ascii_lowercase;
        (lower(&self.host), lower(&self.namespace), lower(&self.model), lower(&self.tag))
    }

    /// The digits of the converted manifest that it stands for; `None` for a model of its own.
    pub(super) fn shadow_of(&self) -> Option<&str> {
        let shadow = self.host == DEFAULT_HOST
            && self.namespace == DEFAULT_NAMESPACE
            && self.model == "llamacpp"
            && is_hex(&self.tag);
        shadow.then_some(self.tag.as_str())
    }
}

impl fmt::Display for Name {
    /// The shortest form that names it, with the tag always there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host != DEFAULT_HOST {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

fn is_part(text: &str, longest: usize, extra: impl Fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && text.len() <= longest
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || extra(b))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The 64 digits of `sha256:<hex>` or `sha256-<hex>`. Nothing else is ever joined to a path.
pub(super) fn digest(text: &str) -> Option<&str> {
    text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-")).filter(|hex| is_hex(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_shortest_form() {
        let cases = [
            (["registry.ollama.ai", "library", "llama3", "8b"], "llama3:8b"),
            (["ollama.com", "library", "llama3", "8b"], "llama3:8b"),
            (["registry.ollama.ai", "alice", "mine", "latest"], "alice/mine:latest"),
            (["hf.co", "org", "Name-GGUF", "Q4_K_M"], "hf.co/org/Name-GGUF:Q4_K_M"),
            (["localhost%3A5000", "x", "y", "z"], "localhost:5000/x/y:z"),
        ];
        for (parts, shown) in cases {
            assert_eq!(Name::of_path(parts).unwrap().to_string(), shown);
        }
        for parts in [
            ["..", "a", "b", "c"],
            ["h", "a.b", "c", "d"],
            ["h", "a", "", "d"],
            ["h", "a", "b", ".manifest-123"],
            ["h", "a", "b\u{1b}", "c"],
        ] {
            assert_eq!(Name::of_path(parts), None, "{parts:?}");
        }
    }

    #[test]
    fn only_digests_become_paths() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(digest(&format!("sha256:{hex}")), Some(hex.as_str()));
        for bad in [
            "sha256:../../x",
            "sha256:",
            &format!("sha512:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}0"),
        ] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }
}
