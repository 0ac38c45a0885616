//! The text that `stillfs load` reads, into a database.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stillfs::database::Engine;
use stillfs::os::Host;
use stillfs_fuzz::{sample, walk};

const DUMP: &[u8] = b"stillfs dump 1\ntable a 2\nk %\nl v%0a\ntable b 0\nend 2\n";

fuzz_target!(init: stillfs_fuzz::plant(&[DUMP.to_vec()]), |data: &[u8]| {
    let machine = Host::simulated(1);
    let engine = Engine::open(&machine.host, Path::new(sample::DIR), &sample::options(), None);
    let engine = engine.expect("a database can be made");
    let loaded = stillfs::database::load_text(&engine, data);
    let report = engine.check().expect("nothing fails on this machine");
    assert!(report.is_clean(), "{:?}", report.findings);
    if let Ok(loaded) = loaded {
        assert_eq!(report.totals.entry_count, loaded.entry_count);
    }
    walk::look(&engine);
});
