//! WAL mode, by the library: every kind of pin, for each page size.

use crate::lane::{Keeping, Lane, Plan};
use crate::taken::Via;

/// A lane for each page size; with those of `mounted` and `rollback_mode` a thousand views.
const PLANS: [Plan; 3] = [
    Plan {
        name: "wal 512",
        page_size: 512,
        auto_vacuum: "none",
        journal_mode: "wal",
        synchronous: "normal",
        autocheckpoint: 1000,
        via: Via::Library,
        keeping: Keeping::Mark,
        views: 250,
    },
    Plan {
        name: "wal 4096",
        page_size: 4096,
        auto_vacuum: "incremental",
        journal_mode: "wal",
        synchronous: "full",
        autocheckpoint: 20,
        via: Via::Library,
        keeping: Keeping::Mark,
        views: 250,
    },
    Plan {
        name: "wal 65536",
        page_size: 65536,
        auto_vacuum: "full",
        journal_mode: "wal",
        synchronous: "off",
        autocheckpoint: 20,
        via: Via::Library,
        keeping: Keeping::Mark,
        views: 200,
    },
];

fn run(plan: Plan) {
    if !crate::can_run() {
        return;
    }
    let mut plan = plan;
    plan.views *= crate::rounds();
    let counts = Lane::start(plan, crate::seed(plan.name)).run();
    counts.assert_occurred(&[
        "READ(0)",
        "READ(1..4)",
        "low mark",
        "long log",
        "hot",
        "closed",
        "database file changed",
        "checkpointed",
        "reset refused",
        "log reset",
    ]);
    assert_eq!(counts.of("views"), plan.views, "no pin was refused");
    assert_eq!(counts.of("no mark"), 0, "each pin holds a mark");
    assert!(counts.of("byte-equal") * 10 > plan.views * 3, "{counts}");
}

/// N1.
#[test]
fn small_pages() {
    run(PLANS[0]);
}

/// N1.
#[test]
fn usual_pages() {
    run(PLANS[1]);
}

/// N1.
#[test]
fn large_pages() {
    run(PLANS[2]);
}

/// N1: while the mark is let go for a copy, and after, also when the log is begun anew.
#[test]
fn views_that_are_spilled() {
    if !crate::can_run() {
        return;
    }
    let plan = Plan {
        name: "wal spilled",
        autocheckpoint: 1000,
        synchronous: "off",
        keeping: Keeping::Spill,
        views: 100 * crate::rounds(),
        ..PLANS[1]
    };
    let counts = Lane::start(plan, crate::seed(plan.name)).run();
    counts.assert_occurred(&["spilled", "log reset", "database file changed"]);
    assert_eq!(counts.of("views"), plan.views, "no pin was refused");
    assert!(counts.of("ended at its limit") * 4 < plan.views, "{counts}");
}
