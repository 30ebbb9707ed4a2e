//! The mirror as any client of the hub sees it, over a plain connection.
#![cfg(feature = "mirror")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use rbee_hive::mirror::{Facts, Gate, Options};
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::hub::{Fault, TestHub, What, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn call(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let mut request = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).unwrap())
        .collect();
    let mut body = bytes[end + 4..].to_vec();
    if headers.iter().any(|(key, value)| key == "transfer-encoding" && value == "chunked") {
        body = unchunked(&body);
    }
    Answer { status, headers, body }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 4 + size..];
    }
}

async fn get(url: &str) -> Answer {
    call("GET", url, &[]).await
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_large_file_is_redirected_with_its_identity_and_served_in_ranges() {
    let hub = TestHub::start().await;
    let bytes = hub.put_noise("acme/tiny", "Q4 K/tiny [1]#é.gguf", 10_000);
    let url = format!("{}/acme/tiny/resolve/main/Q4%20K/tiny%20%5B1%5D%23%C3%A9.gguf", hub.endpoint());
    let first = get(&url).await;
    assert_eq!(first.status, 302);
    assert_eq!(first.header("x-linked-etag"), format!("\"{}\"", hex(&bytes)));
    assert_eq!(first.header("x-linked-size"), "10000");
    assert_eq!(first.header("x-repo-commit").len(), 40);
    let location = first.header("location");
    assert!(!location.starts_with(&hub.endpoint()), "{location}");

    let whole = get(location).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, "10000"));
    assert_eq!(whole.body, bytes);
    let etag = whole.header("etag").to_owned();
    assert!(!etag.contains(&hex(&bytes)));

    let part = call("GET", location, &[("range", "bytes=100-199"), ("if-range", &etag)]).await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 100-199/10000"));
    assert_eq!(part.body, bytes[100..200]);
    let other = call("GET", location, &[("range", "bytes=100-199"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 10_000));
    let past = call("GET", location, &[("range", "bytes=10000-")]).await;
    assert_eq!((past.status, past.header("content-range")), (416, "bytes */10000"));
    assert_eq!(call("GET", location, &[("if-none-match", &etag)]).await.status, 304);
    let head = call("HEAD", location, &[]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "10000", 0));
}

#[tokio::test]
async fn bytes_need_a_good_signature_and_no_token() {
    let hub = TestHub::start().await;
    hub.put_noise("acme/tiny", "tiny.gguf", 10_000);
    let first = get(&format!("{}/acme/tiny/resolve/main/tiny.gguf", hub.endpoint())).await;
    let location = first.header("location").to_owned();
    let (address, _) = location.split_once('?').unwrap();
    assert_eq!(get(address).await.status, 403);
    assert_eq!(get(&location.replace("Signature=", "Signature=0")).await.status, 403);
    assert_eq!(get(&location.replace("Expires=1", "Expires=2")).await.status, 403);
    assert_eq!(call("GET", &location, &[("authorization", "Bearer hf_x")]).await.status, 400);
    assert_eq!(get(&location).await.status, 200);
}

#[tokio::test]
async fn a_small_file_is_answered_at_once() {
    let hub = TestHub::start().await;
    hub.put("acme/tiny", "config.json", b"{}");
    hub.put("acme/tiny", "empty", b"");
    let url = format!("{}/acme/tiny/resolve/main/config.json", hub.endpoint());
    let answer = get(&url).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"{}".as_slice()));
    assert_eq!(answer.header("etag"), "\"9e26dfeeb6e641a33dae4961196235bdb965b21b\"", "what git says of {{}}");
    let empty = format!("{}/acme/tiny/resolve/main/empty", hub.endpoint());
    assert_eq!(get(&empty).await.header("etag"), "\"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\"");
    assert_eq!(call("GET", &empty, &[("range", "bytes=0-")]).await.status, 416);
}

#[tokio::test]
async fn the_tree_comes_in_pages_and_info_tells_digests() {
    let hub = TestHub::with(Options { large_from: 4096, page: 2, ..Options::default() }).await;
    for name in ["a.txt", "b/c.txt", "b/d/e.txt"] {
        hub.put("acme/tiny", name, name.as_bytes());
    }
    let bytes = hub.put_noise("acme/tiny", "tiny.gguf", 10_000);
    let mut url = format!("{}/api/models/acme/tiny/tree/main?recursive=true", hub.endpoint());
    let mut rows = Vec::new();
    let mut pages = 0;
    loop {
        let answer = get(&url).await;
        pages += 1;
        rows.extend(answer.json().as_array().unwrap().clone());
        let Some(next) = answer.header("link").strip_prefix('<') else { break };
        url = next.split_once('>').unwrap().0.to_owned();
        assert!(url.starts_with(&hub.endpoint()) && url.contains("recursive=true"), "{url}");
    }
    assert_eq!(pages, 3);
    let paths: Vec<&str> = rows.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["b", "b/d", "a.txt", "b/c.txt", "b/d/e.txt", "tiny.gguf"]);
    assert_eq!(rows[5]["lfs"]["oid"], hex(&bytes));
    assert_ne!(rows[5]["oid"], rows[5]["lfs"]["oid"]);

    let info = get(&format!("{}/api/models/acme/tiny?blobs=true", hub.endpoint())).await.json();
    assert_eq!(info["siblings"][3]["lfs"]["sha256"], hex(&bytes));
    assert_eq!(info["sha"].as_str().unwrap().len(), 40);
    let commit = info["sha"].as_str().unwrap();
    let pinned = format!("{}/api/models/acme/tiny/revision/{commit}", hub.endpoint());
    assert_eq!(get(&pinned).await.status, 200);
    hub.put("acme/tiny", "a.txt", b"other");
    assert_eq!(get(&pinned).await.status, 404, "the commit is made from the content");
}

