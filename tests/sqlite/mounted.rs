//! WAL mode, as people use it: `stillfs mount`, a copy, `stillfs umount`.

use crate::lane::{Keeping, Lane, Plan};
use crate::taken::Via;

fn run(name: &'static str, page_size: u64, auto_vacuum: &'static str, autocheckpoint: u64) {
    if !crate::can_run() || !crate::can_mount() {
        return;
    }
    let plan = Plan {
        name,
        page_size,
        auto_vacuum,
        journal_mode: "wal",
        synchronous: "normal",
        autocheckpoint,
        via: Via::Mount,
        keeping: Keeping::Mark,
        views: 50 * crate::rounds(),
    };
    let counts = Lane::start(plan, crate::seed(name)).run();
    counts.assert_occurred(&["READ(0)", "READ(1..4)", "database file changed"]);
    assert_eq!(counts.of("views"), plan.views, "no pin was refused");
    assert!(counts.of("byte-equal") * 10 > plan.views * 3, "{counts}");
}

/// N1.
#[test]
fn small_pages_mounted() {
    run("mounted 512", 512, "full", 20);
}

/// N1.
#[test]
fn usual_pages_mounted() {
    run("mounted 4096", 4096, "none", 1000);
}

/// N1.
#[test]
fn large_pages_mounted() {
    run("mounted 65536", 65536, "incremental", 20);
}
