use std::sync::Arc;

use super::*;
use crate::page::{PageBuf, PageKind, PageSize};

const P: PageNo = PageNo(9);

fn image(lsn: u64) -> PageRef {
    let mut page = PageBuf::formatted(PageSize::DEFAULT, P, PageKind::Leaf);
    page.seal(Lsn(lsn));
    Arc::new(page)
}

fn readers(registered: &[u64], durable: u64) -> Readers {
    Readers {
        registered: registered.iter().map(|&l| Lsn(l)).collect(),
        durable: Lsn(durable),
    }
}

fn publish(table: &PageTable, lsn: u64, readers: &Readers) {
    table.publish(P, Lsn(lsn), Content::Image(image(lsn)), None, readers);
}

fn lsn_at(table: &PageTable, at: u64) -> Option<u64> {
    match table.lookup(P, Lsn(at)) {
        Lookup::Found(page) => Some(page.lsn().0),
        Lookup::Backed(backing, lsn) => Some(backing.load(P, lsn).unwrap().lsn().0),
        Lookup::Live(..) => None,
    }
}

/// E3: every reader gets the newest version that it may see.
#[test]
fn lookup_gives_the_version_at_the_readers_lsn() {
    let table = PageTable::new(64, None);
    let both = readers(&[10, 20], 5);
    publish(&table, 10, &both);
    publish(&table, 20, &both);
    assert_eq!(lsn_at(&table, 9), None);
    assert_eq!(lsn_at(&table, 10), Some(10));
    assert_eq!(lsn_at(&table, 19), Some(10));
    assert_eq!(lsn_at(&table, 25), Some(20));
}

/// E4: a version that only a reader still to come may want stays until its successor is durable.
#[test]
fn version_stays_until_its_successor_is_durable() {
    let table = PageTable::new(64, None);
    publish(&table, 10, &readers(&[], 5));
    publish(&table, 20, &readers(&[], 10));
    assert_eq!(lsn_at(&table, 10), Some(10));
    table.sweep(&readers(&[], 20));
    assert_eq!(lsn_at(&table, 10), None);
    assert_eq!(lsn_at(&table, 20), Some(20));
}

/// E4: the image of a version that was replaced is given away only once nobody can want it, and only where it is
/// known how it differs from the one that stays.
#[test]
fn replaced_version_is_taken_only_when_nobody_wants_it() {
    let table = PageTable::new(64, None);
    let add = |lsn, base, readers: &Readers| {
        let ranges = vec![40..50, 60..61];
        let change = Change {
            base: Lsn(base),
            ranges,
        };
        let content = Content::Image(image(lsn));
        table.publish(P, Lsn(lsn), content, Some(change), readers);
    };
    let take = |newest, readers: &Readers| table.take_replaced(P, Lsn(newest), readers);
    add(10, 5, &readers(&[], 5));
    assert!(
        take(10, &readers(&[], 10)).is_none(),
        "nothing was replaced"
    );
    add(20, 10, &readers(&[], 10));
    assert!(take(20, &readers(&[], 10)).is_none(), "not durable yet");
    assert!(take(20, &readers(&[15], 20)).is_none(), "somebody reads it");
    assert!(take(25, &readers(&[], 25)).is_none(), "not the newest");
    let Lookup::Found(held) = table.lookup(P, Lsn(15)) else {
        panic!("it is in memory");
    };
    assert!(take(20, &readers(&[], 20)).is_none(), "somebody holds it");
    drop(held);
    let (taken, ranges) = take(20, &readers(&[20], 20)).unwrap();
    assert_eq!((taken.lsn(), ranges), (Lsn(10), vec![40..50, 60..61]));
    assert_eq!((lsn_at(&table, 15), lsn_at(&table, 20)), (None, Some(20)));
    assert_eq!(table.image_counts(), (1, 0));
    assert!(take(20, &readers(&[], 20)).is_none(), "there is no other");
    add(30, 15, &readers(&[], 20));
    assert!(take(30, &readers(&[], 30)).is_none(), "made of another one");
}