#[tokio::test]
async fn refusals_carry_the_hubs_codes() {
    let hub = TestHub::start().await;
    hub.put("acme/tiny", "config.json", b"{}");
    hub.put("acme/gated", "config.json", b"{}");
    hub.set_facts("acme/gated", Facts { gate: Gate::Manual, ..Facts::default() });
    for (path, status, code) in [
        ("api/models/acme/none", 404, "RepoNotFound"),
        ("api/models/acme/tiny/revision/none", 404, "RevisionNotFound"),
        ("acme/tiny/resolve/main/none", 404, "EntryNotFound"),
        ("acme/tiny/resolve/main/..%2f..%2fx", 404, "EntryNotFound"),
        ("acme/gated/resolve/main/config.json", 401, "GatedRepo"),
    ] {
        let answer = get(&format!("{}/{path}", hub.endpoint())).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (status, code), "{path}");
    }
    assert_eq!(get(&format!("{}/api/models/acme/gated", hub.endpoint())).await.json()["gated"], "manual");
    let renamed = get(&format!("{}/api/models/ACME/Tiny?blobs=true", hub.endpoint())).await;
    assert_eq!((renamed.status, renamed.header("location")), (307, "/api/models/acme/tiny?blobs=true"));

    let closed = TestHub::with_token("hf_good").await;
    closed.put("acme/tiny", "config.json", b"{}");
    let url = format!("{}/api/models/acme/tiny", closed.endpoint());
    assert_eq!(get(&url).await.status, 401);
    assert_eq!(call("GET", &url, &[("authorization", "Bearer hf_bad")]).await.status, 401);
    assert_eq!(call("GET", &url, &[("authorization", "Bearer hf_good")]).await.status, 200);
}

#[tokio::test]
async fn search_finds_every_word_and_sorts_by_downloads() {
    let hub = TestHub::with(Options { page: 1, ..Options::default() }).await;
    for (id, downloads) in [("acme/tiny-chat", 5), ("acme/tiny-code", 50), ("other/Tiny", 1)] {
        hub.put(id, "m.gguf", b"x");
        hub.set_facts(id, Facts { downloads, ..Facts::default() });
    }
    let url = format!("{}/api/models?search=TINY+c&filter=gguf&sort=downloads", hub.endpoint());
    let first = get(&url).await;
    assert_eq!(first.json()[0]["id"], "acme/tiny-code");
    let next = first.header("link").strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
    let second = get(&next).await;
    assert_eq!(second.json()[0]["id"], "acme/tiny-chat");
    assert_eq!(second.header("link"), "");
}

#[tokio::test]
async fn nothing_behind_a_link_is_served() {
    let hub = TestHub::start().await;
    hub.put("acme/tiny", "config.json", b"{}");
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("key"), "secret").unwrap();
    std::os::unix::fs::symlink(secret.path().join("key"), hub.root().join("acme/tiny/key")).unwrap();
    std::os::unix::fs::symlink(secret.path(), hub.root().join("acme/tiny/folder")).unwrap();
    std::os::unix::fs::symlink(secret.path(), hub.root().join("acme/linked")).unwrap();
    std::fs::create_dir(hub.root().join("acme/tiny/.cache")).unwrap();
    std::fs::write(hub.root().join("acme/tiny/.cache/x"), "x").unwrap();
    let info = get(&format!("{}/api/models/acme/tiny", hub.endpoint())).await.json();
    assert_eq!(info["siblings"], serde_json::json!([{ "rfilename": "config.json" }]));
    for path in ["acme/tiny/resolve/main/key", "acme/tiny/resolve/main/folder/key", "acme/linked/resolve/main/key"] {
        assert_eq!(get(&format!("{}/{path}", hub.endpoint())).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn faults_are_played_on_the_requests_that_they_name_and_all_are_recorded() {
    let hub = TestHub::start().await;
    let bytes = noise(10_000, "x");
    hub.put("acme/tiny", "tiny.gguf", &bytes);
    hub.fault(Fault::on("tiny.gguf", What::status(503)).at_bytes().after(1));
    hub.fault(Fault::on("tiny.gguf", What::Reset(1000)).at_bytes());
    let first = get(&format!("{}/acme/tiny/resolve/main/tiny.gguf", hub.endpoint())).await;
    let location = first.header("location").to_owned();
    let cut = get(&location).await;
    assert_eq!((cut.status, cut.header("content-length"), cut.body.len()), (200, "10000", 1000));
    assert_eq!(get(&location).await.status, 503);
    assert_eq!(get(&location).await.body, bytes);
    let statuses: Vec<u16> = hub.seen().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [302, 200, 503, 200]);
    assert_eq!(hub.file_bytes_sent(), 11_000);
}
