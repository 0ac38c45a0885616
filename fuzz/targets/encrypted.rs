//! An encrypted object with patches and another length: every range of it is what was put, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stillfs::os::{OpenMode, write_all_at};
use stillfs::repository::store::Put;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::repository::{encrypted, stored};

/// More than a chunk.
const BYTES: usize = 70_000;

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0; 4], vec![1; 8], vec![1, 0, 9, 0, 4, 1]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let (host, repository) = encrypted();
        let store = repository.store().as_ref();
        let plain = b"0123456789abcdef".repeat(BYTES / 16);
        let put = store.put("packs/00", &[&plain], Put::New);
        put.expect("nothing fails on this machine");
        let (path, mut bytes) = stored(&host, "packs");
        let (offset, count) = (u64::from(input.u32()), usize::from(input.u16()));
        input.patch(&mut bytes, 1024);
        host.disk.remove(&path).expect("it is there");
        let file = host.disk.open(&path, OpenMode::CreateNew);
        let file = file.expect("nothing fails on this machine");
        write_all_at(file.as_ref(), &bytes, 0).expect("nothing fails on this machine");
        if let Ok(size) = store.size("packs/00") {
            assert!(size <= bytes.len() as u64);
        }
        let mut out = vec![0; count];
        if store.read_at("packs/00", offset, &mut out).is_ok() {
            let from = usize::try_from(offset).expect("few bytes");
            // Nothing is asked of what is no part of a chunk.
            assert!(count == 0 || out == plain[from..from + count]);
        }
    }
);
