//! A store whose objects lie sealed in another one.
#![deny(clippy::indexing_slicing)]

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::os::Host;
use crate::repository::crypt::FOLDER;
use crate::repository::crypt::cipher::{
    CHUNK_BYTES, HEADER_BYTES, HEADER_LEN, Header, HeaderFault, Layout, OBJECT_VERSION,
    ObjectCipher, SEALED_CHUNK_BYTES, SEALED_CHUNK_LEN,
};
use crate::repository::crypt::keeper::FreshRing;
use crate::repository::crypt::name::NameCipher;
use crate::repository::crypt::ring::{self, KeyRing};
use crate::repository::crypt::unlock::Unlock;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log;
use crate::repository::store::{LineLock, MarksLock, ObjectName, Put, Store, WriterLock};

/// Chunks that are read at once.
const BATCH_CHUNKS: u64 = 64;
/// Behind the name of what nobody with the key has put there: no name of an object has it.
const FOREIGN: char = '~';

/// How an object is put under the name that it is stored by.
type PutAs<'a> = &'a dyn Fn(&str, &[&[u8]]) -> Result<()>;

/// See the head of the file. Objects of a name of one part, and those in `keys/`, are not sealed.
pub(in crate::repository) struct SealedStore {
    inner: Arc<dyn Store>,
    host: Host,
    ring: KeyRing,
    names: NameCipher,
    /// What the ring was read from.
    ring_read: Digest,
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl SealedStore {
    /// What `inner` keeps of `repository`, opened with `unlock`.
    ///
    /// Errors: as for [`KeyRing::read`].
    pub(in crate::repository) fn open(
        host: &Host,
        inner: Arc<dyn Store>,
        repository: [u8; 16],
        unlock: &Unlock,
    ) -> Result<Self> {
        let (ring, read) = KeyRing::read(inner.as_ref(), repository, unlock)?;
        Ok(Self::fresh(host, inner, FreshRing { ring, read }))
    }

    /// What `inner` keeps, of which `ring` is the ring.
    pub(in crate::repository) fn fresh(
        host: &Host,
        inner: Arc<dyn Store>,
        FreshRing { ring, read }: FreshRing,
    ) -> Self {
        Self {
            inner,
            host: host.clone(),
            names: ring.name_cipher(),
            ring,
            ring_read: read,
        }
    }

    fn sealed_lock<L>(&self, inner: L) -> SealedLock<L> {
        SealedLock {
            _inner: inner,
            store: self.inner.clone(),
            ring_read: self.ring_read,
        }
    }

    /// What `name` is called in the inner store. Errors: `Io` of a name that is too long.
    fn stored_name<'a>(&self, name: &'a ObjectName) -> Result<Cow<'a, str>> {
        let Some((folder, last)) = name.split_once('/') else {
            return Ok(Cow::Borrowed(name));
        };
        if folder == FOLDER {
            return Ok(Cow::Borrowed(name));
        }
        let sealed = self.names.seal(folder, last).ok_or_else(|| {
            RepositoryError::io("name", name)(std::io::ErrorKind::InvalidInput.into())
        })?;
        Ok(Cow::Owned(format!("{folder}/{sealed}")))
    }

    fn put_sealed(&self, name: &ObjectName, parts: &[&[u8]], put: PutAs<'_>) -> Result<()> {
        let stored = self.stored_name(name)?;
        let done = match &stored {
            Cow::Borrowed(name) => put(name, parts),
            Cow::Owned(stored) => put(stored, &[&self.ring.seal(&self.host, name, parts)?]),
        };
        done.map_err(of(name))
    }

    /// Reads the header of an object. Errors: `Version`, `Damaged`, and those of reading.
    fn cipher(&self, name: &ObjectName, stored: &str) -> Result<ObjectCipher> {
        let mut header = [0; HEADER_LEN];
        let read = self.inner.read_at(stored, 0, &mut header);
        read.map_err(of(name))?;
        let header = Header::decode(&header).map_err(|fault| match fault {
            HeaderFault::Version(found) => RepositoryError::Version {
                object: format!("the encryption of {name}"),
                found,
                known: OBJECT_VERSION,
            },
            HeaderFault::Wrong(what) => damaged(name, what),
        })?;
        if let Some(cipher) = self.ring.cipher(&header, name) {
            return Ok(cipher);
        }
        // Somebody may have rotated the keys since the ring was read.
        ring::confirm(self.inner.as_ref(), &self.ring_read)?;
        let what = "it is encrypted with a key that is not in the ring";
        Err(damaged(name, what))
    }

    fn layout(&self, name: &ObjectName, stored: &str) -> Result<Layout> {
        let bytes = self.inner.size(stored).map_err(of(name))?;
        let layout = Layout::of_stored(bytes);
        layout.ok_or_else(|| damaged(name, "no encrypted object has its size"))
    }

    /// Fills `out` from `offset` on, which is in the object, chunk by chunk.
    ///
    /// A range without bytes has the chunk at `offset` checked.
    fn open_range(
        &self,
        name: &ObjectName,
        stored: &str,
        layout: Layout,
        offset: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let cipher = self.cipher(name, stored)?;
        let end = offset + out.len() as u64;
        let last = layout.chunks - 1;
        let mut next = (offset / CHUNK_BYTES).min(last);
        let stop = (end.max(1) - 1).max(offset) / CHUNK_BYTES;
        let stop = stop.min(last) + 1;
        let mut left = out;
        let mut sealed = Vec::new();
        while next < stop {
            let count = (stop - next).min(BATCH_CHUNKS);
            let start = HEADER_BYTES + next * SEALED_CHUNK_BYTES;
            let upto = HEADER_BYTES + (next + count) * SEALED_CHUNK_BYTES;
            let bytes = upto.min(layout.stored_bytes()) - start;
            sealed.resize(usize::try_from(bytes).unwrap_or(0), 0);
            let read = self.inner.read_at(stored, start, &mut sealed);
            read.map_err(of(name))?;
            for (index, chunk) in (next..).zip(sealed.chunks_mut(SEALED_CHUNK_LEN)) {
                let plain = cipher.open_chunk(index, index == last, chunk);
                let plain = plain.ok_or_else(|| damaged(name, "a chunk of it is not authentic"))?;
                let skipped = offset.saturating_sub(index * CHUNK_BYTES);
                let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
                let wanted = plain.get(skipped..).unwrap_or_default();
                let count = wanted.len().min(left.len());
                let (into, rest) = left.split_at_mut(count);
                into.copy_from_slice(wanted.get(..count).unwrap_or_default());
                left = rest;
            }
            next += count;
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(damaged(name, "it ends before its size says")),
        }
    }
}