/// Memory does not hold the live page beside the version that comes after it, and the clock forgets it.
#[test]
fn clean_page_makes_room_for_a_version() {
    let table = PageTable::new(64, None);
    for lsn in 1..1000 {
        let all = readers(&[], lsn);
        publish(&table, lsn, &all);
        assert_eq!(table.image_counts(), (1, 0));
        table.begin_overwrite(P, Lsn(lsn), &all);
        table.written(P, image(lsn), &all);
        assert_eq!(table.image_counts(), (0, 1));
    }
    assert!(table.shard(P).lock().clock_hands() < 200);
}

/// E5: what the live file loses is in the chain while a reader needs it.
#[test]
fn old_content_is_kept_for_the_reader_that_needs_it() {
    let table = PageTable::new(64, None);
    let old = readers(&[7], 10);
    publish(&table, 10, &old);
    assert!(table.begin_overwrite(P, Lsn(10), &old));
    table.keep_old(P, image(3));
    table.written(P, image(10), &old);
    assert_eq!(lsn_at(&table, 7), Some(3));
    assert_eq!(lsn_at(&table, 10), Some(10));
    table.sweep(&readers(&[], 10));
    assert_eq!(
        lsn_at(&table, 7),
        None,
        "a clean page newer than the reader is not given out"
    );
    assert_eq!(
        lsn_at(&table, 10),
        Some(10),
        "and the newest is a clean page"
    );
    assert_eq!(table.image_counts().0, 0);
}

/// E4: once an overwrite is announced, the content that the live file loses stays in the chain,
/// although at that moment the live file still holds it.
#[test]
fn version_in_the_live_file_stays_while_it_is_overwritten() {
    let table = PageTable::new(64, None);
    let both = readers(&[7, 12], 20);
    publish(&table, 5, &both);
    publish(&table, 10, &both);
    table.written(P, image(10), &both);
    publish(&table, 20, &both);
    assert!(
        !table.begin_overwrite(P, Lsn(20), &both),
        "all that readers need is in the chain"
    );
    table.sweep(&readers(&[12], 20));
    table.written(P, image(20), &readers(&[12], 20));
    assert_eq!(lsn_at(&table, 12), Some(10));
}

/// A page read before an overwrite and filled in after it must not become the cached one.
#[test]
fn fill_after_an_overwrite_is_dropped() {
    let table = PageTable::new(64, None);
    let Lookup::Live(generation, _) = table.lookup(P, Lsn(100)) else {
        panic!("nothing is there")
    };
    publish(&table, 10, &readers(&[], 10));
    table.written(P, image(10), &readers(&[], 10));
    table.fill(P, generation, image(3));
    assert_eq!(lsn_at(&table, 100), Some(10));
}

#[test]
fn unwritten_names_the_version_at_the_lsn_and_not_the_newest() {
    let table = PageTable::new(64, None);
    let all = readers(&[10], 10);
    publish(&table, 10, &all);
    publish(&table, 20, &all);
    assert_eq!(
        table.unwritten(P, Lsn(15)).unwrap().map(|page| page.lsn()),
        Some(Lsn(10))
    );
    assert_eq!(table.unwritten_pages(Lsn(9)), []);
    table.written(P, image(10), &all);
    assert_eq!(table.unwritten(P, Lsn(15)).unwrap(), None);
    assert_eq!(table.unwritten_pages(Lsn(20)), [P]);
}

#[test]
fn clean_pages_stay_within_their_bound() {
    let table = PageTable::new(0, None);
    for number in 0..10_000 {
        let page = PageNo(number);
        let Lookup::Live(generation, _) = table.lookup(page, Lsn::MAX) else {
            continue;
        };
        table.fill(page, generation, image(1));
    }
    assert!(table.image_counts().1 <= 64 * 4);
}

/// A table of 16 images a shard, and a page of the shard of `P` that was not asked for yet with every call.
fn roomy() -> (PageTable, impl FnMut() -> PageNo) {
    let table = PageTable::new(64 * 16, None);
    let place = std::ptr::from_ref(table.shard(P));
    let neighbours: Vec<PageNo> = (10..100_000)
        .map(PageNo)
        .filter(|page| std::ptr::from_ref(table.shard(*page)) == place)
        .collect();
    let mut neighbours = neighbours.into_iter();
    (table, move || neighbours.next().unwrap())
}

/// Looks for `page` and reads it as of LSN `lsn` where it is not there; whether it was.
fn touch(table: &PageTable, page: PageNo, lsn: u64) -> bool {
    match table.lookup(page, Lsn::MAX) {
        Lookup::Live(generation, memory) => {
            assert!(memory.is_none_or(|mut memory| Arc::get_mut(&mut memory).is_some()));
            table.fill(page, generation, image(lsn));
            false
        }
        _ => true,
    }
}

