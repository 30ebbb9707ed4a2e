//! Signed addresses of the second origin: bytes go only to whom the first origin sent there.

use std::fs::File;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::model::Digest;

/// How long a signed address is good, in seconds.
const LIFETIME: u64 = 3600;

/// The secret of one run of a mirror.
pub(super) struct Signer([u8; 32]);

impl Signer {
    pub(super) fn new() -> Result<Self> {
        let source = "/dev/urandom";
        let mut secret = [0; 32];
        let mut random = File::open(source).map_err(Error::io("open", source))?;
        random.read_exact(&mut secret).map_err(Error::io("read", source))?;
        Ok(Self(secret))
    }

    /// The query that makes `path` good for an hour.
    pub(super) fn query(&self, path: &str) -> String {
        let expires = now() + LIFETIME;
        format!("Expires={expires}&Signature={}", self.sign(path, expires))
    }

    /// Whether `expires` and `signature` were made for `path` and the time has not come.
    pub(super) fn accepts(&self, path: &str, expires: &str, signature: &str) -> bool {
        let Ok(expires) = expires.parse::<u64>() else { return false };
        expires >= now() && same(self.sign(path, expires).to_string().as_bytes(), signature.as_bytes())
    }

    /// HMAC-SHA-256 (RFC 2104) over path and time.
    fn sign(&self, path: &str, expires: u64) -> Digest {
        let keyed = |pad: u8| {
            let mut block = [pad; 64];
            for (byte, secret) in block.iter_mut().zip(self.0) {
                *byte ^= secret;
            }
            Sha256::new().chain_update(block)
        };
        let inner = keyed(0x36).chain_update(format!("{expires}\n{path}")).finalize();
        Digest::Sha256(keyed(0x5c).chain_update(inner).finalize().into())
    }
}

/// Compares without telling by its duration where two secrets differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (x, y)| differs | (x ^ y)) == 0
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
