//! A `shadow/` directory as a hostile neighbour leaves it, its pins held, and an engine that starts,
//! deals with them, pins anew, writes over what they need, and stops.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stillfs::Database;
use stillfs::codec;
use stillfs::os::{self, Disk, LockKind, OpenMode, SimulatedHost};
use stillfs_fuzz::input::Input;
use stillfs_fuzz::page_image::{PAGE_BYTES, mend_sector};
use stillfs_fuzz::{sample, walk};

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0; 4], vec![1; 4], vec![3, 0, 0x14, 0, 128, 9, 9]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let how = input.u8();
        let mut files = sample::PINNED.clone();
        let mut indexes = Vec::new();
        for (path, bytes) in &mut files {
            if path.ends_with("slots") {
                input.patch(bytes, PAGE_BYTES);
            } else if path.extension().is_some_and(|ending| ending == "pin") {
                input.patch(bytes, 512);
                indexes.push(path.clone());
            }
        }
        let machine = sample::machine_with(&files);
        for path in &indexes {
            mend_index(&machine, path, how);
        }
        // Readers of another process hold them, all or some.
        let elsewhere = machine.disk.another_process();
        let held = indexes.iter().skip(usize::from(how >> 7)).map(|path| {
            let index = elsewhere.open(path, OpenMode::Read).expect("it was made");
            assert!(index.try_lock(LockKind::Shared).expect("locks work here"));
            index
        });
        let held: Vec<_> = held.collect();
        let Ok(database) =
            Database::open_on(&machine.host, Path::new(sample::DIR), &sample::options())
        else {
            return;
        };
        let pin = database.pin();
        walk::write(database.engine(), &mut input);
        let _ = database.checkpoint();
        drop(held);
        drop(pin);
        walk::look(database.engine());
        let _ = database.close();
    }
);

/// Has an index name the live file and the slot file of this machine, with a right checksum; or not.
fn mend_index(machine: &SimulatedHost, path: &Path, how: u8) {
    let open = |path: &Path| machine.disk.open(path, OpenMode::ReadWrite);
    let file = open(path).expect("it was made");
    let mut head = [0; 512];
    if os::read_up_to(&*file, &mut head, 0).expect("it can be read") < head.len() {
        return;
    }
    if how & 2 == 0 {
        for (name, at) in [("data.pages", 144), ("shadow/slots", 168)] {
            let named = open(&Path::new(sample::DIR).join(name)).expect("it was made");
            let identity = named.identity().expect("every file has one");
            codec::put(&mut head, at, &identity.device.to_le_bytes());
            codec::put(&mut head, at + 8, &identity.inode.to_le_bytes());
        }
    }
    if how & 1 == 1 {
        mend_sector(&mut head, 0);
    }
    os::write_all_at(&*file, &head, 0).expect("it can be written");
}
