//! The hub client against a hub that misbehaves.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use futures_util::TryStreamExt;
use rbee_hive::Error;
use rbee_hive::hub::{Body, HubClient, HubOptions, Listing, Repository, SearchQuery, Token};
use rbee_hive::mirror::{Account, Facts, Gate, Options, Origin};
use rbee_hive::model::{Algorithm, Digest, RemoteFile, Validator};
use support::hub::{Fault, TestHub, What, noise};

const REPOSITORY: &str = "acme/tiny";
const WEIGHTS: &str = "tiny.Q4_K_M.gguf";

/// A hub with one repository: a large file and two small ones.
async fn hub() -> (TestHub, Vec<u8>) {
    let hub = TestHub::start().await;
    let bytes = hub.put_noise(REPOSITORY, WEIGHTS, 20_000);
    hub.put(REPOSITORY, "config.json", b"{}");
    hub.put(REPOSITORY, "empty", b"");
    (hub, bytes)
}

async fn listing(client: &HubClient) -> Listing {
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    client.listing(&repository).await.unwrap()
}

fn file(listing: &Listing, path: &str) -> RemoteFile {
    listing.files.iter().find(|file| file.path.as_str() == path).unwrap().clone()
}

async fn bytes_of(body: Body) -> Result<Vec<u8>, Error> {
    body.stream
        .try_fold(Vec::new(), |mut all, piece| async move { Ok([all.split_off(0), piece.to_vec()].concat()) })
        .await
}

struct Opened {
    hub: TestHub,
    client: HubClient,
    listing: Listing,
    bytes: Vec<u8>,
}

impl Opened {
    async fn new() -> Self {
        let (hub, bytes) = hub().await;
        let client = hub.client();
        let listing = listing(&client).await;
        hub.forget();
        Self { hub, client, listing, bytes }
    }

    async fn open(&self, path: &str, from: u64, validator: Option<&Validator>) -> Result<Body, Error> {
        let file = file(&self.listing, path);
        let Repository { id, commit, .. } = &self.listing.repository;
        self.client.open(id, commit, &file, from..file.size, validator).await
    }

    /// What a fault on the answer with the bytes makes of opening the large file.
    async fn with_fault(&self, what: What, from: u64) -> Result<Body, Error> {
        self.hub.clear_faults();
        self.hub.fault(Fault::on(WEIGHTS, what).at_bytes());
        self.open(WEIGHTS, from, None).await
    }
}

fn expect_err<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains("hf_") && !text.contains("Signature") && !text.contains('\n'), "{text}");
            error
        }
    }
}

// What works.

