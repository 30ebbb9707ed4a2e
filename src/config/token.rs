//! Which token goes to which endpoint.
//!
//! `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` and the token file that `hf auth login` writes belong to one origin: that of
//! `HF_ENDPOINT` if it is set beside them, else the public hub. The configuration file's token belongs to the origin of
//! the endpoint that the same file names. An endpoint of any other origin gets none.

use std::io::Read;
use std::path::Path;

use url::{Host, Origin, Url};

use super::{Environment, Paths};
use crate::disk::regular;
use crate::error::io_reason;
use crate::model::text;

/// The public hub.
pub(super) const PUBLIC: &str = "https://huggingface.co";
/// Its short name.
const PUBLIC_ALIAS: &str = "https://hf.co";

/// More than any token takes.
const MAX_BYTES: u64 = 16 * 1024;

/// The configuration file's token and what it is for.
#[derive(Default)]
pub(super) struct Configured<'a> {
    pub(super) endpoint: Option<&'a str>,
    pub(super) token: Option<&'a str>,
    pub(super) token_file: Option<&'a Path>,
}

/// The token for `endpoint`, and what a person should know about one that was not taken.
pub(super) fn choose(
    endpoint: &str,
    environment: &Environment,
    paths: &Paths,
    configured: &Configured<'_>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    let origin = origin(endpoint)?;
    let mut token = None;
    let environment_owner = environment.text("HF_ENDPOINT").unwrap_or(PUBLIC);
    let environment_owns = self::origin(environment_owner).is_some_and(|owner| owner == origin);
    if environment_owns {
        token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .iter()
            .find_map(|name| environment.text(name).map(str::trim).filter(|token| !token.is_empty()))
            .map(str::to_owned);
    }
    if token.is_none() && self::origin(configured.endpoint.unwrap_or(PUBLIC)).is_some_and(|owner| owner == origin) {
        token = configured
            .token
            .map(str::to_owned)
            .or_else(|| configured.token_file.and_then(|file| from_file(file, true, warnings)));
    }
    if token.is_none() && environment_owns {
        token = from_file(&paths.hf_token, false, warnings);
    }
    let token = token?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        warnings.push(format!(
            "the token for {} has a character that no token has; requests go without it",
            text::printable(&origin.ascii_serialization())
        ));
        return None;
    }
    if !may_carry_token(endpoint) {
        warnings.push(format!(
            "no token is sent to {} because http is not encrypted; use https",
            text::printable(&origin.ascii_serialization())
        ));
        return None;
    }
    Some(token)
}

/// Scheme, host and port; both names of the public hub are one origin.
fn origin(endpoint: &str) -> Option<Origin> {
    let url = Url::parse(endpoint).ok()?;
    let origin = url.origin();
    if !origin.is_tuple() {
        return None;
    }
    let public = [PUBLIC, PUBLIC_ALIAS].iter().any(|name| Url::parse(name).is_ok_and(|name| name.origin() == origin));
    if public { Url::parse(PUBLIC).ok().map(|url| url.origin()) } else { Some(origin) }
}

/// https, or http to this very host.
fn may_carry_token(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    match (url.scheme(), url.host()) {
        ("https", _) => true,
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        ("http", Some(Host::Domain(name))) => name == "localhost" || name.ends_with(".localhost"),
        _ => false,
    }
}

