//! Which content the repository has, and where.
//!
//! ```text
//! number   0 .. known    the slots of the packs that were found, pack after pack: a number is a place
//!          known ..      what was claimed since; its place is known when its pack is filled
//! digests  number -> digest          table   digest -> number
//! ```
//!
//! Memory: 32 bytes of digest and 6 to 11 of table for each stored unit, and 8 more for each new one.

use std::collections::HashMap;

use hashbrown::HashTable;

use crate::repository::catalog::Repository;
use crate::repository::damage::Damage;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::{PackDirectory, PackId};
use crate::repository::progress::Control;

/// Number of a piece of content in a [`BlobIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::repository) struct BlobNo(u32);

impl BlobNo {
    /// Nothing is known of this unit.
    pub(in crate::repository) const UNKNOWN: Self = Self(u32::MAX);
    /// A unit of nothing but zeros, which no pack holds.
    pub(in crate::repository) const ZEROS: Self = Self(u32::MAX - 1);
}

/// More units than this are not numbered.
const NUMBER_MAX: u32 = u32::MAX - 2;
/// In place of the digest of a slot that was emptied, or is damaged.
const EMPTIED: Digest = Digest([0; 32]);

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::repository) enum Claim {
    /// It is stored, or whoever claimed it first stores it.
    Known(BlobNo),
    /// Whoever claimed it stores it.
    New(BlobNo),
}

/// Where a new piece of content is.
#[derive(Clone, Copy, Debug)]
struct Place {
    pack: u32,
    slot: u32,
}

const NO_PLACE: Place = Place {
    pack: u32::MAX,
    slot: 0,
};

/// See the head of the file.
#[derive(Debug, Default)]
pub(in crate::repository) struct BlobIndex {
    digests: Vec<Digest>,
    table: HashTable<u32>,
    packs: Vec<PackId>,
    pack_numbers: HashMap<PackId, u32>,
    /// Of each pack that was found, its first number.
    starts: Vec<u32>,
    known: u32,
    /// Of each number from `known` on.
    places: Vec<Place>,
}

impl BlobIndex {
    /// Reads the directories of all packs. A pack whose directory cannot be read or trusted counts as not
    /// there, and so does what a verification could not read of one: it is stored once more.
    ///
    /// Errors: `Io` of the listing, `Cancelled`; `Store`, of which nothing follows.
    pub(in crate::repository) fn load(repository: &Repository, control: &Control) -> Result<Self> {
        let store = &**repository.store();
        let mut index = Self::default();
        let names = store.list("packs")?;
        let ids = names
            .iter()
            .filter_map(|name| super::super::hex::decode(name));
        let ids: Vec<PackId> = ids.map(PackId).collect();
        for ids in ids.chunks(store.reads_at_once().max(1)) {
            control.refuse_if_cancelled()?;
            for read in read_all(repository, ids) {
                if let Some((directory, damage)) = read? {
                    index.add_directory(&directory, &damage)?;
                }
            }
        }
        Ok(index)
    }

    fn add_directory(&mut self, directory: &PackDirectory, damage: &Damage) -> Result<()> {
        let first = self.next_number(directory.slots.len())?;
        self.add_pack(directory.id);
        self.starts.push(first);
        self.digests.reserve(directory.slots.len());
        let mut damaged = damage.ranges().iter().cloned().peekable();
        for (number, slot) in (0..).zip(&directory.slots) {
            while damaged.next_if(|range| range.end <= number).is_some() {}
            let is_damaged = damaged.peek().is_some_and(|range| range.contains(&number));
            match slot.bytes == 0 || is_damaged {
                true => self.digests.push(EMPTIED),
                false => self.push(slot.digest),
            }
        }
        self.known = self.next_number(0)?;
        Ok(())
    }

    /// The next number, if so many can still be had.
    fn next_number(&self, count: usize) -> Result<u32> {
        let next = self.digests.len().checked_add(count);
        match next.and_then(|next| u32::try_from(next).ok()) {
            Some(next) if next <= NUMBER_MAX => Ok(next - u32::try_from(count).unwrap_or(0)),
            _ => Err(RepositoryError::Io {
                op: "number the units of",
                object: "the repository".to_owned(),
                source: std::io::ErrorKind::FileTooLarge.into(),
            }),
        }
    }

    /// Appends a digest, and enters it in the table if it is the first of its kind.
    fn push(&mut self, digest: Digest) {
        let number = u32::try_from(self.digests.len()).unwrap_or(NUMBER_MAX);
        self.digests.push(digest);
        if self.number_of(&digest).is_none() {
            let digests = &self.digests;
            let hash_of_number = |number: &u32| hash_of(&digest_at(digests, *number));
            self.table
                .insert_unique(hash_of(&digest), number, hash_of_number);
        }
    }

    fn number_of(&self, digest: &Digest) -> Option<u32> {
        let is_same = |number: &u32| digest_at(&self.digests, *number) == *digest;
        self.table.find(hash_of(digest), is_same).copied()
    }

    /// Makes room for `count` claims, so that none of them waits for the index to grow.
    pub(super) fn reserve(&mut self, count: u64) {
        let count = usize::try_from(count.min(u64::from(NUMBER_MAX))).unwrap_or(0);
        self.digests.reserve(count);
        self.places.reserve(count);
        let digests = &self.digests;
        self.table
            .reserve(count, |number| hash_of(&digest_at(digests, *number)));
    }

    /// Adds a pack that is about to be filled and returns its number.
    pub(super) fn add_pack(&mut self, id: PackId) -> u32 {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(id);
        self.pack_numbers.insert(id, number);
        number
    }

