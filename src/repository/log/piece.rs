//! One piece: records of one segment, whole, compressed as one.
//!
//! All numbers are little endian.
//!
//! ```text
//! offset size
//!      0    8  magic "SFSLOGP\x01"
//!      8    4  format version, 1
//!     12    4  form of the records: 1 plain, 2 zstd (frames, one after the other), 3 lz4
//!     16   16  repository id
//!     32    4  generation
//!     36    4  commits that end in it
//!     40    8  first LSN
//!     48    8  end LSN; the difference is the bytes of the records, at most 17 MiB
//!     56    8  bytes of the records as stored
//!     64   24  its first commit: timestamp, wall clock in nanoseconds since 1970, LSN of its end; or zeros
//!     88   24  its last commit, as well
//!    112   16  history whose commits this one goes on from; zeros = none, or not known
//!    128    8  LSN of the last of those commits
//!    136    8  when it was stored, nanoseconds since 1970
//!    144   32  digest of the records: BLAKE3
//!    176  512  header of the segment, as it is in `wal/`
//!    688    4  crc32 of the records as stored
//!    692    4  crc32 of bytes 0 .. 692
//!    696       the records as stored
//! ```
//!
//! The first record starts at the first LSN and the last ends at the end LSN; a commit may begin in one
//! piece and end in a later one of the same segment.

#![deny(clippy::indexing_slicing)]

use crate::codec;
use crate::engine::{CommitPoint, Fork, LogSegmentHeader, SEGMENT_HEADER_BYTES};
use crate::id::{Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::repository::catalog::Repository;
use crate::repository::compression::{compress_slowly, decompress};
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::leisure::{Leisure, WORK_BYTES};
use crate::repository::log::name::{Generation, LineId, LogName};
use crate::repository::pack::FrameForm;
use crate::repository::store::Put;

/// A piece is closed when one more record would make it longer.
pub(super) const PIECE_BYTES: u64 = 16 << 20;
/// No piece is longer, whatever it says: a record has less than 1 MiB.
pub(super) const PIECE_BYTES_MAX: u64 = 17 << 20;
/// Of Zstandard: records of a busy database got as small as with 3, in a third of the time.
const ZSTD_LEVEL: i32 = 1;
const MAGIC: [u8; 8] = *b"SFSLOGP\x01";
/// Newest version of the format.
pub(in crate::repository) const PIECE_VERSION: u32 = 1;
const SEGMENT_AT: usize = 176;
const STORED_CRC_AT: usize = SEGMENT_AT + SEGMENT_HEADER_BYTES;
const CRC_AT: usize = STORED_CRC_AT + 4;
const HEAD_BYTES: usize = CRC_AT + 4;

/// A commit in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitStamp {
    /// Its number; that of the next is one more.
    pub timestamp: Timestamp,
    /// Its wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
    /// The end of its records.
    pub lsn: Lsn,
}

impl CommitStamp {
    pub(super) fn of(point: &CommitPoint) -> Self {
        Self {
            timestamp: point.timestamp,
            wall_ns: point.wall_ns,
            lsn: point.lsn,
        }
    }
}

/// What the head of a piece says, checked; the records are not read for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceFacts {
    /// Whose log.
    pub line: LineId,
    /// Whose commits its history goes on from, where it is known.
    pub fork: Option<Fork>,
    /// Which incarnation.
    pub generation: Generation,
    /// Its epoch, as the segment's header has it.
    pub epoch: Epoch,
    /// Where the segment starts.
    pub segment_start: Lsn,
    /// Where its first record starts.
    pub first: Lsn,
    /// Where its last record ends.
    pub end: Lsn,
    /// The first commit whose end is in it.
    pub first_commit: Option<CommitStamp>,
    /// The last one.
    pub last_commit: Option<CommitStamp>,
    /// How many there are.
    pub commit_count: u32,
    /// When it was stored, nanoseconds since 1970.
    pub stored_ns: u64,
    /// Bytes of the records as stored.
    pub stored_bytes: u64,
    /// Digest of the records.
    pub digest: Digest,
    form: FrameForm,
    stored_crc: u32,
    segment: [u8; SEGMENT_HEADER_BYTES],
}

