//! Damaged pages whose checksums are right: an error or an answer, never a panic or an endless loop.

use std::ops::Bound;

use proptest::prelude::*;

use super::layout::{CELL_COUNT, CONTENT_START, FIRST_CHILD, LEVEL, SLOTS};
use super::memory_pages::{Image, MemoryPages, PAGE_SIZES};
use super::{Cursor, Node, clear, delete, drop_tree, get, insert};
use crate::codec;
use crate::engine::catalog::{self, Creation};
use crate::engine::check::check;
use crate::engine::error::EngineError;
use crate::engine::free_list;
use crate::engine::page_io::{FreeList, PageRead, PageWrite};
use crate::page::{PageKind, PageNo};

fn key_of(number: u32) -> Vec<u8> {
    format!("key {number:05} {}", "x".repeat(number as usize % 90)).into_bytes()
}

/// Two tables with inner nodes, chains and free pages; returns their roots too.
fn database(bytes: u64) -> (Image, FreeList, [PageNo; 2]) {
    let mut pages = MemoryPages::with_catalog(bytes);
    let roots = ["first", "second"].map(|name| {
        let Creation::Created(table) = catalog::create(&mut pages, name).unwrap() else {
            panic!("the table is new");
        };
        for number in (0..600).map(|number| number * 7919 % 600) {
            let length = if number % 50 == 0 {
                30_000
            } else {
                number as usize % 400
            };
            insert(&mut pages, table.root, &key_of(number), &vec![7; length]).unwrap();
        }
        for number in (0..600).filter(|number| number % 3 == 0) {
            delete(&mut pages, table.root, &key_of(number)).unwrap();
        }
        catalog::set_count(&mut pages, name, 400).unwrap();
        table.root
    });
    assert!(pages.list.count > 10);
    let image = pages.image();
    assert!(check(&image, pages.list).is_clean());
    (image, pages.list, roots)
}

/// Reads everything in every way.
fn read_all(image: &Image, list: FreeList, roots: [PageNo; 2]) -> Result<(), EngineError> {
    let mut first_error = Ok(());
    let mut note = |error| {
        if first_error.is_ok() {
            first_error = Err(error);
        }
    };
    for root in roots {
        for number in (0..600).step_by(7) {
            if let Err(error) = get(image, root, &key_of(number)) {
                note(error);
            }
        }
        let (low, high) = (key_of(100), key_of(500));
        let ranges = [
            (Bound::Unbounded, Bound::Unbounded),
            (
                Bound::Included(low.as_slice()),
                Bound::Excluded(high.as_slice()),
            ),
        ];
        for (low, high) in ranges {
            let mut cursor = Cursor::new(image, root, low, high);
            let mut forward = || -> Result<u64, EngineError> {
                let mut count = 0;
                while let Some(entry) = cursor.next()? {
                    entry.value()?;
                    count += 1;
                }
                Ok(count)
            };
            forward().map_or_else(&mut note, |_| ());
            let mut cursor = Cursor::new(image, root, low, high);
            let mut backward = || -> Result<(), EngineError> {
                while cursor.next_back()?.is_some() {}
                Ok(())
            };
            backward().unwrap_or_else(&mut note);
        }
    }
    catalog::list(image).map_or_else(&mut note, |_| ());
    free_list::walk(image, list, &mut |_, _| Ok(())).unwrap_or_else(&mut note);
    first_error
}

/// Writes in every way; only panics and endless loops are wrong here.
fn write_all(image: &Image, list: FreeList, roots: [PageNo; 2]) {
    let pages = || MemoryPages::over(image, list);
    for root in roots {
        let mut dst = pages();
        for number in (0..600).step_by(11) {
            let _ = insert(
                &mut dst,
                root,
                &key_of(number),
                &vec![9; number as usize * 9],
            );
        }
        for number in (0..600).step_by(3) {
            let _ = delete(&mut dst, root, &key_of(number));
        }
        let _ = clear(&mut pages(), root);
        let _ = drop_tree(&mut pages(), root);
    }
    let mut dst = pages();
    let _ = catalog::set_count(&mut dst, "first", 1);
    let _ = catalog::drop_table(&mut dst, "second");
    while dst.list.count > 0 && dst.allocate(PageKind::Leaf).is_ok() {}
}

#[derive(Clone, Debug)]
struct Damage {
    page: prop::sample::Index,
    /// Where, as the part of the page or of its first bytes.
    offset: prop::sample::Index,
    is_near_start: bool,
    byte: u8,
}

fn damage() -> impl Strategy<Value = Damage> {
    (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<bool>(),
        any::<u8>(),
    )
        .prop_map(|(page, offset, is_near_start, byte)| Damage {
            page,
            offset,
            is_near_start,
            byte,
        })
}

