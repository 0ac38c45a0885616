//! Manifests on their way in: nothing that a file says is believed.

#![deny(clippy::indexing_slicing)]

use super::{
    BODY_BYTES_MAX, BackupFacts, CRC_BYTES, Entry, EntryContent, Extent, FACTS_BYTES_MAX,
    FileContent, FileVersion, HEAD_BYTES, MAGIC, MANIFEST_VERSION, Manifest,
};
use crate::codec::{get_array, get_u32, get_u64};
use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::repository::backup_id::BackupId;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::PackId;
use crate::repository::store::Store;

/// Bytes of the shortest entry: kind, empty path, mode, owner, group, time.
const ENTRY_BYTES_MIN: usize = 13;
/// Bytes of the shortest extent: units, zeros.
const EXTENT_BYTES_MIN: usize = 2;
/// `facts` reads so much at first; most heads fit.
const FIRST_READ_BYTES: u64 = 8 << 10;

/// What is wrong with a manifest.
type Fault = &'static str;

fn damaged(object: &str) -> impl Fn(Fault) -> RepositoryError {
    move |what| RepositoryError::Damaged {
        object: object.to_owned(),
        what,
    }
}

/// What the first bytes say.
struct Head {
    facts_bytes: usize,
    crc: u32,
    body_bytes: u64,
}

impl Head {
    /// Errors: `Version`, `Damaged`.
    fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = damaged(object);
        if get_array(bytes, 0) != Some(MAGIC) {
            return Err(damaged("it does not begin as a manifest"));
        }
        let found = get_u32(bytes, 8).ok_or_else(|| damaged("it is too short"))?;
        if found > MANIFEST_VERSION {
            return Err(RepositoryError::Version {
                object: object.to_owned(),
                found,
                known: MANIFEST_VERSION,
            });
        }
        let fields = || {
            let facts_bytes = get_u32(bytes, 16).filter(|bytes| *bytes <= FACTS_BYTES_MAX)?;
            Some(Self {
                facts_bytes: usize::try_from(facts_bytes).ok()?,
                crc: get_u32(bytes, 20)?,
                body_bytes: get_u64(bytes, 24).filter(|bytes| *bytes <= BODY_BYTES_MAX)?,
            })
        };
        let head = fields().filter(|_| found > 0);
        head.ok_or_else(|| damaged("its parts have impossible sizes"))
    }

    fn object_bytes(&self) -> u64 {
        (HEAD_BYTES + self.facts_bytes + CRC_BYTES) as u64 + self.body_bytes
    }

    /// The facts out of `bytes`, which begin with the head and have all of them.
    fn facts(&self, object: &str, bytes: &[u8]) -> Result<BackupFacts> {
        let damaged = damaged(object);
        let facts = HEAD_BYTES.checked_add(self.facts_bytes);
        let facts = facts.and_then(|end| bytes.get(HEAD_BYTES..end));
        let facts = facts.ok_or_else(|| damaged("it is too short"))?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes.get(..20).unwrap_or_default());
        hasher.update(facts);
        if hasher.finalize() != self.crc {
            return Err(damaged("the checksum of its facts is wrong"));
        }
        let facts: BackupFacts =
            serde_json::from_slice(facts).map_err(|_| damaged("a fact is missing or wrong"))?;
        let name = object.strip_prefix("backups/");
        if name.is_some_and(|name| name != facts.id.as_str()) {
            return Err(damaged("it is the manifest of another backup"));
        }
        Ok(facts)
    }
}

impl BackupFacts {
    /// The facts of the backup `id`, without the body of its manifest.
    ///
    /// Errors: `Missing`, `Cut`, `Version`, `Damaged`, `Io`.
    pub(in crate::repository) fn read(store: &dyn Store, id: &BackupId) -> Result<Self> {
        let object = Manifest::object(id);
        let object_bytes = store.size(&object)?;
        let first = usize::try_from(object_bytes.min(FIRST_READ_BYTES)).unwrap_or_default();
        let mut bytes = vec![0; first];
        store.read_at(&object, 0, &mut bytes)?;
        let head = Head::decode(&object, &bytes)?;
        require_size(&object, object_bytes, &head)?;
        let whole = HEAD_BYTES + head.facts_bytes;
        if whole > first {
            bytes.resize(whole, 0);
            let rest = bytes.get_mut(first..).unwrap_or_default();
            store.read_at(&object, first as u64, rest)?;
        }
        head.facts(&object, &bytes)
    }
}

fn require_size(object: &str, bytes: u64, head: &Head) -> Result<()> {
    let needed = head.object_bytes();
    if bytes < needed {
        return Err(RepositoryError::Cut {
            object: object.to_owned(),
            bytes,
            needed,
        });
    }
    match bytes == needed {
        true => Ok(()),
        false => Err(damaged(object)("something follows its end")),
    }
}

