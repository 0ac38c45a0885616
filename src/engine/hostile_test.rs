//! Page files and logs whose checksums are right and whose numbers lie. The fuzz targets found them.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::page_io::FreeList;
use crate::engine::wal::{CommitRecord, RecordKind, push_record};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{self, OpenMode, SimulatedHost};
use crate::page::PageNo;

const DIR: &str = "/db";
/// One bit for each page of it would be more memory than any machine has.
const LYING_PAGE_COUNT: u64 = 1 << 50;

fn open(machine: &SimulatedHost) -> Result<Engine, EngineError> {
    Engine::open(
        &machine.host,
        Path::new(DIR),
        &EngineOptions::default(),
        None,
    )
}

fn database(machine: &SimulatedHost) -> Engine {
    let engine = open(machine).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"key", b"value").unwrap();
    write.commit().unwrap();
    engine
}

fn file(machine: &SimulatedHost, path: &str) -> Arc<dyn File> {
    machine
        .host
        .disk
        .open(Path::new(path), OpenMode::ReadWrite)
        .unwrap()
}

/// E9: what a header counts is in the file. A check asks for memory by that number.
#[test]
fn page_count_beyond_the_file_is_refused_however_it_is_opened() {
    let machine = Host::simulated(1);
    let engine = database(&machine);
    engine.close().unwrap();
    let mut header = engine.header();
    drop(engine);
    let data = file(&machine, "/db/data.pages");
    header.point.page_count = LYING_PAGE_COUNT;
    header.sequence += 1;
    os::write_all_at(&*data, &header.encode(PageNo(0)), 0).unwrap();
    let refused = [
        open(&machine),
        Engine::open_read_only(&machine.host, Path::new(DIR), 0),
        Engine::open_still(&machine.host, data, 0),
    ];
    for result in refused {
        let error = result.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// E9: what a commit counts is in the file or in the log.
#[test]
fn page_count_of_a_commit_beyond_file_and_log_is_refused() {
    let machine = Host::simulated(2);
    let end = database(&machine).stats().lsn;
    let machine = machine.process_crash();
    let name = machine
        .host
        .disk
        .list(Path::new("/db/wal"))
        .unwrap()
        .remove(0);
    let segment = file(&machine, &format!("/db/wal/{}", name.display()));
    let mut head = [0; 512];
    os::read_exact_at(&*segment, &mut head, 0).unwrap();
    let field = |at| crate::codec::get_u64(&head, at).unwrap();
    let length = 512 + end - field(56);
    let record = CommitRecord {
        timestamp: Timestamp(1000),
        wall_ns: u64::MAX >> 1,
        synced: Lsn(0),
        page_count: LYING_PAGE_COUNT,
        free: FreeList::default(),
    };
    let start = Lsn(end);
    let mut bytes = Vec::new();
    push_record(
        &mut bytes,
        field(64),
        start,
        RecordKind::Commit,
        &record.encode(),
    );
    os::write_all_at(&*segment, &bytes, length).unwrap();
    for result in [
        Engine::open_read_only(&machine.host, Path::new(DIR), 0),
        open(&machine),
    ] {
        let error = result.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("page count"), "{error}");
    }
}