#[tokio::test]
async fn a_repository_is_pinned_and_listed_over_several_pages() {
    let hub = TestHub::with(Options { large_from: 4096, page: 2, ..Options::default() }).await;
    let bytes = hub.put_noise(REPOSITORY, "BF16/a [1]#?%+é.gguf", 20_000);
    for name in ["config.json", "x/y/z.txt", "b.txt", "c.txt"] {
        hub.put(REPOSITORY, name, name.as_bytes());
    }
    let facts = Facts { tags: vec!["license:mit".into()], revisions: vec!["refs/pr/1".into()], ..Facts::default() };
    hub.set_facts(REPOSITORY, facts);
    let client = hub.client();
    let repository = client.repository("ACME/Tiny", Some("refs/pr/1")).await.unwrap();
    assert_eq!((repository.id.as_str(), repository.commit.len(), repository.gated), (REPOSITORY, 40, false));
    assert_eq!(repository.tags, ["gguf", "license:mit"]);
    assert!(repository.updated.is_some());
    let listing = client.listing(&repository).await.unwrap();
    let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["BF16/a [1]#?%+é.gguf", "b.txt", "c.txt", "config.json", "x/y/z.txt"]);
    assert_eq!(listing.files[0].digest.unwrap().algorithm(), Algorithm::Sha256);
    assert_eq!(listing.files[1].digest.unwrap().algorithm(), Algorithm::GitSha1);
    assert_eq!(listing.files[0].size, 20_000);
    assert!(listing.refused.is_empty());
    assert_eq!(hub.count("/tree/"), 4, "three folders and five files, two a page");
    let body = client.open(&repository.id, &repository.commit, &listing.files[0], 0..20_000, None).await.unwrap();
    assert_eq!(bytes_of(body).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_range_continues_where_it_is_asked_to() {
    let opened = Opened::new().await;
    let first = opened.open(WEIGHTS, 0, None).await.unwrap();
    assert_eq!((first.from, first.size), (0, 20_000));
    let validator = first.validator.clone().unwrap();
    drop(first);
    let rest = opened.open(WEIGHTS, 7000, Some(&validator)).await.unwrap();
    assert_eq!(rest.from, 7000);
    assert_eq!(bytes_of(rest).await.unwrap(), opened.bytes[7000..]);
    let seen = opened.hub.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=7000-19999"));
    assert_eq!(last.if_range.as_deref(), Some(validator.0.as_str()));
    assert!(seen.iter().all(|seen| seen.accept_encoding.as_deref() == Some("identity")));
    let digest = file(&opened.listing, WEIGHTS).digest.unwrap().to_string();
    assert!(!validator.0.contains(&digest), "the validator is that of the server with the bytes");

    let file = file(&opened.listing, WEIGHTS);
    let Repository { id, commit, .. } = &opened.listing.repository;
    let middle = opened.client.open(id, commit, &file, 10..20, None).await.unwrap();
    assert_eq!(bytes_of(middle).await.unwrap(), opened.bytes[10..20]);
}

#[tokio::test]
async fn files_without_bytes_are_never_asked_for_with_a_range() {
    let opened = Opened::new().await;
    let body = opened.open("empty", 0, None).await.unwrap();
    assert_eq!((body.from, body.size, bytes_of(body).await.unwrap().len()), (0, 0, 0));
    let done = opened.open(WEIGHTS, 20_000, None).await.unwrap();
    assert_eq!((done.from, bytes_of(done).await.unwrap().len()), (20_000, 0));
    assert!(opened.hub.seen().iter().all(|seen| seen.range.is_none() && seen.status != 416));
}

#[tokio::test]
async fn search_follows_pages_until_it_has_enough() {
    let hub = TestHub::with(Options { page: 2, ..Options::default() }).await;
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let id = format!("acme/tiny-{name}");
        hub.put(&id, "m.gguf", b"x");
        let facts = Facts { downloads: index as u64, likes: 3, gate: Gate::Auto, ..Facts::default() };
        hub.set_facts(&id, facts);
    }
    let client = hub.client();
    let search = async |text: &str, limit| client.search(&SearchQuery { text: text.to_owned(), limit }).await.unwrap();
    let hits = search("TINY acme", 3).await;
    let ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
    assert_eq!(ids, ["acme/tiny-e", "acme/tiny-d", "acme/tiny-c"]);
    assert_eq!(hub.count("/api/models"), 2);
    assert_eq!((hits[0].downloads, hits[0].likes, hits[0].gated), (4, 3, true));
    assert!(hits[0].updated.is_some() && hits[0].tags == ["gguf"]);
    assert_eq!(search("tiny", 100).await.len(), 5);
    assert!(search("none", 5).await.is_empty());
    hub.forget();
    assert!(search("tiny", 0).await.is_empty());
    assert_eq!(hub.count(""), 0);
}

// The token.

#[tokio::test]
async fn the_token_goes_to_its_own_origin_only() {
    let hub = TestHub::with_token("hf_good").await;
    hub.put_noise(REPOSITORY, WEIGHTS, 20_000);
    let client = hub.client_with(Some("hf_good"));
    let listing = listing(&client).await;
    let body = client.open(REPOSITORY, &listing.repository.commit, &listing.files[0], 0..20_000, None).await.unwrap();
    assert_eq!(bytes_of(body).await.unwrap().len(), 20_000);
    for seen in hub.seen() {
        let expected = (seen.origin == Origin::Hub).then(|| "Bearer hf_good".to_owned());
        assert_eq!(seen.authorization, expected, "{}", seen.target);
    }
    assert_eq!(hub.seen().iter().filter(|seen| seen.origin == Origin::Bytes).count(), 1);
}

#[tokio::test]
async fn no_redirect_takes_the_token_along() {
    let hub = TestHub::with_token("hf_good").await;
    hub.put_noise(REPOSITORY, WEIGHTS, 20_000);
    let elsewhere = TestHub::start().await;
    elsewhere.put_noise(REPOSITORY, WEIGHTS, 20_000);
    let client = hub.client_with(Some("hf_good"));
    for (status, path) in [(302, "api"), (307, "api"), (308, "api"), (301, "resolve"), (303, "resolve")] {
        let to = if path == "api" {
            format!("{}/api/models/{REPOSITORY}", elsewhere.endpoint())
        } else {
            format!("{}/{REPOSITORY}/resolve/main/{WEIGHTS}", elsewhere.endpoint())
        };
        hub.fault(Fault::on(path, What::Redirect(status, to)));
        if path == "api" {
            client.repository(REPOSITORY, None).await.unwrap();
        } else {
            let listing = listing(&client).await;
            client.open(REPOSITORY, &listing.repository.commit, &listing.files[0], 0..20_000, None).await.unwrap();
        }
    }
    assert_eq!(elsewhere.count("/api/"), 3);
    assert_eq!(elsewhere.count("/resolve/"), 2);
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()));
    assert!(hub.seen().iter().all(|seen| (seen.origin == Origin::Hub) == seen.authorization.is_some()));
}

