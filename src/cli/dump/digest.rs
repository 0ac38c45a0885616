//! One number for the content of a database. See the head of `dump`.

use sha2::{Digest, Sha256};

/// What the digest of every dump of this version begins with.
const START: &[u8] = b"stillfs digest 1\n";
const TABLE: u8 = 1;
const ENTRY: u8 = 2;
const END: u8 = 0;
/// Small fields are gathered before they are hashed.
const GATHERED_BYTES: usize = 64 << 10;

/// Takes tables and entries in their order; gives the digest.
#[derive(Debug)]
pub(super) struct ContentDigest {
    hash: Sha256,
    gathered: Vec<u8>,
}

impl ContentDigest {
    pub(super) fn new() -> Self {
        let mut gathered = Vec::with_capacity(2 * GATHERED_BYTES);
        gathered.extend_from_slice(START);
        Self {
            hash: Sha256::new(),
            gathered,
        }
    }

    pub(super) fn table(&mut self, name: &str) {
        self.gathered.push(TABLE);
        self.field(name.as_bytes());
    }

    pub(super) fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.gathered.push(ENTRY);
        self.field(key);
        self.field(value);
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = bytes.len() as u64;
        self.gathered.extend_from_slice(&length.to_le_bytes());
        if bytes.len() < GATHERED_BYTES {
            self.gathered.extend_from_slice(bytes);
            if self.gathered.len() >= GATHERED_BYTES {
                self.hash_gathered();
            }
        } else {
            self.hash_gathered();
            self.hash.update(bytes);
        }
    }

    fn hash_gathered(&mut self) {
        self.hash.update(&self.gathered);
        self.gathered.clear();
    }

    /// The digest in 64 hexadecimal digits.
    pub(super) fn finish(mut self) -> String {
        self.gathered.push(END);
        self.hash_gathered();
        let digest = self.hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries<'a> = &'a [(&'a [u8], &'a [u8])];

    fn digest(tables: &[(&str, Entries<'_>)]) -> String {
        let mut digest = ContentDigest::new();
        for (name, entries) in tables {
            digest.table(name);
            for (key, value) in *entries {
                digest.entry(key, value);
            }
        }
        digest.finish()
    }

    /// The documented form, written out by hand: scripts compare digests of different versions.
    #[test]
    fn digest_is_that_of_the_documented_bytes() {
        let bytes = b"stillfs digest 1\n\
            \x01\x01\0\0\0\0\0\0\0t\
            \x02\x01\0\0\0\0\0\0\0k\x02\0\0\0\0\0\0\0vw\
            \0";
        let expected: String = Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(digest(&[("t", &[(b"k", b"vw")])]), expected);
    }

    #[test]
    fn contents_that_differ_only_in_their_borders_differ() {
        let all = [
            digest(&[]),
            digest(&[("a", &[])]),
            digest(&[("a", &[]), ("b", &[])]),
            digest(&[("ab", &[])]),
            digest(&[("a", &[(b"b", b"")])]),
            digest(&[("a", &[(b"", b"b")])]),
            digest(&[("a", &[(b"b", b"cd")])]),
            digest(&[("a", &[(b"bc", b"d")])]),
            digest(&[("a", &[(b"b", b"c"), (b"d", b"")])]),
            digest(&[("a", &[(b"b", b"c")]), ("d", &[])]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    /// How fields are gathered must not show.
    #[test]
    fn long_fields_are_hashed_as_short_ones_are() {
        for bytes in [GATHERED_BYTES - 20, GATHERED_BYTES, 3 * GATHERED_BYTES] {
            let value = vec![7; bytes];
            let mut form = START.to_vec();
            form.extend_from_slice(b"\x01\x01\0\0\0\0\0\0\0t\x02\x01\0\0\0\0\0\0\0k");
            form.extend_from_slice(&(bytes as u64).to_le_bytes());
            form.extend_from_slice(&value);
            form.push(END);
            let expected: String = Sha256::digest(&form)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(digest(&[("t", &[(b"k", &value)])]), expected);
        }
    }
}
