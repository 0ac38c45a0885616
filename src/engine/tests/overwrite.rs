//! Values that are overwritten in place, again and again: pages that are made of those that they replace.

use super::*;
use crate::engine::error::FileRole;
use crate::engine::page_table::{Content, Lookup};
use crate::lsn::Lsn;

const KEYS: u64 = 120;

fn key(number: u64) -> Vec<u8> {
    format!("key {number:04}").into_bytes()
}

/// E1, E3, E4: whoever reads an older state goes on to read that one, however often the pages are changed
/// meanwhile, and what was committed is there after a crash.
#[test]
fn pages_made_of_replaced_ones_leave_every_state_as_it_was() {
    for seed in 0..20 {
        let random = SeededRandom::new(seed);
        let mut simulated = Host::simulated(seed);
        let mut model = Model::new();
        for _ in 0..3 {
            let engine = open(&simulated.host).unwrap();
            let mut held: Vec<(ReadTransaction, Model)> = Vec::new();
            for _ in 0..150 {
                match below(&random, 12) {
                    0 => held.push((engine.begin_read(), model.clone())),
                    1 | 2 if !held.is_empty() => {
                        drop(held.swap_remove(below(&random, held.len() as u64) as usize));
                    }
                    3 => drop(engine.checkpoint().unwrap()),
                    _ => {}
                }
                let mut write = engine.begin_write().unwrap();
                let mut next = model.clone();
                for _ in 0..=below(&random, 6) {
                    let key = key(below(&random, KEYS));
                    let mut value = next.get(&key).cloned().unwrap_or_else(|| vec![b'x'; 100]);
                    value[below(&random, 100) as usize] = below(&random, 256) as u8;
                    if below(&random, 20) == 0 {
                        value.resize(100 + below(&random, 2) as usize, b'y');
                    }
                    write.put("t", &key, &value).unwrap();
                    next.insert(key, value);
                }
                if below(&random, 10) == 0 {
                    write.rollback();
                } else {
                    write.commit().unwrap();
                    model = next;
                }
                for (read, then) in &held {
                    assert!(contents(read) == *then, "seed {seed}");
                }
                assert!(contents(&engine.begin_read()) == model, "seed {seed}");
            }
            assert_sound(&engine);
            drop((held, engine));
            simulated = simulated.crash(seed);
            let engine = open(&simulated.host).unwrap();
            assert_sound(&engine);
            assert!(contents(&engine.begin_read()) == model, "seed {seed}");
        }
    }
}

/// The copy of a page of which two images are in memory is made of the older one, and nobody's is given away.
#[test]
fn image_that_nobody_reads_any_more_becomes_the_next_one() {
    let simulated = Host::simulated(1);
    let engine = open(&simulated.host).unwrap();
    let set = |byte: u8| {
        let mut write = engine.begin_write().unwrap();
        write.put("t", b"key", &[byte; 50]).unwrap();
        write.commit().unwrap();
    };
    let root = || {
        let (shared, at) = (&engine.shared, engine.shared.registry.points().newest.lsn);
        let pages = shared.table.unwritten_pages(at);
        let newest = pages.into_iter().filter_map(|page| {
            let Lookup::Found(image) = shared.table.lookup(page, at) else {
                return None;
            };
            (image.lsn() == at).then(|| image.as_ptr() as usize)
        });
        newest.max().unwrap_or_default()
    };
    // The table comes to be, an image of its page is logged, then come changes of it.
    let places: Vec<usize> = (0..8).map(|byte| (set(byte), root()).1).collect();
    assert_eq!(places[3..5], places[5..7], "two images take turns");
    assert_ne!(places[3], places[4]);
    let reader = engine.begin_read();
    let before = root();
    (8..12).for_each(set);
    assert_eq!(reader.get("t", b"key").unwrap(), Some(vec![7; 50]));
    assert_ne!(root(), before);
}

/// What went wrong in memory does not get into the live file, and the log that has it right stays.
#[test]
fn page_whose_sum_is_wrong_is_not_written() {
    let simulated = Host::simulated(3);
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"key", b"value").unwrap();
    write.commit().unwrap();
    let stats = engine.stats();
    let (page, lsn) = (PageNo(stats.page_count - 1), Lsn(stats.lsn + 1));
    let table = &engine.shared.table;
    let sound = table.unwritten(page, lsn).unwrap().unwrap();
    let mut broken = (*sound).clone();
    broken.seal(lsn);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let readers = engine.shared.registry.snapshot();
    table.publish(page, lsn, Content::Image(Arc::new(broken)), None, &readers);
    let mut write = engine.begin_write().unwrap();
    write.put("u", b"key", b"value").unwrap();
    write.commit().unwrap();
    let log_bytes = engine.stats().wal_bytes;
    let error = engine.checkpoint().unwrap_err();
    assert!(
        matches!(&error, EngineError::Page { file: FileRole::Memory, page: found, .. } if *found == page),
        "{error}"
    );
    assert!(engine.stats().wal_bytes >= log_bytes);
    drop(engine);
    let engine = open(&simulated.process_crash().host).unwrap();
    let read = engine.begin_read();
    assert_eq!(
        read.get("t", b"key").unwrap().as_deref(),
        Some(&b"value"[..])
    );
    assert_sound(&engine);
}

/// An application may look at a transaction from several threads.
#[test]
fn transactions_can_be_shared_among_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<ReadTransaction>();
    is_shared::<WriteTransaction>();
    is_shared::<Range<'_>>();
    is_shared::<Keys<'_>>();
}