#[tokio::test]
async fn a_redirect_through_another_origin_and_back_is_no_way_to_lose_it_either() {
    let hub = TestHub::with_token("hf_good").await;
    hub.put(REPOSITORY, "config.json", b"{}");
    let elsewhere = TestHub::start().await;
    hub.fault(Fault::on("/api/", What::Redirect(302, format!("{}/bounce", elsewhere.endpoint()))));
    let back = format!("{}/api/models/{REPOSITORY}/revision/main", hub.endpoint());
    elsewhere.fault(Fault::on("bounce", What::Redirect(302, back)));
    hub.client_with(Some("hf_good")).repository(REPOSITORY, None).await.unwrap();
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()));
    assert_eq!(hub.seen().last().unwrap().authorization.as_deref(), Some("Bearer hf_good"));
}

#[tokio::test]
async fn a_next_page_on_another_server_is_refused() {
    let hub = TestHub::with_token("hf_good").await;
    hub.put(REPOSITORY, "config.json", b"{}");
    let elsewhere = TestHub::start().await;
    let link = format!("<{}/api/models/{REPOSITORY}/tree/main?cursor=x>; rel=\"next\"", elsewhere.endpoint());
    hub.fault(Fault::on("/tree/", What::Header("link", Some(link.clone()))));
    hub.fault(Fault::on("search=", What::Header("link", Some(link))));
    let client = hub.client_with(Some("hf_good"));
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    let error = expect_err(client.listing(&repository).await);
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("another server")), "{error}");
    let query = SearchQuery { text: "tiny".to_owned(), limit: 10 };
    assert!(matches!(expect_err(client.search(&query).await), Error::BadAnswer { .. }));
    assert_eq!(elsewhere.count(""), 0);
}

