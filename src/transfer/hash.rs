//! Digests computed piece by piece.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::model::{Algorithm, Digest};

/// Computes the digest of a file's bytes as they come, in order.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    /// Begins the digest of a file of `size` bytes (git's form hashes the size first).
    #[must_use]
    pub fn new(algorithm: Algorithm, size: u64) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::GitSha1 => {
                let mut state = Sha1::new();
                state.update(format!("blob {size}\0"));
                State::GitSha1(state)
            }
        })
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::GitSha1(state) => state.update(bytes),
        }
    }

    /// The digest of everything so far.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
            State::GitSha1(state) => Digest::GitSha1(state.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_digests_are_those_of_the_usual_programs() {
        let digest = |algorithm, pieces: &[&str]| {
            let size = pieces.iter().map(|piece| piece.len() as u64).sum();
            let mut hasher = Hasher::new(algorithm, size);
            pieces.iter().for_each(|piece| hasher.update(piece.as_bytes()));
            hasher.finish().to_string()
        };
        // `sha256sum` and `git hash-object`.
        assert_eq!(
            digest(Algorithm::Sha256, &["hel", "lo\n"]),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(digest(Algorithm::GitSha1, &["hel", "lo\n"]), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(digest(Algorithm::GitSha1, &[]), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }
}
