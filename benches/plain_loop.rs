//! The floor that downloads are compared with: receive, hash, write, in one thread, without TLS, redirects, journal or resume.
//!
//! `plain_loop http://127.0.0.1:PORT/PATH FILE`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use sha2::{Digest, Sha256};

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(url), Some(path)) = (arguments.next(), arguments.next()) else { return };
    let rest = url.strip_prefix("http://").expect("an http address");
    let (host, target) = rest.split_once('/').expect("a path in the address");

    let mut stream = TcpStream::connect(host).expect("connect");
    write!(stream, "GET /{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    while reader.read_line(&mut line).expect("headers") > 2 {
        line.clear();
    }

    let mut file = File::create(path).expect("create");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = reader.read(&mut buffer).expect("receive");
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).expect("write");
    }
    file.sync_data().expect("sync");
    println!("{}", hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
}