#[tokio::test]
async fn a_token_is_not_sent_over_plain_http_to_another_host() {
    // An address of this machine that is no loopback address; without one there is nothing to show.
    let Ok(socket) = std::net::UdpSocket::bind("0.0.0.0:0") else { return };
    if socket.connect("192.0.2.1:9").is_err() {
        return;
    }
    let address = socket.local_addr().unwrap().ip();
    if address.is_loopback() || address.is_unspecified() {
        return;
    }
    let listen = std::net::SocketAddr::new(address, 0);
    let account = Account { token: Token::new("hf_good").unwrap(), gated: false };
    let options = Options { listen, accounts: vec![account], anonymous: false, ..Options::default() };
    let hub = TestHub::with(options).await;
    hub.put(REPOSITORY, "config.json", b"{}");
    let error = expect_err(hub.client_with(Some("hf_good")).repository(REPOSITORY, None).await);
    assert!(matches!(&error, Error::SignIn { reason, .. } if reason.contains("plain http")), "{error}");
    assert!(hub.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn credentials_in_the_endpoint_are_sent_and_never_shown() {
    let (hub, _) = hub().await;
    let address = hub.endpoint().replace("http://", "http://user:hf_secret@");
    let options = HubOptions { endpoint: format!("{address}/"), token: None, offline: false, proxies: false };
    let client = HubClient::new(options).unwrap();
    assert_eq!(client.endpoint(), hub.endpoint());
    client.repository(REPOSITORY, None).await.unwrap();
    assert_eq!(hub.seen()[0].authorization.as_deref(), Some("Basic dXNlcjpoZl9zZWNyZXQ="));
    assert!(!format!("{:?}", expect_err(client.repository("acme/none", None).await)).contains("secret"));
}

// Refusals.

#[tokio::test]
async fn every_refusal_is_told_as_what_it_is() {
    let (hub, _) = hub().await;
    let client = hub.client();
    let signed_in = hub.client_with(Some("hf_some"));
    let headers =
        |code: &str, message: &str| vec![("x-error-code", code.to_owned()), ("x-error-message", message.to_owned())];
    type Check = fn(&Error) -> bool;
    let cases: [(&HubClient, What, Check); 17] = [
        (&client, What::Answer(404, headers("RepoNotFound", "Repository not found"), String::new()), |e| {
            matches!(e, Error::RepositoryNotFound { .. })
        }),
        (
            &client,
            What::Answer(404, headers("RevisionNotFound", "Invalid rev id: x"), String::new()),
            |e| matches!(e, Error::RevisionNotFound { revision, .. } if revision == "v1"),
        ),
        (
            &client,
            What::Answer(401, headers("GatedRepo", "restricted"), String::new()),
            |e| matches!(e, Error::Gated { page, .. } if page.ends_with("/acme/tiny")),
        ),
        (&signed_in, What::Answer(403, headers("GatedRepo", "restricted"), String::new()), |e| {
            matches!(e, Error::Gated { .. })
        }),
        (&client, What::Answer(401, vec![], "Invalid username or password.".into()), |e| {
            matches!(e, Error::RepositoryNotFound { .. })
        }),
        (&client, What::Answer(401, vec![], "{\"error\":\"log in\"}".into()), |e| matches!(e, Error::SignIn { .. })),
        (
            &signed_in,
            What::Answer(401, vec![], "Invalid credentials in Authorization header".into()),
            |e| matches!(e, Error::SignIn { reason, .. } if reason.contains("Invalid credentials")),
        ),
        (
            &client,
            What::Answer(403, vec![], "Access to this resource is disabled.".into()),
            |e| matches!(e, Error::Refused { status: 403, reason, .. } if reason.contains("disabled")),
        ),
        (&client, What::Answer(404, vec![], "{\"error\":\"Repository not found\"}".into()), |e| {
            matches!(e, Error::RepositoryNotFound { .. })
        }),
        (&client, What::Answer(404, vec![], "{\"error\":\"Invalid rev id: v1\"}".into()), |e| {
            matches!(e, Error::RevisionNotFound { .. })
        }),
        (&client, What::Answer(404, vec![("content-type", "text/html".into())], "<html>nginx</html>".into()), |e| {
            matches!(e, Error::BadAnswer { .. })
        }),
        (&client, What::Answer(404, vec![], "nothing here".into()), |e| matches!(e, Error::BadAnswer { .. })),
        (
            &client,
            What::Answer(400, vec![], "no\u{1b}[31m".into()),
            |e| matches!(e, Error::Refused { status: 400, reason, .. } if !reason.contains('\u{1b}')),
        ),
        (
            &client,
            What::Answer(429, vec![("ratelimit", "\"api\";r=0;t=100".into())], String::new()),
            |e| matches!(e, Error::RateLimited { retry_after: Some(wait), .. } if *wait == Duration::from_secs(101)),
        ),
        (
            &client,
            What::Answer(429, vec![("retry-after", "77".into())], String::new()),
            |e| matches!(e, Error::RateLimited { retry_after: Some(wait), .. } if *wait == Duration::from_secs(77)),
        ),
        (&client, What::html(), |e| matches!(e, Error::BadAnswer { reason, .. } if reason.contains("web page"))),
        (&client, What::Answer(511, vec![], String::new()), |e| matches!(e, Error::Unreachable { .. })),
    ];
    for (index, (client, what, check)) in cases.into_iter().enumerate() {
        hub.clear_faults();
        hub.forget();
        hub.fault(Fault::on("/api/models/", what).always());
        let error = expect_err(client.repository(REPOSITORY, Some("v1")).await);
        assert!(check(&error), "case {index}: {error:?}");
        // What no hub answers is asked for again, what a hub answers is final.
        let tries = if matches!(error, Error::BadAnswer { .. }) { 8 } else { 1 };
        assert_eq!(hub.count("/api/"), tries, "case {index}");
    }
}

#[tokio::test]
async fn gated_files_and_missing_files_are_told_when_they_are_opened() {
    let opened = Opened::new().await;
    let mut gone = file(&opened.listing, "config.json");
    gone.path = rbee_hive::model::RepoPath::parse("gone.json").unwrap();
    let commit = &opened.listing.repository.commit;
    let error = expect_err(opened.client.open(REPOSITORY, commit, &gone, 0..2, None).await);
    assert!(matches!(&error, Error::FileNotFound { what, .. } if what == "gone.json"), "{error}");
    let other = "0".repeat(40);
    let file = file(&opened.listing, "config.json");
    let error = expect_err(opened.client.open(REPOSITORY, &other, &file, 0..2, None).await);
    assert!(matches!(error, Error::RevisionNotFound { .. }), "{error}");
    opened.hub.set_facts(REPOSITORY, Facts { gate: Gate::Manual, ..Facts::default() });
    assert!(matches!(expect_err(opened.open(WEIGHTS, 0, None).await), Error::Gated { .. }));
    assert!(opened.client.repository(REPOSITORY, None).await.unwrap().gated);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let opened = Opened::new().await;
    opened.hub.fault(Fault::on(WEIGHTS, What::Silence).at_bytes());
    let asked = async {
        opened.hub.wait_for(|seen| seen.iter().any(|seen| seen.origin == Origin::Bytes)).await;
        // From here on nothing but the clock can happen, and it runs ahead by itself.
        tokio::time::pause();
    };
    let (result, ()) = tokio::join!(opened.open(WEIGHTS, 0, None), asked);
    let error = expect_err(result);
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("no answer within 30 s")), "{error}");
}

#[tokio::test]
async fn offline_sends_nothing() {
    let (hub, _) = hub().await;
    let options = HubOptions { endpoint: hub.endpoint(), token: None, offline: true, proxies: false };
    let client = HubClient::new(options).unwrap();
    assert!(matches!(expect_err(client.repository(REPOSITORY, None).await), Error::Offline { .. }));
    assert_eq!(hub.count(""), 0);
}

