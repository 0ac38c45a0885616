//! An engine that runs, and writes, on a page file as a hostile writer leaves it.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stillfs::database::Engine;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::page_image::{PAGE_BYTES, mend_page_file};
use stillfs_fuzz::{sample, walk};

fuzz_target!(
    init: stillfs_fuzz::plant(&[
        vec![0, 1, 5, 0, 1, 9, 0, 0],
        vec![1, 1, 3, 34, 0, 3, 0, 0, 0, 0, 4, 0, 0, 0x41, 9, 0, 0],
    ]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let mut files = sample::CLOSED.clone();
        for (path, bytes) in &mut files {
            if path.ends_with("data.pages") {
                let changed = input.patch(bytes, PAGE_BYTES);
                mend_page_file(bytes, &changed);
            }
        }
        let machine = sample::machine_with(&files);
        if let Ok(engine) =
            Engine::open(&machine.host, Path::new(sample::DIR), &sample::options(), None)
        {
            walk::write(&engine, &mut input);
            walk::look(&engine);
            // A hostile page may make the last checkpoint fail; nothing may panic.
            let _ = engine.close();
        }
    }
);