/// A piece, read and checked: it has the digest that its head names.
///
/// The records themselves (their checksums with the segment's salt, their LSNs) are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What its head says.
    pub facts: PieceFacts,
    /// The header of its segment, as it is in `wal/`.
    pub segment: [u8; SEGMENT_HEADER_BYTES],
    /// The records, exactly `end - first` bytes.
    pub records: Vec<u8>,
}

/// What becomes a piece: whole, checked records of one segment.
#[derive(Clone, Debug)]
pub(in crate::repository) struct Draft<'a> {
    pub(in crate::repository) line: LineId,
    pub(in crate::repository) fork: Option<Fork>,
    pub(in crate::repository) generation: Generation,
    pub(in crate::repository) segment: &'a [u8; SEGMENT_HEADER_BYTES],
    pub(in crate::repository) first: Lsn,
    pub(in crate::repository) commits: &'a [CommitStamp],
    pub(in crate::repository) records: &'a [u8],
}

/// Stores `draft`, at `leisure`; its name is not durable before [`Store::settle`]. Gives the facts of it.
///
/// Errors: `NoSpace`, `Io`.
pub(super) fn store_piece(
    repository: &Repository,
    draft: &Draft<'_>,
    leisure: &Leisure,
) -> Result<PieceFacts> {
    let rest = || leisure.computed();
    let (form, stored) = compress_slowly(draft.records, ZSTD_LEVEL, WORK_BYTES, &rest);
    let end = draft.first.0.saturating_add(draft.records.len() as u64);
    let digest = Digest::of(draft.records);
    let mut head = [0; HEAD_BYTES];
    let stamps = [draft.commits.first(), draft.commits.last()];
    let count = u32::try_from(draft.commits.len()).unwrap_or(u32::MAX);
    codec::put(&mut head, 0, &MAGIC);
    codec::put(&mut head, 8, &PIECE_VERSION.to_le_bytes());
    codec::put(&mut head, 12, &(form as u32).to_le_bytes());
    codec::put(&mut head, 16, &repository.id());
    codec::put(&mut head, 32, &draft.generation.0.to_le_bytes());
    codec::put(&mut head, 36, &count.to_le_bytes());
    codec::put(&mut head, 40, &draft.first.0.to_le_bytes());
    codec::put(&mut head, 48, &end.to_le_bytes());
    codec::put(&mut head, 56, &(stored.len() as u64).to_le_bytes());
    for (at, stamp) in [64, 88].into_iter().zip(stamps) {
        if let Some(stamp) = stamp {
            codec::put(&mut head, at, &stamp.timestamp.0.to_le_bytes());
            codec::put(&mut head, at + 8, &stamp.wall_ns.to_le_bytes());
            codec::put(&mut head, at + 16, &stamp.lsn.0.to_le_bytes());
        }
    }
    if let Some(fork) = &draft.fork {
        codec::put(&mut head, 112, &fork.history.0);
        codec::put(&mut head, 128, &fork.lsn.0.to_le_bytes());
    }
    let now = repository.host().clock.wall_ns();
    codec::put(&mut head, 136, &now.to_le_bytes());
    codec::put(&mut head, 144, &digest.0);
    codec::put(&mut head, SEGMENT_AT, draft.segment);
    let stored_crc = crc32fast::hash(&stored);
    codec::put(&mut head, STORED_CRC_AT, &stored_crc.to_le_bytes());
    let crc = crc32fast::hash(head.get(..CRC_AT).unwrap_or_default());
    codec::put(&mut head, CRC_AT, &crc.to_le_bytes());
    let name = LogName {
        line: draft.line,
        generation: draft.generation,
        first: draft.first,
        end: Lsn(end),
        is_gap: false,
    };
    let store = repository.store();
    let (parts, rest) = ([&head[..], &stored], || leisure.written());
    store.put_slowly(&name.object(), &parts, Put::Replace, &rest)?;
    let damaged = |what| RepositoryError::Damaged {
        object: name.object(),
        what,
    };
    decode(&head, repository.id(), &name).map_err(damaged)
}

/// Stores `draft` at once.
#[cfg(test)]
pub(in crate::repository) fn store_draft(
    repository: &Repository,
    draft: &Draft<'_>,
) -> Result<PieceFacts> {
    let none = Leisure::new(repository.host().clock.clone(), std::time::Duration::ZERO);
    store_piece(repository, draft, &none)
}

/// Reads the head of the piece `name`.
///
/// Errors: `Missing`, `Cut`, `Version`, `Damaged`, `Io`.
pub(super) fn read_facts(repository: &Repository, name: &LogName) -> Result<PieceFacts> {
    Ok(read_head(repository, name)?.1)
}