#[tokio::test]
async fn ids_and_revisions_that_climb_are_refused_before_anything_is_sent() {
    let (hub, _) = hub().await;
    let client = hub.client();
    for (id, revision) in
        [("..", None), ("acme/..", None), ("a/b/c", None), ("", None), ("acme/", None), (REPOSITORY, Some(".."))]
    {
        let error = expect_err(client.repository(id, revision).await);
        assert!(matches!(error, Error::InvalidReference { .. }), "{id}: {error}");
    }
    assert_eq!(hub.count(""), 0);
}

// Trouble that passes.

#[tokio::test]
async fn api_calls_are_tried_again_when_that_may_help() {
    let (hub, _) = hub().await;
    let client = hub.client();
    let troubles = [
        What::status(503),
        What::status(500),
        What::status(502),
        What::status(504),
        What::status(408),
        What::Answer(429, vec![("retry-after", "0".to_owned())], String::new()),
        What::Reset(10),
    ];
    for trouble in troubles {
        hub.forget();
        hub.fault(Fault::on("/api/", trouble.clone()));
        client.repository(REPOSITORY, None).await.unwrap_or_else(|error| panic!("{trouble:?}: {error}"));
        assert_eq!(hub.count("/api/"), 2, "{trouble:?}");
    }
}

#[tokio::test]
async fn tries_end_and_name_the_cause() {
    let (hub, _) = hub().await;
    hub.fault(Fault::on("/api/", What::status(503)).always());
    let error = expect_err(hub.client().repository(REPOSITORY, None).await);
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("503")), "{error}");
    assert_eq!(hub.count("/api/"), 10);
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_unreachable() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let endpoint = format!("http://{address}");
    let options = HubOptions { endpoint, token: Token::new("hf_x"), offline: false, proxies: false };
    let error = expect_err(HubClient::new(options).unwrap().repository(REPOSITORY, None).await);
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_long_wait_is_handed_to_the_caller() {
    let (hub, _) = hub().await;
    let limit = vec![("ratelimit", "\"api\";r=0;t=299".to_owned())];
    hub.fault(Fault::on("/api/", What::Answer(429, limit, String::new())));
    let error = expect_err(hub.client().repository(REPOSITORY, None).await);
    assert!(error.to_string().contains("300 s"), "{error}");
    assert_eq!(hub.count("/api/"), 1);
}

// Answers that are none.

#[tokio::test]
async fn answers_that_are_no_hubs_answers_are_named() {
    let (hub, _) = hub().await;
    let client = hub.client();
    let sha = "a".repeat(40);
    let cases = [
        (What::json(""), "empty"),
        (What::json("{\"id\":\"acme/ti"), "cut short"),
        (What::json("hello"), "no JSON"),
        (What::json("<html>"), "web page"),
        (What::json("[]"), "another shape"),
        (What::json("{\"id\":\"acme/tiny\"}"), "another shape"),
        (What::json(&format!("{{\"id\":\"../../x\",\"sha\":\"{sha}\"}}")), "id"),
        (What::json("{\"id\":\"acme/tiny\",\"sha\":\"../../x\"}"), "commit"),
        (What::Header("content-encoding", Some("gzip".to_owned())), "gzip"),
        (What::Redirect(302, "ftp://x/".to_owned()), "no http or https"),
        (What::RedirectLoop, "circle"),
        (What::Answer(302, vec![], String::new()), "no address"),
    ];
    for (what, expected) in cases {
        hub.clear_faults();
        hub.forget();
        hub.fault(Fault::on("/api/", what.clone()).always());
        let error = expect_err(client.repository(REPOSITORY, None).await);
        assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains(expected)), "{what:?}: {error}");
        let tries = if matches!(expected, "id" | "commit") { 1 } else { 8 };
        assert_eq!(hub.count("/api/"), tries, "{what:?}");
    }
}

#[tokio::test]
async fn an_answer_that_no_hub_gives_is_asked_for_again() {
    let (hub, _) = hub().await;
    let client = hub.client();
    for what in [
        What::html(),
        What::json("{\"id\":\"acme/ti"),
        What::Header("content-encoding", Some("gzip".to_owned())),
        What::status(404),
    ] {
        hub.clear_faults();
        hub.fault(Fault::on("/api/", what.clone()));
        let repository = client.repository(REPOSITORY, None).await;
        assert!(repository.is_ok(), "{what:?}: {repository:?}");
    }
}

#[tokio::test]
async fn a_short_token_is_hidden_wherever_a_server_puts_it() {
    let (hub, _) = hub().await;
    let token = "Tok/4567";
    let client = hub.client_with(Some(token));
    let sha = "a".repeat(40);
    for what in [
        What::json(&format!("{{\"id\":\"../{token}\",\"sha\":\"{sha}\"}}")),
        What::json(&format!("{{\"id\":\"acme/tiny\",\"sha\":\"{token}\"}}")),
        What::Header("content-encoding", Some(token.to_owned())),
        What::Redirect(302, format!("/api/{token}")),
    ] {
        hub.clear_faults();
        hub.fault(Fault::on("/api/", what.clone()).always());
        let error = expect_err(client.repository(REPOSITORY, None).await);
        let text = format!("{error} {error:?}").to_ascii_lowercase();
        assert!(!text.contains("tok/4567"), "{what:?}: {text}");
    }
}

