//! Manifests on their way out, and the digest of a tree.

use super::{
    BODY_BYTES_MAX, Entry, EntryContent, Extent, FACTS_BYTES_MAX, FileContent, HEAD_BYTES, MAGIC,
    MANIFEST_VERSION, Manifest,
};
use crate::codec::put;
use crate::repository::digest::Digest;

impl Manifest {
    /// The object's bytes (docs/formats.md).
    ///
    /// What does not pass [`Manifest::check`] is encoded too, and cannot be decoded.
    ///
    /// # Panics
    /// If it is larger than any may be, which takes millions of things left out or billions of extents.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let facts = serde_json::to_vec(&self.facts).expect("plain fields can be written");
        let facts_bytes = u32::try_from(facts.len()).unwrap_or(u32::MAX);
        assert!(facts_bytes <= FACTS_BYTES_MAX, "too many facts of a backup");
        let mut out = vec![0; HEAD_BYTES];
        out.extend_from_slice(&facts);
        self.put_body(&mut out);
        let body_bytes = (out.len() - HEAD_BYTES - facts.len()) as u64;
        assert!(body_bytes <= BODY_BYTES_MAX, "too many extents of a backup");
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, &MANIFEST_VERSION.to_le_bytes());
        put(&mut out, 16, &facts_bytes.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&out[..20]);
        hasher.update(&facts);
        put(&mut out, 20, &hasher.finalize().to_le_bytes());
        put(&mut out, 24, &body_bytes.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        put_number(out, self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(&pack.0);
        }
        put_number(out, self.entries.len() as u64);
        for entry in &self.entries {
            out.push(entry.content.code());
            put_bytes(out, &entry.path);
            put_number(out, u64::from(entry.mode));
            put_number(out, u64::from(entry.uid));
            put_number(out, u64::from(entry.gid));
            out.extend(entry.mtime_ns.to_le_bytes());
            match &entry.content {
                EntryContent::Directory => {}
                EntryContent::File(file) => put_file(out, file),
                EntryContent::Link(bytes) | EntryContent::HardLink(bytes) => put_bytes(out, bytes),
            }
        }
    }

    /// The digest of `entries`: names, attributes, and the digests of all files.
    #[must_use]
    pub fn digest_of(entries: &[Entry]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillfs tree\0");
        let mut head = Vec::new();
        for entry in entries {
            head.clear();
            head.push(entry.content.code());
            put_bytes(&mut head, &entry.path);
            put_number(&mut head, u64::from(entry.mode));
            put_number(&mut head, u64::from(entry.uid));
            put_number(&mut head, u64::from(entry.gid));
            head.extend(entry.mtime_ns.to_le_bytes());
            match &entry.content {
                EntryContent::Directory => {}
                EntryContent::File(file) => {
                    put_number(&mut head, file.bytes);
                    head.extend_from_slice(&file.digest.0);
                }
                EntryContent::Link(bytes) | EntryContent::HardLink(bytes) => {
                    put_bytes(&mut head, bytes);
                }
            }
            hasher.update(&head);
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

impl EntryContent {
    fn code(&self) -> u8 {
        match self {
            Self::Directory => 1,
            Self::File(_) => 2,
            Self::Link(_) => 3,
            Self::HardLink(_) => 4,
        }
    }
}

fn put_file(out: &mut Vec<u8>, file: &FileContent) {
    put_number(out, file.bytes);
    put_number(out, u64::from(file.unit_bytes));
    out.extend_from_slice(&file.digest.0);
    out.push(u8::from(file.version.is_some()));
    if let Some(version) = &file.version {
        out.extend_from_slice(&version.database.0);
        out.extend_from_slice(&version.history.0);
        out.extend(version.lsn.0.to_le_bytes());
    }
    put_number(out, file.extents.len() as u64);
    for extent in &file.extents {
        put_number(out, u64::from(extent.count));
        if extent.pack == Extent::ZEROS {
            put_number(out, 0);
        } else {
            put_number(out, u64::from(extent.pack) + 1);
            put_number(out, u64::from(extent.slot));
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}
