//! The tree against `BTreeMap`, at every page size.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::memory_pages::{MemoryPages, PAGE_SIZES};
use super::{Cursor, Node, Outcome, clear, contains, delete, drop_tree, get, insert};
use crate::engine::catalog::{self, Creation};
use crate::engine::page_io::{PageRead, PageWrite};
use crate::page::{PageNo, PageSize};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const TABLE: &str = "table";

fn new_table(bytes: u64) -> (MemoryPages, PageNo) {
    let mut pages = MemoryPages::with_catalog(bytes);
    let Creation::Created(table) = catalog::create(&mut pages, TABLE).unwrap() else {
        panic!("the table is new");
    };
    (pages, table.root)
}

/// A generator of numbers that repeats itself on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }
}

/// Keys of all lengths, near each other and far apart, from a small number.
fn key_of(number: u16) -> Vec<u8> {
    let length = match number % 7 {
        0 => usize::from(number) % 1025,
        1 => 1024,
        2 => 2,
        _ => 12,
    };
    let mut key = vec![b'k'; length];
    let digits = number.wrapping_mul(40_503).to_be_bytes();
    for (place, digit) in key.iter_mut().rev().zip(digits) {
        *place = digit;
    }
    key
}

fn value_of(seed: u8, length: usize) -> Vec<u8> {
    let thirds = (0..=u8::MAX).cycle().flat_map(|third| [third; 3]);
    thirds
        .take(length)
        .map(|third| seed.wrapping_add(third))
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u16, u8, usize),
    Delete(u16),
    Range(u16, u16, u8, u64),
    DeleteSpan(u16, u16),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![8 => 0..40_usize, 4 => 0..3000_usize, 1 => 0..200 * 1024_usize];
    prop_oneof![
        60 => (0..600_u16, any::<u8>(), length).prop_map(|(k, s, l)| Op::Put(k, s, l)),
        20 => (0..600_u16).prop_map(Op::Delete),
        5 => (0..600_u16, 0..600_u16, any::<u8>(), any::<u64>())
            .prop_map(|(l, h, k, t)| Op::Range(l, h, k, t)),
        2 => (0..600_u16, 0..600_u16).prop_map(|(l, h)| Op::DeleteSpan(l, h)),
        1 => Just(Op::Clear),
    ]
}