/// The token in a file of one line. A file that is missing is no token; `named` by the user, it is worth a warning.
fn from_file(path: &Path, named: bool, warnings: &mut Vec<String>) -> Option<String> {
    let shown = || text::printable_path(path);
    let content = regular::open(path).and_then(|file| {
        let mut content = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    });
    match content {
        Ok(content) => {
            let content = String::from_utf8_lossy(&content);
            Some(content.trim().to_owned()).filter(|token| !token.is_empty())
        }
        Err(error)
            if !named && matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            None
        }
        Err(error) => {
            warnings.push(format!("no token from {}: {}", shown(), text::printable(&io_reason(&error))));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        environment: Vec<(&'static str, String)>,
        file: Option<(&'static str, &'static str)>,
    }

    fn choose_for(endpoint: &str, case: &Case) -> (Option<String>, Vec<String>) {
        let environment = Environment::from_pairs(case.environment.iter().map(|(name, value)| (*name, value.as_str())));
        let paths = Paths::new(&environment, "host");
        let configured = Configured {
            endpoint: case.file.map(|(endpoint, _)| endpoint),
            token: case.file.map(|(_, token)| token),
            token_file: None,
        };
        let mut warnings = Vec::new();
        let token = choose(endpoint, &environment, &paths, &configured, &mut warnings);
        (token, warnings)
    }

    fn token(
        endpoint: &str,
        environment: &[(&'static str, &str)],
        file: Option<(&'static str, &'static str)>,
    ) -> Option<String> {
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        choose_for(endpoint, &Case { environment, file }).0
    }

    const NO_HOME: (&str, &str) = ("HOME", "/nonexistent");

    #[test]
    fn the_public_hub_gets_hf_token_under_both_names() {
        for endpoint in ["https://huggingface.co", "https://hf.co/", "https://huggingface.co:443/x"] {
            assert_eq!(
                token(endpoint, &[NO_HOME, ("HF_TOKEN", " hf_a\n")], None).as_deref(),
                Some("hf_a"),
                "{endpoint}"
            );
        }
        assert_eq!(token(PUBLIC, &[NO_HOME, ("HUGGING_FACE_HUB_TOKEN", "hf_b")], None).as_deref(), Some("hf_b"));
        let both = [NO_HOME, ("HF_TOKEN", " "), ("HUGGING_FACE_HUB_TOKEN", "hf_b")];
        assert_eq!(token(PUBLIC, &both, None).as_deref(), Some("hf_b"));
    }

    #[test]
    fn a_mirror_gets_only_its_own_token() {
        let environment = [NO_HOME, ("HF_TOKEN", "hf_a")];
        for endpoint in [
            "https://mirror.example",
            "http://huggingface.co",
            "https://huggingface.co.example",
            "https://huggingface.co:8443",
        ] {
            assert_eq!(token(endpoint, &environment, None), None, "{endpoint}");
        }
        let file = Some(("https://mirror.example", "own"));
        assert_eq!(token("https://mirror.example/base", &environment, file).as_deref(), Some("own"));
        assert_eq!(token("https://other.example", &environment, file), None);
        assert_eq!(token(PUBLIC, &environment, file).as_deref(), Some("hf_a"));
    }

    #[test]
    fn hf_endpoint_takes_hf_token_with_it_and_the_public_hub_loses_it() {
        let environment = [NO_HOME, ("HF_TOKEN", "corp"), ("HF_ENDPOINT", "https://hub.corp.example")];
        assert_eq!(token("https://hub.corp.example", &environment, None).as_deref(), Some("corp"));
        assert_eq!(token(PUBLIC, &environment, None), None);
        assert_eq!(token("https://hub.corp.example:444", &environment, None), None);
    }

    #[test]
    fn plain_http_carries_a_token_to_this_host_only() {
        for (endpoint, sent) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost:8080", true),
            ("http://hub.lan:8080", false),
            ("http://127.0.0.1.example", false),
        ] {
            let case = Case {
                environment: vec![
                    ("HF_TOKEN", "t".into()),
                    ("HF_ENDPOINT", endpoint.into()),
                    ("HOME", "/nonexistent".into()),
                ],
                file: None,
            };
            let (token, warnings) = choose_for(endpoint, &case);
            assert_eq!(token.is_some(), sent, "{endpoint}");
            assert_eq!(warnings.is_empty(), sent, "{warnings:?}");
        }
    }

    #[test]
    fn the_token_file_comes_last_and_a_strange_one_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hf_file\n").unwrap();
        let case =
            |path: &Path| Case { environment: vec![("HF_TOKEN_PATH", path.to_str().unwrap().to_owned())], file: None };
        assert_eq!(choose_for(PUBLIC, &case(&path)).0.as_deref(), Some("hf_file"));
        let mut with_variable = case(&path);
        with_variable.environment.push(("HF_TOKEN", "hf_env".to_owned()));
        assert_eq!(choose_for(PUBLIC, &with_variable).0.as_deref(), Some("hf_env"));

        std::fs::write(&path, "two words\n").unwrap();
        let (token, warnings) = choose_for(PUBLIC, &case(&path));
        assert_eq!(token, None);
        assert!(warnings[0].contains("no token has") && !warnings[0].contains("two words"), "{warnings:?}");

        let (token, warnings) = choose_for(PUBLIC, &case(folder.path()));
        assert_eq!(token, None);
        assert!(warnings[0].contains("no regular file"), "{warnings:?}");
    }
}