#[tokio::test]
async fn secrets_that_a_server_repeats_are_not_told() {
    let (hub, _) = hub().await;
    let token = "hf_abcdefGHIJKL0123456789";
    let client = hub.client_with(Some(token));
    let body = format!("{{\"error\":\"no {token} at https://cdn.example/x?sig=open-sesame\"}}");
    for headers in [vec![], vec![("x-error-message", format!("{token} refused, see /a?Signature=open-sesame"))]] {
        hub.clear_faults();
        hub.fault(Fault::on("/api/", What::Answer(400, headers, body.clone())).always());
        let error = expect_err(client.repository(REPOSITORY, None).await);
        let text = format!("{error} {error:?}");
        assert!(text.contains("[hidden]") && !text.contains("GHIJKL") && !text.contains("sesame"), "{text}");
    }
}

#[tokio::test]
async fn redirects_without_end_stop() {
    let (hub, _) = hub().await;
    for hop in 0..20 {
        let to = format!("/api/hop/{}?cursor=keep", hop + 1);
        let from = if hop == 0 { "/api/models".to_owned() } else { format!("/hop/{hop}?") };
        hub.fault(Fault::on(&from, What::Redirect(307, to)));
    }
    let error = expect_err(hub.client().repository(REPOSITORY, None).await);
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("again and again")), "{error}");
    assert!(hub.count("") <= 11);
    assert!(hub.seen().iter().skip(1).all(|seen| seen.target.ends_with("?cursor=keep")));
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let (hub, _) = hub().await;
    hub.fault(Fault::on("/api/", What::json(&" ".repeat(33 << 20))));
    let error = expect_err(hub.client().repository(REPOSITORY, None).await);
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("larger than")), "{error}");
}

// Listings.

fn row(path: &str) -> String {
    let path = serde_json::to_string(path).unwrap();
    format!("{{\"type\":\"file\",\"path\":{path},\"size\":1,\"oid\":\"{}\"}}", "0".repeat(40))
}

async fn listing_of(hub: &TestHub, rows: &str) -> Result<Listing, Error> {
    hub.clear_faults();
    hub.fault(Fault::on("/tree/", What::json(&format!("[{rows}]"))).always());
    let client = hub.client();
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    client.listing(&repository).await
}

#[tokio::test]
async fn hostile_paths_are_kept_apart() {
    let (hub, _) = hub().await;
    let long = "x".repeat(300);
    let hostile = [
        "/etc/passwd",
        "../../.ssh/authorized_keys",
        "a/../../b",
        "C:\\x",
        "\\\\server\\share",
        "a\\b",
        "a\u{0}b",
        "",
        "a//b",
        "./a",
        "a\u{1b}[2Jb",
        ".git/config",
        "a/.GIT/config",
        &long,
    ];
    let rows: Vec<String> =
        hostile.iter().chain(&["good.gguf", "file/inside", ".gitattributes"]).map(|p| row(p)).collect();
    let listing = listing_of(&hub, &rows.join(",")).await.unwrap();
    let good: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(good, [".gitattributes", "file/inside", "good.gguf"]);
    let mut refused: Vec<&str> = listing.refused.iter().map(|(path, _)| path.as_str()).collect();
    refused.sort_unstable();
    let mut expected = hostile;
    expected.sort_unstable();
    assert_eq!(refused, expected);
    assert!(listing.refused.iter().all(|(_, reason)| !reason.is_empty()));
}

#[tokio::test]
async fn listings_that_make_no_sense_are_refused_whole() {
    let (hub, _) = hub().await;
    let oid = "0".repeat(40);
    let sized = |size: &str| format!("{{\"type\":\"file\",\"path\":\"a\",\"size\":{size},\"oid\":\"{oid}\"}}");
    let lfs = |lfs: &str| format!("{{\"type\":\"file\",\"path\":\"a\",\"size\":5,\"oid\":\"{oid}\",\"lfs\":{lfs}}}");
    let cases = [
        (sized("-1"), "size"),
        (sized("1e30"), "size"),
        (sized("1.5"), "size"),
        (sized("18446744073709551615"), "size"),
        (sized("\"7\""), "another shape"),
        (format!("{{\"type\":\"file\",\"path\":\"a\",\"oid\":\"{oid}\"}}"), "size"),
        (format!("{},{}", row("a"), row("a")), "twice"),
        (lfs("{\"oid\":\"xyz\",\"size\":5}"), "SHA-256"),
        (lfs(&format!("{{\"oid\":\"{}\",\"size\":6}}", "0".repeat(64))), "size"),
        (lfs(&format!("{{\"oid\":\"{}\",\"sha256\":\"{}\"}}", "0".repeat(64), "1".repeat(64))), "SHA-256"),
        (lfs("{\"size\":5}"), "SHA-256"),
        ("{\"type\":\"file\",\"size\":1}".to_owned(), "another shape"),
        ("3".to_owned(), "another shape"),
    ];
    for (rows, expected) in cases {
        let error = expect_err(listing_of(&hub, &rows).await);
        assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains(expected)), "{rows}: {error}");
    }
}