fn bound(kind: u8, key: &[u8]) -> Bound<&[u8]> {
    match kind % 3 {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}

/// Takes a range from both ends in the order that the bits of `turns` say, and compares every entry.
fn compare_range<R: PageRead>(
    src: R,
    root: PageNo,
    map: &Map,
    (low, high): (Bound<&[u8]>, Bound<&[u8]>),
    turns: u64,
) {
    let inside = |key: &[u8]| {
        (match low {
            Bound::Included(low) => key >= low,
            Bound::Excluded(low) => key > low,
            Bound::Unbounded => true,
        }) && (match high {
            Bound::Included(high) => key <= high,
            Bound::Excluded(high) => key < high,
            Bound::Unbounded => true,
        })
    };
    let mut expected = map.iter().filter(|(key, _)| inside(key));
    let mut cursor = Cursor::new(src, root, low, high);
    for turn in 0_u32.. {
        let from_front = turns.rotate_right(turn) & 1 == 0;
        let (found, expected) = if from_front {
            (cursor.next().unwrap(), expected.next())
        } else {
            (cursor.next_back().unwrap(), expected.next_back())
        };
        let Some((key, value)) = expected else {
            assert!(found.is_none());
            break;
        };
        let found = found.expect("the range has this entry");
        assert_eq!(found.key(), key);
        assert_eq!(found.value_bytes(), value.len() as u64);
        assert_eq!(&found.value().unwrap(), value);
    }
    assert!(cursor.next().unwrap().is_none() && cursor.next_back().unwrap().is_none());
}

fn apply(pages: &mut MemoryPages, root: PageNo, map: &mut Map, op: &Op) {
    match *op {
        Op::Put(key, seed, length) => {
            let (key, value) = (key_of(key), value_of(seed, length));
            let outcome = insert(pages, root, &key, &value).unwrap();
            let replaced = map.insert(key, value).is_some();
            assert_eq!(outcome == Outcome::Replaced, replaced);
        }
        Op::Delete(key) => {
            let key = key_of(key);
            assert_eq!(contains(pages, root, &key).unwrap(), map.contains_key(&key));
            assert_eq!(
                delete(pages, root, &key).unwrap(),
                map.remove(&key).is_some()
            );
            assert_eq!(get(pages, root, &key).unwrap(), None);
        }
        Op::Range(low, high, kinds, turns) => {
            let (low, high) = (key_of(low), key_of(high));
            let range = (bound(kinds, &low), bound(kinds / 3, &high));
            compare_range(&*pages, root, map, range, turns);
        }
        Op::DeleteSpan(low, high) => {
            let keys: Vec<_> = (low.min(high)..low.max(high)).map(key_of).collect();
            for key in keys {
                assert_eq!(
                    delete(pages, root, &key).unwrap(),
                    map.remove(&key).is_some()
                );
            }
        }
        Op::Clear => {
            assert_eq!(clear(pages, root).unwrap(), map.len() as u64);
            map.clear();
        }
    }
}

/// Compares everything, and checks that every page is used once or free.
fn settle(pages: &mut MemoryPages, root: PageNo, map: &Map) {
    for (key, value) in map {
        assert_eq!(get(pages, root, key).unwrap().as_ref(), Some(value));
    }
    let all = (Bound::Unbounded, Bound::Unbounded);
    compare_range(&*pages, root, map, all, 0);
    compare_range(&*pages, root, map, all, u64::MAX);
    assert!(catalog::set_count(pages, TABLE, map.len() as u64).unwrap());
    let report = pages.check();
    assert!(report.is_clean(), "{:?}", report.findings);
    let bytes = map
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>();
    let totals = report.totals;
    assert_eq!(totals.entry_count, map.len() as u64);
    assert_eq!(totals.key_bytes + totals.value_bytes, bytes as u64);
    assert_eq!(totals.trunk_pages + totals.free_pages, pages.list.count);
    let used = totals.leaf_pages + totals.inner_pages + totals.overflow_pages;
    assert_eq!(2 + used + pages.list.count, pages.page_count());
}

fn run(bytes: u64, ops: &[Op]) {
    let (mut pages, root) = new_table(bytes);
    let mut map = Map::new();
    for phase in ops.chunks(100) {
        phase
            .iter()
            .for_each(|op| apply(&mut pages, root, &mut map, op));
        settle(&mut pages, root, &map);
    }
    // The same again needs no page that was not there before: what is freed is used again.
    clear(&mut pages, root).unwrap();
    settle(&mut pages, root, &Map::new());
    assert_eq!(pages.page_count() - pages.list.count, 4);
    let page_count = pages.page_count();
    map.clear();
    ops.iter()
        .for_each(|op| apply(&mut pages, root, &mut map, op));
    settle(&mut pages, root, &map);
    assert_eq!(pages.page_count(), page_count);
    catalog::drop_table(&mut pages, TABLE).unwrap().unwrap();
    assert!(pages.check().is_clean());
    assert_eq!(pages.page_count() - pages.list.count, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// B1 B2 B3: whatever is put and deleted, the tree holds what the map holds, in its order.
    #[test]
    fn tree_is_the_map_at_every_page_size(
        size in 0..PAGE_SIZES.len(),
        ops in prop::collection::vec(op(), 1..600),
    ) {
        run(PAGE_SIZES[size], &ops);
    }
}

/// Small nodes and many levels: long keys at 4 KiB leave three or four children to a node.
#[test]
fn keys_of_1024_bytes_at_4_kib_make_a_deep_tree_that_shrinks_to_a_leaf() {
    let (mut pages, root) = new_table(4096);
    let mut map = Map::new();
    let mut random = Random(1);
    let mut keys: Vec<_> = (0..1500_u32).collect();
    for index in 0..keys.len() {
        keys.swap(index, random.below(index + 1));
    }
    // What separates two keys is at their end, so that separators are as long as they can be.
    let key_of = |number: u32| [&[b'x'; 1020][..], &number.to_be_bytes()].concat();
    for number in &keys {
        let value = value_of(7, random.below(1200));
        insert(&mut pages, root, &key_of(*number), &value).unwrap();
        map.insert(key_of(*number), value);
    }
    settle(&mut pages, root, &map);
    let level = Node::read_root(&pages, root).unwrap().level();
    assert!(level >= 5, "level {level}");
    for number in &keys {
        assert!(delete(&mut pages, root, &key_of(*number)).unwrap());
        map.remove(&key_of(*number));
        if number % 100 == 0 {
            settle(&mut pages, root, &map);
        }
    }
    let node = Node::read_root(&pages, root).unwrap();
    assert_eq!((node.level(), node.count()), (0, 0));
}

/// Bytes of entries in the leaves of the table, against the bytes of the leaves, in percent.
fn fill_percent(pages: &mut MemoryPages, entry_count: u64) -> u64 {
    catalog::set_count(pages, TABLE, entry_count).unwrap();
    let report = pages.check();
    assert!(report.is_clean(), "{:?}", report.findings);
    let totals = report.totals;
    // The catalog has one leaf.
    let bytes = (totals.leaf_pages - 1) * u64::from(pages.page_size().get());
    (totals.key_bytes + totals.value_bytes + totals.entry_count * 10) * 100 / bytes
}

#[test]
fn ascending_load_fills_leaves_to_90_percent_and_random_load_to_half() {
    for bytes in PAGE_SIZES {
        let (mut pages, root) = new_table(bytes);
        for number in 0..20_000_u64 {
            insert(&mut pages, root, &number.to_be_bytes(), &[7; 40]).unwrap();
        }
        let fill = fill_percent(&mut pages, 20_000);
        assert!(fill >= 90, "{fill} % of pages of {bytes} bytes");

        let (mut pages, root) = new_table(bytes);
        for number in 0..20_000_u64 {
            let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            insert(&mut pages, root, &key, &[7; 40]).unwrap();
        }
        let fill = fill_percent(&mut pages, 20_000);
        assert!(fill >= 50, "{fill} % of pages of {bytes} bytes");
    }
}

/// Deleting most entries everywhere must give pages back, not leave them nearly empty.
#[test]
fn thinning_out_a_tree_merges_its_leaves() {
    let (mut pages, root) = new_table(4096);
    for number in 0..20_000_u64 {
        insert(&mut pages, root, &number.to_be_bytes(), &[7; 40]).unwrap();
    }
    let full = pages.check().totals.leaf_pages;
    for number in (0..20_000_u64).filter(|number| number % 10 != 0) {
        assert!(delete(&mut pages, root, &number.to_be_bytes()).unwrap());
    }
    let thinned = pages.check().totals.leaf_pages;
    assert!(thinned * 4 < full, "{thinned} of {full} leaves");
    assert!(fill_percent(&mut pages, 2000) >= 30);
}

#[test]
fn overwriting_with_smaller_values_merges_leaves_too() {
    let (mut pages, root) = new_table(4096);
    for number in 0..2000_u64 {
        insert(&mut pages, root, &number.to_be_bytes(), &[7; 800]).unwrap();
    }
    for number in 0..2000_u64 {
        insert(&mut pages, root, &number.to_be_bytes(), b"").unwrap();
    }
    let fill = fill_percent(&mut pages, 2000);
    assert!(fill >= 30, "{fill} %");
}

/// The log gets only what differs, so an overwrite must not move anything.
#[test]
fn overwriting_with_a_value_of_equal_length_changes_only_its_bytes() {
    let (mut pages, root) = new_table(8192);
    for number in 0..100_u64 {
        insert(&mut pages, root, &number.to_be_bytes(), &[7; 40]).unwrap();
    }
    let long = value_of(1, 100_000);
    insert(&mut pages, root, b"long", &long).unwrap();
    let before = pages.image();

    insert(&mut pages, root, &50_u64.to_be_bytes(), &[8; 40]).unwrap();
    let mut changed = long.clone();
    changed[60_000] ^= 1;
    let modify_count = pages.modify_count;
    insert(&mut pages, root, b"long", &changed).unwrap();
    assert_eq!(pages.modify_count - modify_count, 1);
    insert(&mut pages, root, b"long", &changed).unwrap();
    insert(&mut pages, root, &50_u64.to_be_bytes(), &[8; 40]).unwrap();
    assert_eq!(
        pages.modify_count - modify_count,
        1,
        "equal values write nothing"
    );

    let after = pages.image();
    let differing: usize = (0..pages.page_count())
        .map(|page| {
            let (before, after) = (
                before.read(PageNo(page)).unwrap(),
                after.read(PageNo(page)).unwrap(),
            );
            // The checksum differs too.
            before[4..]
                .iter()
                .zip(&after[4..])
                .filter(|(b, a)| b != a)
                .count()
        })
        .sum();
    assert_eq!(differing, 41);
    assert_eq!(get(&pages, root, b"long").unwrap(), Some(changed));
}

#[test]
fn value_of_64_mib_comes_back_and_its_pages_are_used_again() {
    let (mut pages, root) = new_table(65536);
    let value = value_of(3, 64 << 20);
    insert(&mut pages, root, b"key", &value).unwrap();
    assert!(get(&pages, root, b"key").unwrap().unwrap() == value);
    let page_count = pages.page_count();
    assert!(delete(&mut pages, root, b"key").unwrap());
    insert(&mut pages, root, b"other", &value).unwrap();
    assert_eq!(pages.page_count(), page_count);
    assert!(get(&pages, root, b"other").unwrap().unwrap() == value);
}

/// Scanning the keys of a table of large values must not read the values.
#[test]
fn keys_are_scanned_without_their_chains() {
    let (mut pages, root) = new_table(4096);
    for number in 0..50_u8 {
        insert(&mut pages, root, &[number], &value_of(number, 20_000)).unwrap();
    }
    let mut image = pages.image();
    // Every overflow page is made unreadable.
    for page in 0..usize::try_from(pages.page_count()).unwrap() {
        image.damage(page, |bytes| bytes[0] ^= u8::from(bytes[4] == 4));
    }
    let mut cursor = Cursor::new(&image, root, Bound::Unbounded, Bound::Unbounded);
    let mut count = 0_u8;
    while let Some(entry) = cursor.next().unwrap() {
        assert_eq!((entry.key(), entry.value_bytes()), (&[count][..], 20_000));
        assert!(entry.value().is_err());
        count += 1;
    }
    assert_eq!(count, 50);
}

#[test]
fn limits_of_key_and_value_are_kept_and_said() {
    let (mut pages, root) = new_table(4096);
    assert!(insert(&mut pages, root, &[1; 1025], b"").is_err());
    assert!(insert(&mut pages, root, &[1; 1024], b"").is_ok());
    assert!(insert(&mut pages, root, b"", b"value of the empty key").is_ok());
    let value = get(&pages, root, b"").unwrap();
    assert_eq!(value.as_deref(), Some(&b"value of the empty key"[..]));
    // No key that is longer than the limit can be there, and looking for one is no error.
    assert_eq!(get(&pages, root, &[1; 5000]).unwrap(), None);
    assert!(!delete(&mut pages, root, &[1; 5000]).unwrap());
}

/// Readers keep a cursor beside the state that it reads, so it must own its source.
#[test]
fn cursor_owns_a_shared_source() {
    let (mut pages, root) = new_table(4096);
    insert(&mut pages, root, b"key", b"value").unwrap();
    let shared = std::sync::Arc::new(pages.image());
    let low = Bound::Included(&b"a"[..]);
    let mut cursor = Cursor::new(shared, root, low, Bound::Unbounded);
    let pair = cursor.next().unwrap().unwrap().to_pair().unwrap();
    assert_eq!(pair, (b"key".to_vec(), b"value".to_vec()));
}

#[test]
fn dropped_tree_gives_all_pages_back() {
    let mut pages = MemoryPages::with_catalog(4096);
    let root = super::create(&mut pages).unwrap();
    for number in 0..3000_u32 {
        let value = value_of(1, number as usize % 3000);
        insert(&mut pages, root, &number.to_be_bytes(), &value).unwrap();
    }
    assert_eq!(drop_tree(&mut pages, root).unwrap(), 3000);
    assert!(pages.check().is_clean());
    assert_eq!(pages.page_count() - pages.list.count, 3);
}

/// A writing transaction hands its pages out as an object.
#[test]
fn operations_take_a_transaction_as_an_object() {
    let mut pages = MemoryPages::new(PageSize::DEFAULT);
    let dst: &mut dyn PageWrite = &mut pages;
    let root = super::create(dst).unwrap();
    assert_eq!(insert(dst, root, b"a", b"1").unwrap(), Outcome::Inserted);
    let src: &dyn PageRead = dst;
    assert!(contains(src, root, b"a").unwrap());
    let mut cursor = Cursor::new(src, root, Bound::Unbounded, Bound::Unbounded);
    assert_eq!(cursor.next_back().unwrap().unwrap().key(), b"a");
}
