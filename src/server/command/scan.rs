//! SCAN and KEYS.
//!
//! A scan goes through the keys in their order. Its cursor stands for the last key that was looked
//! at, so every key that is there throughout is returned exactly once, whatever else comes and goes.
//! A cursor is a number below 2^53, because some clients read it as a floating-point number:
//!
//! ```text
//! bits 52..16  the scan        bits 15..0  its step
//! ```
//!
//! Keys do not fit into a number, so the positions are kept, for a bounded number of scans. A cursor
//! whose position was given up, or is of another run of the server, is refused, because to go on
//! anywhere else could leave keys out. It may be used more than once, as long as it is recent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use parking_lot::Mutex;

use super::glob::Glob;
use super::{CommandError, Context, Reply, integer, is, word};
use crate::server::store::Table;

type Answer = Result<Reply, CommandError>;

/// How many scans are remembered; the one that was used longest ago is given up.
const SCANS_MAX: usize = 4096;
/// How many of its latest cursors a scan can go on from.
const POSITIONS_MAX: usize = 4;
const STEP_BITS: u32 = 16;
const SCAN_BITS: u32 = 37;
const DEFAULT_COUNT: u64 = 10;

#[derive(Debug)]
struct Scan {
    table: Table,
    next_step: u64,
    positions: VecDeque<(u64, Vec<u8>)>,
    last_use: u64,
}

#[derive(Debug, Default)]
struct Remembered {
    scans: HashMap<u64, Scan>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    next_scan: u64,
}

/// The positions of the scans of all connections.
#[derive(Debug)]
pub(in crate::server) struct Scans(Mutex<Remembered>);

impl Scans {
    /// None yet.
    pub(in crate::server) fn new() -> Self {
        // A cursor of an earlier run must not be taken for one of this run, so each run begins to
        // number its scans somewhere else.
        let next_scan = std::hash::RandomState::new().hash_one(());
        Self(Mutex::new(Remembered {
            next_scan,
            ..Remembered::default()
        }))
    }

    /// The key after which `cursor` goes on.
    fn position(&self, cursor: u64, table: Table) -> Option<Vec<u8>> {
        let mut remembered = self.0.lock();
        remembered.touch(cursor >> STEP_BITS);
        let scan = remembered.scans.get(&(cursor >> STEP_BITS))?;
        let step = cursor & ((1 << STEP_BITS) - 1);
        let mut positions = scan.positions.iter();
        let (_, key) = positions.find(|(known, _)| *known == step && scan.table == table)?;
        Some(key.clone())
    }

    /// Remembers that a scan, which came from `cursor`, got to `key`; returns the cursor for that.
    fn advance(&self, cursor: u64, table: Table, key: Vec<u8>) -> u64 {
        let mut remembered = self.0.lock();
        let mut number = cursor >> STEP_BITS;
        if !remembered.scans.contains_key(&number) {
            number = remembered.begin(table);
        }
        remembered.touch(number);
        let scan = remembered.scans.get_mut(&number);
        let scan = scan.expect("it was there or was begun, and the lock is held");
        let step = scan.next_step;
        scan.next_step = (step + 1) % (1 << STEP_BITS);
        scan.positions.push_back((step, key));
        if scan.positions.len() > POSITIONS_MAX {
            scan.positions.pop_front();
        }
        number << STEP_BITS | step
    }
}

impl Remembered {
    fn begin(&mut self, table: Table) -> u64 {
        if self.scans.len() >= SCANS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.scans.remove(&oldest);
        }
        // Number 0 is left out: cursor 0 means the start and the end.
        let number = self.next_scan % ((1 << SCAN_BITS) - 1) + 1;
        self.next_scan = number;
        self.uses += 1;
        let scan = Scan {
            table,
            next_step: 0,
            positions: VecDeque::new(),
            last_use: self.uses,
        };
        self.scans.insert(number, scan);
        self.by_use.insert(self.uses, number);
        number
    }

    fn touch(&mut self, number: u64) {
        self.uses += 1;
        if let Some(scan) = self.scans.get_mut(&number) {
            self.by_use.remove(&scan.last_use);
            scan.last_use = self.uses;
            self.by_use.insert(self.uses, number);
        }
    }
}

/// What SCAN was asked for besides the cursor.
struct Filter {
    glob: Option<Glob>,
    count: u64,
    /// Strings are the only type that there is.
    is_other_type: bool,
}