#[test]
fn pages_read_once_push_out_none_that_is_read_again() {
    let (table, mut next) = roomy();
    let kept: Vec<PageNo> = (0..15).map(|_| next()).collect();
    for page in &kept {
        assert!(!touch(&table, *page, 1));
    }
    for _ in 0..1000 {
        assert!(!touch(&table, next(), 1));
    }
    assert!(kept.iter().all(|page| touch(&table, *page, 1)));
    assert!(!touch(&table, P, 1));
    assert!(touch(&table, P, 1), "until another page is read");
    assert!(!touch(&table, next(), 1));
    assert!(!touch(&table, P, 1), "its memory was used");
    // Sooner or later it wins the toss against the ghosts of those that were read once.
    assert!((0..20).any(|_| !touch(&table, next(), 1) && touch(&table, P, 1)));
    for _ in 0..10 {
        assert!(!touch(&table, next(), 1));
        assert!(touch(&table, P, 1), "it is kept");
    }
    assert_eq!(table.image_counts(), (0, 16));
}

/// Whatever memory is full of that nobody reads any more, it gives way.
#[test]
fn pages_that_are_read_in_turn_are_all_kept_in_the_end() {
    for count in [2, 5, 8, 12] {
        let (table, mut next) = roomy();
        for _ in 0..15 {
            touch(&table, next(), 1);
        }
        let wanted: Vec<PageNo> = (0..count).map(|_| next()).collect();
        for _ in 0..60 {
            for page in &wanted {
                touch(&table, *page, 1);
            }
        }
        let kept = wanted.iter().filter(|page| touch(&table, **page, 1));
        assert_eq!(kept.count(), count);
    }
}

/// E3: what the live file held before an overwrite is not what it holds.
#[test]
fn spare_is_not_the_page_any_more_once_that_was_overwritten() {
    let (table, mut next) = roomy();
    for _ in 0..15 {
        touch(&table, next(), 1);
    }
    touch(&table, P, 3);
    assert_eq!(lsn_at(&table, 100), Some(3));
    let all = readers(&[], 10);
    publish(&table, 10, &all);
    table.begin_overwrite(P, Lsn(10), &all);
    table.written(P, image(10), &all);
    assert_eq!(lsn_at(&table, 100), Some(10));
    // Writing pushes it out and needs no memory to read into.
    for _ in 0..40 {
        let page = next();
        table.publish(page, Lsn(10), Content::Image(image(10)), None, &all);
        table.begin_overwrite(page, Lsn(10), &all);
        table.written(page, image(10), &all);
    }
    assert_eq!(lsn_at(&table, 100), None);
}

/// E3: nobody reads into memory that somebody looks at.
#[test]
fn memory_of_a_page_that_is_held_is_not_given_away() {
    let (table, mut next) = roomy();
    for _ in 0..15 {
        touch(&table, next(), 1);
    }
    touch(&table, P, 3);
    let Lookup::Found(held) = table.lookup(P, Lsn::MAX) else {
        panic!("it was read last")
    };
    assert!(matches!(
        table.lookup(next(), Lsn::MAX),
        Lookup::Live(_, None)
    ));
    drop(held);
    assert!(matches!(
        table.lookup(next(), Lsn::MAX),
        Lookup::Live(_, Some(_))
    ));
}

/// E13: what was lent is given back before the lender uses it, and no version goes to the spool for that.
#[test]
fn clean_pages_give_back_what_they_were_lent() {
    let table = PageTable::new(64 * 16, None);
    let read_all = || {
        for page in 0..10_000 {
            touch(&table, PageNo(page), 1);
        }
        table.image_counts().1
    };
    assert_eq!(read_all(), 64 * 16);
    table.lend(64 * 8, 0);
    assert_eq!(read_all(), 64 * (16 + 7), "a part is never lent");
    table.lend(64 * 8, 64 * 5);
    assert_eq!(table.image_counts().1, 64 * (16 + 3));
    assert_eq!(read_all(), 64 * (16 + 3));
    table.lend(64 * 8, 64 * 8);
    assert_eq!(table.image_counts().1, 64 * 16);
}
