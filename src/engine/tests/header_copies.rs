//! Two copies of the header, one of them torn.

use super::*;
use crate::os::sim::{Fault, Operation, SimDisk};
use crate::os::{Disk, OpenMode, read_exact_at, write_all_at};
use crate::page::PageNo;

const SECTOR: usize = 512;
const PAGE_BYTES: usize = 4096;
const DATA: &str = "/db/data.pages";

fn read_copy(disk: &SimDisk, copy: usize) -> Vec<u8> {
    let file = disk.open(Path::new(DATA), OpenMode::Read).unwrap();
    let mut bytes = vec![0; PAGE_BYTES];
    read_exact_at(&*file, &mut bytes, (copy * PAGE_BYTES) as u64).unwrap();
    bytes
}

fn write_copy(disk: &SimDisk, copy: usize, bytes: &[u8]) {
    let file = disk.open(Path::new(DATA), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, bytes, (copy * PAGE_BYTES) as u64).unwrap();
}

fn commit(engine: &Engine, key: &[u8]) {
    let mut write = engine.begin_write().unwrap();
    write.put("t", key, &[5; 3000]).unwrap();
    write.commit().unwrap();
}

/// A database with a log, whose newer header copy was written by a checkpoint and not synced yet; the
/// number of that copy, and what it held before.
fn checkpoint_before_its_last_sync() -> (crate::os::SimulatedHost, usize, Vec<u8>) {
    let simulated = Host::simulated(41);
    let engine = open(&simulated.host).unwrap();
    commit(&engine, b"first");
    engine.checkpoint().unwrap();
    commit(&engine, b"second");
    let before = [0, 1].map(|copy| read_copy(&simulated.disk, copy));
    let fault = Fault::errno(Operation::SyncData, EIO)
        .on("data.pages")
        .after(1);
    simulated.disk.set_faults(Faults::none().with(fault));
    assert!(engine.checkpoint().is_err());
    simulated.disk.set_faults(Faults::none());
    drop(engine);
    let written = (0..2).find(|&copy| read_copy(&simulated.disk, copy) != before[copy]);
    let written = written.expect("the checkpoint came to its header");
    let old = before[written].clone();
    (simulated.process_crash(), written, old)
}

fn assert_all_there(host: &Host, at: &str) {
    let engine = open(host).unwrap_or_else(|error| panic!("{at}: {error}"));
    let read = engine.begin_read();
    for key in [&b"first"[..], b"second"] {
        assert!(read.contains("t", key).unwrap(), "{at}");
    }
    assert_sound(&engine);
    commit(&engine, b"later");
    engine.close().unwrap();
}

/// E7, E10: any sector of the copy that was being written may hold the old bytes, others, or zeros:
/// then the older copy counts, and its log is still there.
#[test]
fn torn_copy_leaves_the_older_one_with_its_log() {
    for sector in 0..PAGE_BYTES / SECTOR {
        for kind in 0..3 {
            let (machine, copy, old) = checkpoint_before_its_last_sync();
            let mut torn = read_copy(&machine.disk, copy);
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match kind {
                0 => torn[range.clone()].copy_from_slice(&old[range]),
                1 => torn[range].fill(0xa5),
                _ => torn[range].fill(0),
            }
            write_copy(&machine.disk, copy, &torn);
            assert_all_there(&machine.host, &format!("sector {sector}, {kind}"));
        }
    }
}

/// Either copy of a stopped database may be damaged in any sector, and it is said which.
#[test]
fn damage_of_either_copy_is_named_and_survived() {
    for copy in 0..2 {
        for sector in 0..PAGE_BYTES / SECTOR {
            let simulated = Host::simulated(42);
            let engine = open(&simulated.host).unwrap();
            commit(&engine, b"first");
            commit(&engine, b"second");
            engine.close().unwrap();
            drop(engine);
            let mut torn = read_copy(&simulated.disk, copy);
            torn[sector * SECTOR + 200] ^= 0x10;
            write_copy(&simulated.disk, copy, &torn);
            let disk = &simulated.host.disk;
            let file = disk.open(Path::new(DATA), OpenMode::Read).unwrap();
            let header = header::read(&*file, Path::new(DATA)).unwrap();
            let bad = header::bad_copies(&*file, &header);
            assert_eq!(bad, [PageNo(copy as u64)], "sector {sector}");
            assert_all_there(&simulated.host, &format!("copy {copy}, sector {sector}"));
            let file = disk.open(Path::new(DATA), OpenMode::Read).unwrap();
            let header = header::read(&*file, Path::new(DATA)).unwrap();
            assert_eq!(header::bad_copies(&*file, &header), [], "written anew");
        }
    }
}

#[test]
fn two_damaged_copies_are_corruption() {
    let simulated = Host::simulated(43);
    open(&simulated.host).unwrap().close().unwrap();
    for copy in 0..2 {
        write_copy(&simulated.disk, copy, &[0xff; SECTOR]);
    }
    let error = open(&simulated.host).unwrap_err();
    assert_eq!(error.kind(), error::ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("restore"), "{error}");
}