/// And the head itself.
fn read_head(repository: &Repository, name: &LogName) -> Result<([u8; HEAD_BYTES], PieceFacts)> {
    let (store, object) = (repository.store(), name.object());
    let damaged = |what| RepositoryError::Damaged {
        object: object.clone(),
        what,
    };
    let mut head = [0; HEAD_BYTES];
    store.read_at(&object, 0, &mut head)?;
    if codec::get_array(&head, 0) != Some(MAGIC) {
        return Err(damaged("it does not begin as a piece of a log"));
    }
    let crc = crc32fast::hash(head.get(..CRC_AT).unwrap_or_default());
    if codec::get_u32(&head, CRC_AT) != Some(crc) {
        return Err(damaged("the checksum of its head is wrong"));
    }
    let found = codec::get_u32(&head, 8).unwrap_or_default();
    if found > PIECE_VERSION {
        return Err(RepositoryError::Version {
            object,
            found,
            known: PIECE_VERSION,
        });
    }
    let facts = decode(&head, repository.id(), name).map_err(damaged)?;
    Ok((head, facts))
}

fn stamp_at(head: &[u8], at: usize) -> Option<CommitStamp> {
    let field = |offset| codec::get_u64(head, at + offset).unwrap_or_default();
    let stamp = CommitStamp {
        timestamp: Timestamp(field(0)),
        wall_ns: field(8),
        lsn: Lsn(field(16)),
    };
    (stamp.timestamp.0 != 0).then_some(stamp)
}

/// The facts in a head whose checksum is right. Errors: what cannot be so.
fn decode(
    head: &[u8; HEAD_BYTES],
    repository: [u8; 16],
    name: &LogName,
) -> Result<PieceFacts, &'static str> {
    let u32_at = |at| codec::get_u32(head, at).unwrap_or_default();
    let u64_at = |at| codec::get_u64(head, at).unwrap_or_default();
    let segment = codec::get_array(head, SEGMENT_AT).ok_or("it is cut")?;
    let Some(Ok(header)) = LogSegmentHeader::decode(&segment) else {
        return Err("the header of its segment is damaged, or of a later version");
    };
    let form = u8::try_from(u32_at(12)).ok().and_then(FrameForm::of_code);
    let (first, end) = (Lsn(u64_at(40)), Lsn(u64_at(48)));
    let fork = Fork {
        history: HistoryId(codec::get_array(head, 112).unwrap_or_default()),
        lsn: Lsn(u64_at(128)),
    };
    let facts = PieceFacts {
        line: LineId {
            database: header.database,
            history: header.history,
        },
        fork: (fork.history.0 != [0; 16]).then_some(fork),
        generation: Generation(u32_at(32)),
        epoch: header.epoch,
        segment_start: header.start,
        first,
        end,
        first_commit: stamp_at(head, 64),
        last_commit: stamp_at(head, 88),
        commit_count: u32_at(36),
        stored_ns: u64_at(136),
        stored_bytes: u64_at(56),
        digest: Digest(codec::get_array(head, 144).unwrap_or_default()),
        stored_crc: u32_at(STORED_CRC_AT),
        form: form.ok_or("its records have an unknown form")?,
        segment,
    };
    if codec::get_array(head, 16) != Some(repository) {
        return Err("it is of another repository");
    }
    let named = (name.line, name.generation, name.first, name.end);
    if named != (facts.line, facts.generation, first, end) {
        return Err("it has the name of another piece");
    }
    facts.fault(header.start).map_or(Ok(facts), Err)
}