    /// Whether somebody has `digest`; if nobody, the caller stores it.
    ///
    /// Errors: `Io` if there are too many units to number.
    pub(super) fn claim(&mut self, digest: Digest) -> Result<Claim> {
        if let Some(number) = self.number_of(&digest) {
            return Ok(Claim::Known(BlobNo(number)));
        }
        let number = self.next_number(1)?;
        self.push(digest);
        self.places.push(NO_PLACE);
        Ok(Claim::New(BlobNo(number)))
    }

    /// Says that `blobs`, new ones, are in the slots of pack `pack` from `first_slot` on.
    pub(super) fn place(&mut self, blobs: &[BlobNo], pack: u32, first_slot: u32) {
        for (slot, blob) in (first_slot..).zip(blobs) {
            let at = blob.0.checked_sub(self.known);
            let at = at.and_then(|at| self.places.get_mut(at as usize));
            *at.expect("only what was claimed is placed") = Place { pack, slot };
        }
    }

    /// Where it is: the number of its pack, and its slot. `None` for what has no place.
    pub(super) fn place_of(&self, blob: BlobNo) -> Option<(u32, u32)> {
        if blob.0 < self.known {
            let pack = self.starts.partition_point(|first| *first <= blob.0) - 1;
            return Some((u32::try_from(pack).ok()?, blob.0 - self.starts[pack]));
        }
        let place = *self.places.get((blob.0 - self.known) as usize)?;
        (place.pack != NO_PLACE.pack).then_some((place.pack, place.slot))
    }

    /// The digest of a piece of content that has a number.
    pub(super) fn digest(&self, blob: BlobNo) -> Option<Digest> {
        self.digests.get(blob.0 as usize).copied()
    }

    /// The name of a pack by its number.
    pub(super) fn pack(&self, number: u32) -> Option<PackId> {
        self.packs.get(number as usize).copied()
    }

    /// The content of each of `count` slots from `slot` on of a pack that was found; `UNKNOWN` for what
    /// is not there any more.
    pub(super) fn slots(
        &self,
        pack: PackId,
        slot: u32,
        count: u32,
    ) -> impl Iterator<Item = BlobNo> {
        let range = self.range_of(pack).unwrap_or(0..0);
        (0..count).map(move |step| {
            let number = range.start.checked_add(slot);
            let number = number.and_then(|number| number.checked_add(step));
            match number.filter(|number| range.contains(number)) {
                Some(number) if digest_at(&self.digests, number) != EMPTIED => BlobNo(number),
                _ => BlobNo::UNKNOWN,
            }
        })
    }

    fn range_of(&self, pack: PackId) -> Option<std::ops::Range<u32>> {
        let number = *self.pack_numbers.get(&pack)? as usize;
        let first = *self.starts.get(number)?;
        let end = self.starts.get(number + 1).copied().unwrap_or(self.known);
        Some(first..end)
    }

    /// Where content of this digest is.
    pub(in crate::repository) fn get(&self, digest: &Digest) -> Option<(PackId, u32)> {
        let (pack, slot) = self.place_of(BlobNo(self.number_of(digest)?))?;
        Some((self.pack(pack)?, slot))
    }

    /// Says that content of this digest is in slot `slot` of `pack`; the first place of a content counts.
    ///
    /// Errors: `Io` if there are too many units to number.
    pub(in crate::repository) fn insert(
        &mut self,
        digest: Digest,
        pack: PackId,
        slot: u32,
    ) -> Result<()> {
        if let Claim::New(blob) = self.claim(digest)? {
            let known = self.pack_numbers.get(&pack).copied();
            let pack = known.unwrap_or_else(|| self.add_pack(pack));
            self.place(&[blob], pack, slot);
        }
        Ok(())
    }
}

fn digest_at(digests: &[Digest], number: u32) -> Digest {
    digests.get(number as usize).copied().unwrap_or(EMPTIED)
}

/// The directories of `ids`, in their order, all read at the same time.
fn read_all(
    repository: &Repository,
    ids: &[PackId],
) -> Vec<Result<Option<(PackDirectory, Damage)>>> {
    match ids {
        [id] => vec![read_one(repository, *id)],
        ids => std::thread::scope(|scope| {
            let read = |id: &PackId| {
                let id = *id;
                scope.spawn(move || read_one(repository, id))
            };
            let reads: Vec<_> = ids.iter().map(read).collect();
            let ended = |read: std::thread::ScopedJoinHandle<'_, _>| {
                read.join().unwrap_or(Err(RepositoryError::WorkerLost))
            };
            reads.into_iter().map(ended).collect()
        }),
    }
}

/// What is in the pack `id`, and what of that cannot be read; nothing if it counts as not there.
///
/// Errors: `Store`, of which nothing follows.
fn read_one(repository: &Repository, id: PackId) -> Result<Option<(PackDirectory, Damage)>> {
    let store = &**repository.store();
    let directory = match PackDirectory::read(store, repository.id(), id) {
        Ok(directory) => directory,
        Err(error @ (RepositoryError::Cancelled | RepositoryError::Store { .. })) => {
            return Err(error);
        }
        Err(error) => {
            tracing::warn!(%error, "the pack counts as not there");
            return Ok(None);
        }
    };
    let damage = match Damage::read(store, id) {
        Ok(damage) => damage,
        Err(error @ RepositoryError::Store { .. }) => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "all of the pack counts as damaged");
            Damage::whole()
        }
    };
    Ok(Some((directory, damage)))
}

/// A digest is random enough to be its own hash.
fn hash_of(digest: &Digest) -> u64 {
    crate::codec::get_u64(&digest.0, 0).unwrap_or_default()
}