#[tokio::test]
async fn digests_are_read_in_every_spelling_and_foreign_ids_check_nothing() {
    let (hub, _) = hub().await;
    let hex = "a".repeat(64);
    for lfs in [
        format!("\"oid\":\"{hex}\""),
        format!("\"sha256\":\"{hex}\""),
        format!("\"oid\":\"sha256:{hex}\",\"sha256\":\"{hex}\""),
    ] {
        let row = format!("{{\"type\":\"file\",\"path\":\"a\",\"size\":5,\"oid\":\"x\",\"lfs\":{{{lfs}}}}}");
        let listing = listing_of(&hub, &row).await.unwrap();
        assert_eq!(listing.files[0].digest, Digest::parse(&hex), "{lfs}");
    }
    let listing = listing_of(&hub, "{\"type\":\"file\",\"path\":\"a\",\"size\":1,\"oid\":\"v12\"}").await.unwrap();
    assert_eq!(listing.files[0].digest, None);
}

#[tokio::test]
async fn a_listing_exists_only_whole() {
    let hub = TestHub::with(Options { page: 1, ..Options::default() }).await;
    for name in ["a", "b", "c"] {
        hub.put(REPOSITORY, name, b"x");
    }
    let client = hub.client();
    let repository = client.repository(REPOSITORY, None).await.unwrap();
    hub.fault(Fault::on("cursor=", What::status(404)).after(1).always());
    expect_err(client.listing(&repository).await);
    hub.clear_faults();
    hub.fault(Fault::on("cursor=", What::json("[{\"type\":\"file\"")).after(1).always());
    expect_err(client.listing(&repository).await);
    hub.clear_faults();
    let circle =
        format!("<{}/api/models/{REPOSITORY}/tree/{}?recursive=true>; rel=\"next\"", hub.endpoint(), repository.commit);
    hub.fault(Fault::on("cursor=", What::Header("link", Some(circle))));
    let error = expect_err(client.listing(&repository).await);
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("circle")), "{error}");
    assert_eq!(client.listing(&repository).await.unwrap().files.len(), 3);
}

// Bytes.

#[tokio::test]
async fn whatever_is_no_correct_part_gives_the_file_from_its_start() {
    let opened = Opened::new().await;
    let faults = [
        What::NoRange,
        What::Header("content-range", Some("bytes 6999-19999/20000".to_owned())),
        What::Header("content-range", Some("bytes 7000-19998/20000".to_owned())),
        What::Header("content-range", Some("bytes 7000-19999/30000".to_owned())),
        What::Header("content-range", Some("bytes 7000-19999/*".to_owned())),
        What::Header("content-range", None),
        What::Length(10),
        What::Answer(416, vec![("content-range", "bytes */20000".to_owned())], String::new()),
    ];
    for what in faults {
        let body = opened.with_fault(what.clone(), 7000).await.unwrap_or_else(|error| panic!("{what:?}: {error}"));
        assert_eq!((body.from, body.size), (0, 20_000), "{what:?}");
        assert_eq!(bytes_of(body).await.unwrap(), opened.bytes, "{what:?}");
    }
}

#[tokio::test]
async fn a_server_that_ignores_if_range_is_found_out() {
    let opened = Opened::new().await;
    opened.hub.fault(Fault::on(WEIGHTS, What::NoIfRange).at_bytes());
    let old = Validator("\"of an older file\"".to_owned());
    let body = opened.open(WEIGHTS, 7000, Some(&old)).await.unwrap();
    assert_eq!(body.from, 0);
    assert_eq!(bytes_of(body).await.unwrap(), opened.bytes);
    let body = opened.open(WEIGHTS, 7000, Some(&old)).await.unwrap();
    assert_eq!(body.from, 0, "and one that obeys it sends the whole file");
}

