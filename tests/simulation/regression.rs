//! What the simulation found, in as few steps as it takes.

use stillfs::database::{Database, EngineOptions};
use stillfs::os::Host;
use stillfs::os::sim::{Fault, Faults, Operation};
use stillfs::page::PageSize;

fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(4096).expect("a page size"),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    }
}

fn fill(database: &Database, byte: u8) {
    let mut write = database.begin_write().expect("the writer slot");
    for key in 0..200_u32 {
        write
            .put("t", &key.to_be_bytes(), &[byte; 100])
            .expect("a put");
    }
    write.commit().expect("a commit");
}

/// E7, E9: a checkpoint that goes on with an old target leaves out the pages that were changed again since,
/// and its header may count pages that the file does not have yet. They are in the log, and a crash then
/// must not look like a file that was cut. (Simulation: a `hold` pin held the checkpoint up.)
#[test]
fn page_file_may_lack_what_the_log_has() {
    for writes in 0..6 {
        let simulated = Host::simulated(writes);
        let database = Database::open_on(&simulated.host, "/db", &options()).expect("a database");
        fill(&database, 1);
        let fail_after = |operation, count| {
            let fault = Fault::errno(operation, 5).on("data.pages");
            let faults = Faults::none().with(fault.after(count).times(u64::MAX));
            simulated.disk.set_faults(faults);
            let outcome = database.checkpoint();
            simulated.disk.set_faults(Faults::none());
            outcome
        };
        fail_after(Operation::Open, 0).expect_err("nobody can tell whether the file was moved");
        fill(&database, 2);
        // One of these writes is the header that names the old target.
        let _ = fail_after(Operation::Write, writes);
        let after = simulated.crash(1);
        let database = Database::open_on(&after.host, "/db", &options()).expect("a recovery");
        let read = database.begin_read().expect("a read");
        for key in 0..200_u32 {
            let value = read.get("t", &key.to_be_bytes()).expect("an entry");
            assert_eq!(value, Some(vec![2; 100]));
        }
        assert!(database.check().expect("a check").is_clean());
    }
}