/// For `map_err`: an error of the inner store, told with the name that the object has for us.
fn of(name: &str) -> impl FnOnce(RepositoryError) -> RepositoryError {
    let object = name.to_owned();
    move |error| match error {
        RepositoryError::Missing { .. } => RepositoryError::Missing { object },
        RepositoryError::Exists { .. } => RepositoryError::Exists { object },
        RepositoryError::Cut { bytes, needed, .. } => RepositoryError::Cut {
            object,
            bytes,
            needed,
        },
        RepositoryError::Damaged { what, .. } => RepositoryError::Damaged { object, what },
        // People look for the file that the system has refused.
        RepositoryError::Io {
            op,
            object: stored,
            source,
        } if stored != object => RepositoryError::Io {
            op,
            object: format!("{object}, stored as {stored}"),
            source,
        },
        error => error,
    }
}

fn damaged(name: &ObjectName, what: &'static str) -> RepositoryError {
    let object = name.to_owned();
    RepositoryError::Damaged { object, what }
}

/// A lock of the inner store, whose holder is asked whether he still has the ring that is there (CR4).
#[derive(Debug)]
struct SealedLock<L> {
    _inner: L,
    store: Arc<dyn Store>,
    ring_read: Digest,
}

impl<L> SealedLock<L> {
    fn confirm_ring(&self) -> Result<()> {
        ring::confirm(self.store.as_ref(), &self.ring_read)
    }
}

impl LineLock for SealedLock<Box<dyn LineLock>> {
    fn confirm(&self) -> Result<()> {
        self.confirm_ring()
    }
}

impl MarksLock for SealedLock<Box<dyn MarksLock>> {
    fn confirm(&self) -> Result<()> {
        self.confirm_ring()
    }
}

impl Store for SealedStore {
    fn put(&self, name: &ObjectName, parts: &[&[u8]], put: Put) -> Result<()> {
        self.put_sealed(name, parts, &|stored, parts| {
            self.inner.put(stored, parts, put)
        })
    }

    fn put_slowly(
        &self,
        name: &ObjectName,
        parts: &[&[u8]],
        put: Put,
        rest: &dyn Fn(),
    ) -> Result<()> {
        self.put_sealed(name, parts, &|stored, parts| {
            self.inner.put_slowly(stored, parts, put, rest)
        })
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn read_at(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<()> {
        let stored = match self.stored_name(name)? {
            Cow::Borrowed(name) => return self.inner.read_at(name, offset, out),
            Cow::Owned(stored) => stored,
        };
        let layout = self.layout(name, &stored)?;
        let needed = offset.saturating_add(out.len() as u64);
        if needed > layout.bytes {
            return Err(RepositoryError::Cut {
                object: name.to_owned(),
                bytes: layout.bytes,
                needed,
            });
        }
        self.open_range(name, &stored, layout, offset, out)
    }

    fn read_afresh(&self, name: &ObjectName) {
        if let Ok(stored) = self.stored_name(name) {
            self.inner.read_afresh(&stored);
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64> {
        let stored = self.stored_name(name)?;
        match &stored {
            Cow::Borrowed(name) => self.inner.size(name),
            Cow::Owned(stored) => self.layout(name, stored).map(|layout| layout.bytes),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = self.inner.list(folder)?;
        if folder.is_empty() || folder == FOLDER {
            return Ok(names);
        }
        for name in &mut names {
            let opened = self.names.open(folder, name);
            *name = opened.unwrap_or_else(|| format!("{name}{FOREIGN}"));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        let stored = self.stored_name(name)?;
        self.inner.remove(&stored).map_err(of(name))
    }

    /// With the ring that is there, and no older one (CR4).
    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        let lock = self.inner.lock()?;
        ring::confirm(self.inner.as_ref(), &self.ring_read)?;
        Ok(lock)
    }

    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        let lock = self.inner.lock_marks()?;
        Ok(Box::new(self.sealed_lock(lock)))
    }

    /// With the ring that is there, and no older one (CR4). The line names a database, so its lock has the
    /// name that an object of the log would have.
    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        let object = format!("{}/{line}", log::FOLDER);
        let stored = self.stored_name(&object)?;
        let sealed = stored
            .split_once('/')
            .map_or(&*stored, |(_, sealed)| sealed);
        let lock = self.sealed_lock(self.inner.lock_line(sealed)?);
        LineLock::confirm(&lock)?;
        Ok(Box::new(lock))
    }

    fn reads_at_once(&self) -> usize {
        self.inner.reads_at_once()
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}