fn filter(words: &[Bytes]) -> Result<Filter, CommandError> {
    let mut filter = Filter {
        glob: None,
        count: DEFAULT_COUNT,
        is_other_type: false,
    };
    for pair in words.get(2..).unwrap_or_default().chunks(2) {
        let [option, value] = pair else {
            return Err(CommandError::Syntax);
        };
        if is(option, "match") {
            filter.glob = Some(Glob::checked(value)?);
        } else if is(option, "count") {
            let count = u64::try_from(integer(value)?).map_err(|_| CommandError::Syntax)?;
            if count == 0 {
                return Err(CommandError::Syntax);
            }
            filter.count = count;
        } else if is(option, "type") {
            filter.is_other_type = !is(value, "string");
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(filter)
}

/// Reads a cursor; clients send back the digits that they got.
fn cursor(text: &[u8]) -> Result<u64, CommandError> {
    let cursor = integer(text).map_err(|_| CommandError::InvalidCursor)?;
    u64::try_from(cursor).map_err(|_| CommandError::InvalidCursor)
}

pub(super) fn scan(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let cursor = cursor(word(words, 1)?)?;
    let filter = filter(words)?;
    let table = context.session.table;
    let scans = &context.shared.scans;
    let start = match cursor {
        0 => Bound::Unbounded,
        _ => Bound::Excluded(
            scans
                .position(cursor, table)
                .ok_or(CommandError::ForgottenCursor)?,
        ),
    };
    let (mut looked_at, mut last) = (0, None);
    let keys = collect(context, start, filter.glob.as_ref(), |key| {
        looked_at += 1;
        if looked_at < filter.count {
            return ControlFlow::Continue(());
        }
        last = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    let next = last.map_or(0, |key| context.shared.scans.advance(cursor, table, key));
    let keys = if filter.is_other_type {
        Vec::new()
    } else {
        keys
    };
    Ok(Reply::Array(vec![
        Reply::text(next.to_string()),
        Reply::Array(keys),
    ]))
}

pub(super) fn keys(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let glob = Glob::checked(word(words, 1)?)?;
    let go_on = |_: &[u8]| ControlFlow::Continue(());
    let keys = collect(context, Bound::Unbounded, Some(&glob), go_on)?;
    Ok(Reply::Array(keys))
}

/// The keys from `start` on that match. Stops after the key for which `enough` says so, and where
/// no later key can match.
fn collect(
    context: &mut Context<'_, '_>,
    start: Bound<Vec<u8>>,
    glob: Option<&Glob>,
    mut enough: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Vec<Reply>, CommandError> {
    let prefix = glob.map(Glob::prefix).unwrap_or_default();
    let start = match start {
        Bound::Excluded(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix.clone()),
    };
    let (mut keys, mut bytes) = (Vec::new(), 0);
    let left = context.reply_bytes_left;
    let memory = &mut *context.memory;
    context
        .store
        .visit_keys(context.session.table, start, |key| {
            if !key.starts_with(&prefix) {
                return Ok(ControlFlow::Break(()));
            }
            let flow = enough(&key);
            if glob.is_none_or(|glob| glob.is_match(&key)) {
                bytes += key.len() + size_of::<Reply>();
                if bytes > left {
                    return Err(CommandError::ReplyTooLong);
                }
                // Once for the key, once for its encoding.
                memory.grow(2 * (key.len() + size_of::<Reply>()))?;
                keys.push(Reply::Bulk(key.into()));
            }
            Ok(flow)
        })?;
    context.charge(bytes)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(index: i64) -> Table {
        Table::new(index).unwrap()
    }

    #[test]
    fn a_cursor_is_good_for_its_table_and_while_recent() {
        let scans = Scans::new();
        let first = scans.advance(0, table(0), b"a".to_vec());
        assert_ne!(first, 0);
        assert!(first < 1 << 53);
        assert_eq!(scans.position(first, table(0)), Some(b"a".to_vec()));
        assert_eq!(scans.position(first, table(1)), None);
        assert_eq!(scans.position(first + 1, table(0)), None);
        let mut cursor = first;
        for step in 0..POSITIONS_MAX {
            cursor = scans.advance(cursor, table(0), vec![u8::try_from(step).unwrap()]);
        }
        assert_eq!(scans.position(cursor, table(0)), Some(vec![3]));
        assert_eq!(scans.position(first, table(0)), None);
    }

    /// Two clients that go on from one cursor must not move each other.
    #[test]
    fn going_on_twice_from_one_cursor_gives_two_cursors() {
        let scans = Scans::new();
        let first = scans.advance(0, table(0), b"a".to_vec());
        let near = scans.advance(first, table(0), b"b".to_vec());
        let far = scans.advance(first, table(0), b"z".to_vec());
        assert_ne!(near, far);
        assert_eq!(scans.position(near, table(0)), Some(b"b".to_vec()));
        assert_eq!(scans.position(far, table(0)), Some(b"z".to_vec()));
    }

    #[test]
    fn scans_are_bounded_and_the_one_in_use_survives() {
        let scans = Scans::new();
        let abandoned = scans.advance(0, table(0), b"x".to_vec());
        let mut used = scans.advance(0, table(0), b"y".to_vec());
        for _ in 0..SCANS_MAX {
            scans.advance(0, table(0), b"z".to_vec());
            used = scans.advance(used, table(0), b"y".to_vec());
        }
        let remembered = scans.0.lock();
        assert_eq!(remembered.scans.len(), SCANS_MAX);
        assert_eq!(remembered.by_use.len(), SCANS_MAX);
        drop(remembered);
        assert_eq!(scans.position(abandoned, table(0)), None);
        assert_eq!(scans.position(used, table(0)), Some(b"y".to_vec()));
    }
}