impl Manifest {
    /// The whole manifest of the backup `id`. Errors: `Missing`, `Cut`, `Version`, `Damaged`, `Io`.
    pub(in crate::repository) fn read(store: &dyn Store, id: &BackupId) -> Result<Self> {
        let object = Self::object(id);
        let object_bytes = store.size(&object)?;
        let mut head = [0; HEAD_BYTES];
        store.read_at(&object, 0, &mut head)?;
        require_size(&object, object_bytes, &Head::decode(&object, &head)?)?;
        let mut bytes = Vec::new();
        let size = usize::try_from(object_bytes).unwrap_or(usize::MAX);
        let reserved = bytes.try_reserve_exact(size);
        reserved.map_err(|_| {
            let error = std::io::ErrorKind::OutOfMemory.into();
            RepositoryError::io("take memory for", &object)(error)
        })?;
        bytes.resize(size, 0);
        store.read_at(&object, 0, &mut bytes)?;
        Self::decode(&object, &bytes)
    }

    /// Decodes and checks all of a manifest: what it names lies within what it says. As an object of
    /// `backups/` it must have the name of its backup.
    ///
    /// Errors: `Version`, `Cut`, `Damaged` with `object` as the name.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = damaged(object);
        let head = Head::decode(object, bytes)?;
        require_size(object, bytes.len() as u64, &head)?;
        let facts = head.facts(object, bytes)?;
        let (all, crc) = bytes
            .split_last_chunk::<CRC_BYTES>()
            .ok_or_else(|| damaged("it is too short"))?;
        if crc32fast::hash(all) != u32::from_le_bytes(*crc) {
            return Err(damaged("its checksum is wrong"));
        }
        let body = all.get(HEAD_BYTES + head.facts_bytes..);
        let mut body = Body(body.unwrap_or_default());
        let packs = body
            .packs()
            .ok_or_else(|| damaged("its packs are cut short"))?;
        let entries = body.entries();
        let entries = entries.ok_or_else(|| damaged("an entry is cut short or wrong"))?;
        if !body.0.is_empty() {
            return Err(damaged("something follows its entries"));
        }
        let manifest = Self {
            facts,
            packs,
            entries,
        };
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }
}

/// The rest of a body. Every method gives `None` where it is too short or says what cannot be.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A number as short as it can be, so that a manifest has one form only.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    fn u32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// How many of something follow, of which each has at least `bytes_min` bytes.
    fn count(&mut self, bytes_min: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len() / bytes_min).then_some(count)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let count = self.count(1)?;
        self.take(count).map(<[u8]>::to_vec)
    }

    fn packs(&mut self) -> Option<Vec<PackId>> {
        let count = self.count(16)?;
        (0..count).map(|_| self.array().map(PackId)).collect()
    }

    fn entries(&mut self) -> Option<Vec<Entry>> {
        let count = self.count(ENTRY_BYTES_MIN)?;
        (0..count).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Option<Entry> {
        let [kind] = self.array()?;
        let path = self.bytes()?;
        let mode = self.number()?.try_into().ok()?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let mtime_ns = i64::from_le_bytes(self.array()?);
        let content = match kind {
            1 => EntryContent::Directory,
            2 => EntryContent::File(self.file()?),
            3 => EntryContent::Link(self.bytes()?),
            4 => EntryContent::HardLink(self.bytes()?),
            _ => return None,
        };
        Some(Entry {
            path,
            mode,
            uid,
            gid,
            mtime_ns,
            content,
        })
    }

    fn file(&mut self) -> Option<FileContent> {
        let bytes = self.number()?;
        let unit_bytes = self.u32()?;
        let digest = Digest(self.array()?);
        let version = match self.array()? {
            [0] => None,
            [1] => Some(FileVersion {
                database: DatabaseId(self.array()?),
                history: HistoryId(self.array()?),
                lsn: Lsn(u64::from_le_bytes(self.array()?)),
            }),
            _ => return None,
        };
        let count = self.count(EXTENT_BYTES_MIN)?;
        let extents: Option<_> = (0..count).map(|_| self.extent()).collect();
        Some(FileContent {
            bytes,
            unit_bytes,
            digest,
            extents: extents?,
            version,
        })
    }

    fn extent(&mut self) -> Option<Extent> {
        let count = self.u32()?;
        let (pack, slot) = match self.number()?.checked_sub(1) {
            None => (Extent::ZEROS, 0),
            // The largest number stands for zeros, which are written as 0.
            Some(pack) if pack >= u64::from(Extent::ZEROS) => return None,
            Some(pack) => (pack.try_into().ok()?, self.u32()?),
        };
        Some(Extent { count, pack, slot })
    }
}