fn apply(image: &mut Image, damage: &Damage) {
    let page = 2 + damage
        .page
        .index(usize::try_from(image.page_count()).unwrap() - 2);
    image.change(page, |bytes| {
        let length = if damage.is_near_start {
            100
        } else {
            bytes.len()
        };
        let offset = 4 + damage.offset.index(length - 4);
        // Unknown kinds and versions, other page numbers and LSNs are the page's own check's to find.
        let is_ours = match offset {
            4 => PageKind::from_u8(damage.byte).is_some(),
            5 | 8..32 => false,
            _ => true,
        };
        if is_ours {
            bytes[offset] = damage.byte;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// B4: any content of a page with a right checksum gives an answer or an error, and the check ends.
    #[test]
    fn damaged_pages_never_panic_nor_loop(
        size in 0..2_usize,
        damages in prop::collection::vec(damage(), 1..12),
    ) {
        static DATABASES: std::sync::OnceLock<Vec<(Image, FreeList, [PageNo; 2])>> =
            std::sync::OnceLock::new();
        let databases = DATABASES
            .get_or_init(|| PAGE_SIZES.iter().take(2).map(|size| database(*size)).collect());
        let (mut image, list, roots) = databases[size].clone();
        for damage in &damages {
            apply(&mut image, damage);
        }
        let read = read_all(&image, list, roots);
        let report = check(&image, list);
        if let Err(error) = read {
            prop_assert!(!report.is_clean(), "the check overlooks {error}");
        }
        write_all(&image, list, roots);
    }
}

/// Every single bit of the file, without a new checksum: found by reading, and by the check.
#[test]
fn flipped_bit_anywhere_is_a_finding() {
    let (image, list, _) = database(4096);
    for page in 2..usize::try_from(image.page_count()).unwrap() {
        let mut damaged = image.clone();
        damaged.damage(page, |bytes| bytes[page * 31 % 4096] ^= 1 << (page % 8));
        let report = check(&damaged, list);
        assert!(!report.is_clean(), "page {page}");
    }
}

/// The root of the first table, an inner node, changed in one way; what reading it through gives.
fn structure_of(change: impl FnOnce(&mut [u8])) -> Option<(PageNo, &'static str)> {
    let (mut image, list, roots) = database(4096);
    let root = Node::read_root(&image, roots[0]).unwrap();
    assert!(root.level() > 0 && root.count() > 2);
    drop(root);
    image.change(usize::try_from(roots[0].0).unwrap(), change);
    assert!(!check(&image, list).is_clean());
    match read_all(&image, list, roots) {
        Err(EngineError::Structure { page, expected, .. }) => Some((page, expected)),
        Err(error) => panic!("{error}"),
        Ok(()) => None,
    }
}

#[test]
fn each_rule_of_a_node_is_checked() {
    let put = |offset: usize, value: &'static [u8]| {
        structure_of(move |bytes| codec::put(bytes, offset, value)).map(|(_, expected)| expected)
    };
    assert_eq!(
        put(4, &[PageKind::Overflow as u8]),
        Some("a leaf or an inner node")
    );
    assert_eq!(put(LEVEL, &[32]), Some("a level of its kind, below 32"));
    assert_eq!(put(LEVEL, &[0]), Some("a level of its kind, below 32"));
    assert_eq!(put(LEVEL, &[9]), Some("a level one below the parent's"));
    assert_eq!(
        put(CELL_COUNT, &[0xFF, 0xFF]),
        Some("cells after the slots")
    );
    assert_eq!(
        put(CONTENT_START, &[0, 0, 1, 0]),
        Some("cells after the slots")
    );
    assert_eq!(put(SLOTS, &[0xFF, 0x0F]), Some("a cell inside its page"));
    assert_eq!(put(SLOTS, &[3, 0]), Some("a cell after content start"));
    assert_eq!(
        put(FIRST_CHILD, &[0; 8]),
        Some("a first child in an inner node, none in a leaf")
    );
    assert_eq!(
        put(FIRST_CHILD, &[2, 0, 0]),
        Some("a link to a page of the file")
    );
    assert_eq!(
        put(FIRST_CHILD, &[0xFF; 8]),
        Some("a link to a page of the file")
    );
}

#[test]
fn unsorted_cells_are_found() {
    let (_, expected) = structure_of(|bytes| {
        let (first, second) = (
            bytes[SLOTS..SLOTS + 2].to_vec(),
            bytes[SLOTS + 2..SLOTS + 4].to_vec(),
        );
        codec::put(bytes, SLOTS, &second);
        codec::put(bytes, SLOTS + 2, &first);
    })
    .unwrap();
    assert_eq!(expected, "keys in ascending order");
}

/// K1: a link up or to the node itself would be a circle.
#[test]
fn circle_of_links_is_found() {
    let (mut image, list, roots) = database(4096);
    let root = usize::try_from(roots[0].0).unwrap();
    image.change(root, |bytes| {
        codec::put(bytes, FIRST_CHILD, &roots[0].0.to_le_bytes())
    });
    let error = get(&image, roots[0], b"").unwrap_err();
    assert!(matches!(
        error,
        EngineError::Structure {
            expected: "a level one below the parent's",
            ..
        }
    ));
    assert!(!check(&image, list).is_clean());
}

/// Two children swapped: every node is sound by itself, but a search would go astray.
#[test]
fn subtree_in_the_wrong_place_is_found() {
    let (mut image, list, roots) = database(4096);
    let root = Node::read_root(&image, roots[0]).unwrap();
    let second = root.child(1);
    drop(root);
    image.change(usize::try_from(roots[0].0).unwrap(), |bytes| {
        codec::put(bytes, FIRST_CHILD, &second.0.to_le_bytes());
    });
    assert!(get(&image, roots[0], b"a").is_err());
    let mut cursor = Cursor::new(&image, roots[0], Bound::Unbounded, Bound::Unbounded);
    assert!(cursor.next().is_err());
    assert!(
        cursor.next().is_err(),
        "a cursor does not end because of an error"
    );
    let report = check(&image, list);
    assert!(
        report.findings.iter().any(|finding| finding.page == second),
        "{report:?}"
    );
}

/// A chain that goes on after its value's end, ends before it, or runs in a circle.
#[test]
fn chain_of_the_wrong_length_is_found() {
    let mut pages = MemoryPages::with_catalog(4096);
    let Creation::Created(table) = catalog::create(&mut pages, "table").unwrap() else {
        panic!("the table is new");
    };
    insert(&mut pages, table.root, b"key", &vec![7; 10_000]).unwrap();
    catalog::set_count(&mut pages, "table", 1).unwrap();
    let image = pages.image();
    let chain: Vec<_> = (0..pages.page_count())
        .filter(|page| image.read(PageNo(*page)).unwrap().kind() == Some(PageKind::Overflow))
        .collect();
    assert_eq!(chain.len(), 3);
    let [first, second, last] = [chain[0], chain[1], chain[2]];
    for (page, next, expected) in [
        (last, first, "a chain as long as its value"),
        (second, 0, "a chain as long as its value"),
        (second, first, "the page's own position in its chain"),
        (second, table.root.0, "an overflow page"),
        (second, u64::MAX, "a link to a page of the file"),
    ] {
        let mut image = image.clone();
        image.change(usize::try_from(page).unwrap(), |bytes| {
            codec::put(bytes, 32, &next.to_le_bytes());
        });
        let error = get(&image, table.root, b"key").unwrap_err();
        let EngineError::Structure {
            expected: found, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(found, expected);
        assert!(!check(&image, pages.list).is_clean());
    }
}

/// A length from a page must not make the reader allocate what the file cannot hold.
#[test]
fn value_longer_than_the_file_is_refused_before_its_memory_is_taken() {
    let mut pages = MemoryPages::with_catalog(4096);
    let root = super::create(&mut pages).unwrap();
    insert(&mut pages, root, b"key", &vec![7; 10_000]).unwrap();
    let mut image = pages.image();
    image.change(usize::try_from(root.0).unwrap(), |bytes| {
        let cell = bytes.len() - (8 + 3 + 8);
        codec::put(bytes, cell + 4, &u32::MAX.to_le_bytes());
    });
    assert!(matches!(
        get(&image, root, b"key"),
        Err(EngineError::Structure {
            expected: "a value that is shorter than the file",
            ..
        })
    ));
}

/// B4: where two cells share bytes, a value that is overwritten may be the key of another entry.
#[test]
fn overwritten_value_that_is_another_cell_makes_the_node_be_checked_again() {
    let mut pages = MemoryPages::with_catalog(4096);
    let root = super::create(&mut pages).unwrap();
    // The value of the first entry is the second entry's cell, key and all.
    insert(&mut pages, root, b"a", &[1, 0, 0, 0, 0, 0, 0, 0, b'b']).unwrap();
    insert(&mut pages, root, b"b", b"").unwrap();
    let mut image = pages.image();
    image.change(usize::try_from(root.0).unwrap(), |bytes| {
        let page_bytes = u16::try_from(bytes.len()).unwrap();
        codec::put(bytes, SLOTS + 2, &(page_bytes - 9).to_le_bytes());
    });
    let mut dst = MemoryPages::over(&image, pages.list);
    assert!(get(&dst, root, b"b").unwrap().is_some());
    insert(&mut dst, root, b"a", &[0xff; 9]).unwrap();
    assert!(!dst.read(root).unwrap().is_vetted());
    assert!(get(&dst, root, b"b").is_err());
}

/// B4: what was found of a sound node holds when only bytes of a value change, and for no other change.
#[test]
fn overwriting_a_value_leaves_a_sound_node_checked() {
    let mut pages = MemoryPages::with_catalog(4096);
    let root = super::create(&mut pages).unwrap();
    for key in [b"a", b"b", b"c"] {
        insert(&mut pages, root, key, b"old").unwrap();
    }
    let is_known = |pages: &MemoryPages| {
        let page = pages.read(root).unwrap();
        (page.is_vetted(), page.is_disjoint())
    };
    assert_eq!(is_known(&pages), (false, false));
    insert(&mut pages, root, b"b", b"new").unwrap();
    assert_eq!(is_known(&pages), (true, true));
    assert_eq!(get(&pages, root, b"b").unwrap().unwrap(), b"new");
    insert(&mut pages, root, b"b", b"longer").unwrap();
    assert_eq!(is_known(&pages), (false, false));
}