impl PieceFacts {
    /// What of it cannot be.
    fn fault(&self, start: Lsn) -> Option<&'static str> {
        let bytes = self.end.0.saturating_sub(self.first.0);
        if self.first < start || bytes == 0 || bytes > PIECE_BYTES_MAX || !bytes.is_multiple_of(8) {
            return Some("its LSNs cannot be");
        }
        if self.stored_bytes > bytes {
            return Some("its records take more than they can");
        }
        let is_in = |stamp: &CommitStamp| self.first < stamp.lsn && stamp.lsn <= self.end;
        let is_right = match (&self.first_commit, &self.last_commit) {
            (None, None) => self.commit_count == 0,
            (Some(first), Some(last)) => {
                let steps = last.timestamp.0.checked_sub(first.timestamp.0);
                is_in(first)
                    && is_in(last)
                    && first.lsn <= last.lsn
                    && steps == u64::from(self.commit_count).checked_sub(1)
            }
            _ => false,
        };
        (!is_right).then_some("its commits cannot be")
    }

    /// Its object.
    #[must_use]
    pub fn object(&self) -> String {
        self.name().object()
    }

    pub(super) fn name(&self) -> LogName {
        LogName {
            line: self.line,
            generation: self.generation,
            first: self.first,
            end: self.end,
            is_gap: false,
        }
    }

    /// Bytes of its object.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.stored_bytes.saturating_add(HEAD_BYTES as u64)
    }

    /// Bytes of its records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.0.saturating_sub(self.first.0)
    }
}

/// Reads the whole piece that `facts` tells of.
///
/// Errors: `Missing` if it went meanwhile (then the catalog read again has what replaced it), `Cut`,
/// `Damaged`, `OtherContent`, `Io`. Never allocates more than 17 MiB for what an object claims.
pub fn read_piece(repository: &Repository, facts: &PieceFacts) -> Result<Piece> {
    let records = unpacked(facts, read_stored(repository, facts)?)?;
    Ok(Piece {
        facts: facts.clone(),
        segment: facts.segment,
        records,
    })
}

/// Stores the piece `name` of `from` in `to`, byte for byte but for whose it is; its name is not durable before
/// [`Store::settle`]. Every byte of it is checked before. Gives its facts.
///
/// Errors: `Ok(Err(_))` for what it is not good for, as for [`read_piece`]; `Err` of storing: `NoSpace`, `Io`.
pub(super) fn copy_piece(
    from: &Repository,
    name: &LogName,
    to: &Repository,
) -> Result<Result<PieceFacts>> {
    let read = || {
        let (head, facts) = read_head(from, name)?;
        let stored = read_stored(from, &facts)?;
        unpacked(&facts, stored.clone())?;
        Ok((head, facts, stored))
    };
    let (mut head, facts, stored) = match read() {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    codec::put(&mut head, 16, &to.id());
    let crc = crc32fast::hash(head.get(..CRC_AT).unwrap_or_default());
    codec::put(&mut head, CRC_AT, &crc.to_le_bytes());
    let store = to.store();
    store.put(&name.object(), &[&head, &stored], Put::Replace)?;
    Ok(Ok(facts))
}

/// The records as they are stored.
fn read_stored(repository: &Repository, facts: &PieceFacts) -> Result<Vec<u8>> {
    let (object, damaged) = (facts.object(), damage_of(facts));
    let store = repository.store();
    let needed = (HEAD_BYTES as u64).saturating_add(facts.stored_bytes);
    let found = store.size(&object)?;
    if found < needed {
        return Err(RepositoryError::Cut {
            object,
            bytes: found,
            needed,
        });
    }
    if found > needed {
        return Err(damaged("something stands behind its records"));
    }
    let mut stored = vec![0; size(facts, facts.stored_bytes)?];
    store.read_at(&object, HEAD_BYTES as u64, &mut stored)?;
    match crc32fast::hash(&stored) == facts.stored_crc {
        true => Ok(stored),
        false => Err(damaged("the checksum of its records is wrong")),
    }
}

/// The records in `stored`, checked to have their digest.
fn unpacked(facts: &PieceFacts, stored: Vec<u8>) -> Result<Vec<u8>> {
    let records = decompress(facts.form, stored, size(facts, facts.bytes())?)
        .ok_or_else(|| damage_of(facts)("its records cannot be decompressed"))?;
    let found = Digest::of(&records);
    match found == facts.digest {
        true => Ok(records),
        false => Err(RepositoryError::OtherContent {
            object: facts.object(),
            expected: facts.digest,
            found,
        }),
    }
}

fn size(facts: &PieceFacts, bytes: u64) -> Result<usize> {
    let size = usize::try_from(bytes).ok();
    size.filter(|_| bytes <= PIECE_BYTES_MAX)
        .ok_or_else(|| damage_of(facts)("it is too long"))
}

fn damage_of(facts: &PieceFacts) -> impl Fn(&'static str) -> RepositoryError {
    let object = facts.object();
    move |what| RepositoryError::Damaged {
        object: object.clone(),
        what,
    }
}