#[tokio::test]
async fn a_file_that_changed_is_told() {
    let opened = Opened::new().await;
    let at_hub = [
        What::Header("x-linked-etag", Some(format!("\"{}\"", "0".repeat(64)))),
        What::Header("x-linked-etag", Some("0".repeat(40))),
        What::Header("x-linked-size", Some("20001".to_owned())),
        What::Header("x-repo-commit", Some("f".repeat(40))),
    ];
    for what in at_hub {
        for from in [0, 7000] {
            opened.hub.fault(Fault::on(WEIGHTS, what.clone()).at_hub());
            let error = expect_err(opened.open(WEIGHTS, from, None).await);
            assert!(matches!(&error, Error::Changed { file } if file == WEIGHTS), "{what:?}: {error}");
        }
    }
    opened.hub.fault(Fault::on("config.json", What::Header("etag", Some(format!("W/\"{}\"", "0".repeat(40))))));
    assert!(matches!(expect_err(opened.open("config.json", 0, None).await), Error::Changed { .. }));
    let accepted = file(&opened.listing, "config.json").digest.unwrap().to_string().to_uppercase();
    opened.hub.fault(Fault::on("config.json", What::Header("etag", Some(format!("W/\"{accepted}\"")))));
    let body = opened.open("config.json", 0, None).await.unwrap();
    assert_eq!(body.validator, None, "a weak validator is none");
}

#[tokio::test]
async fn other_things_than_the_bytes_are_refused() {
    let opened = Opened::new().await;
    for from in [0, 7000] {
        let error = expect_err(opened.with_fault(What::html(), from).await);
        assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("web page")), "{error}");
        let coded = What::Header("content-encoding", Some("gzip".to_owned()));
        let error = expect_err(opened.with_fault(coded, from).await);
        assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("gzip")), "{error}");
    }
    let error = expect_err(opened.with_fault(What::Length(19_000), 0).await);
    assert!(
        matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("19000 bytes instead of 20000")),
        "{error}"
    );
    let error = expect_err(opened.with_fault(What::status(400), 0).await);
    assert!(matches!(error, Error::Refused { status: 400, .. }), "{error}");
    let error = expect_err(opened.with_fault(What::status(404), 0).await);
    assert!(matches!(error, Error::Refused { status: 404, .. }), "the store's 404 is not the hub's: {error}");
}

#[tokio::test]
async fn a_page_that_is_a_file_of_the_repository_is_a_file() {
    let (hub, _) = hub().await;
    hub.put(REPOSITORY, "index.html", b"<!DOCTYPE html>");
    let client = hub.client();
    let listing = listing(&client).await;
    hub.fault(Fault::on("index.html", What::Header("content-type", Some("text/html".to_owned()))));
    let page = file(&listing, "index.html");
    let body = client.open(REPOSITORY, &listing.repository.commit, &page, 0..page.size, None).await.unwrap();
    assert_eq!(bytes_of(body).await.unwrap(), b"<!DOCTYPE html>");
}

#[tokio::test]
async fn an_address_that_expired_is_worth_another_try_and_the_next_one_is_fresh() {
    let opened = Opened::new().await;
    for status in [401, 403, 410, 408, 500, 503] {
        opened.hub.forget();
        let error = expect_err(opened.with_fault(What::status(status), 0).await);
        assert!(matches!(error, Error::Unreachable { .. }), "{status}: {error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(opened.hub.count(WEIGHTS), 2, "bytes are not asked for again here");
        bytes_of(opened.open(WEIGHTS, 0, None).await.unwrap()).await.unwrap();
        assert_eq!(opened.hub.count("/resolve/"), 2);
    }
    let limited = What::Answer(429, vec![("retry-after", "9".to_owned())], String::new());
    let error = expect_err(opened.with_fault(limited, 0).await);
    assert!(matches!(error, Error::RateLimited { retry_after: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_ends_early_ends_with_an_error_after_its_bytes() {
    let opened = Opened::new().await;
    for (what, count) in [(What::Reset(5000), 5000), (What::LyingLength(25_000), 0)] {
        let body = opened.with_fault(what.clone(), 0).await;
        let mut body = match (body, count) {
            (Ok(body), count) if count > 0 => body,
            // A length that is not the file's is seen before the first byte.
            (Err(error), 0) => {
                assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
                continue;
            }
            _ => panic!("{what:?}"),
        };
        let mut arrived = Vec::new();
        let error = loop {
            match body.stream.try_next().await {
                Ok(Some(piece)) => arrived.extend_from_slice(&piece),
                Ok(None) => panic!("it ended without error"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert_eq!(arrived, opened.bytes[..count]);
    }
    // Without a length the end of the body is the only sign.
    opened.hub.clear_faults();
    let short = noise(100, "short");
    opened.hub.fault(Fault::on(WEIGHTS, What::Header("content-length", None)).at_bytes());
    opened.hub.put(REPOSITORY, WEIGHTS, &opened.bytes);
    bytes_of(opened.open(WEIGHTS, 0, None).await.unwrap()).await.unwrap();
    opened.hub.fault(Fault::on(WEIGHTS, What::Chunked(short)).at_bytes());
    let error = bytes_of(opened.open(WEIGHTS, 0, None).await.unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("19900 of 20000")), "{error}");
    opened.hub.fault(Fault::on(WEIGHTS, What::Chunked(noise(30_000, "long"))).at_bytes());
    let error = bytes_of(opened.open(WEIGHTS, 0, None).await.unwrap()).await.unwrap_err();
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("more than")), "{error}");
}
