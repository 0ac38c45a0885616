//! Rollback journals: a pin is a copy, or it is refused; what a crash left is rolled back first.

use crate::lane::{Keeping, Lane, Plan};
use crate::taken::Via;

fn run(name: &'static str, journal_mode: &'static str, page_size: u64, via: Via) {
    if !crate::can_run() || (via == Via::Mount && !crate::can_mount()) {
        return;
    }
    let views = match via {
        Via::Library => 60,
        Via::Mount => 20,
    };
    let plan = Plan {
        name,
        page_size,
        auto_vacuum: "none",
        journal_mode,
        synchronous: "off",
        autocheckpoint: 1000,
        via,
        keeping: Keeping::Mark,
        views: views * crate::rounds(),
    };
    let counts = Lane::start(plan, crate::seed(name)).run();
    counts.assert_occurred(&["views", "hot", "database file changed"]);
    assert_eq!(counts.of("views"), counts.of("no mark"), "no lock stays");
    assert!(counts.of("refused") * 2 < plan.views, "{counts}");
    assert!(
        counts.of("byte-equal") * 10 > counts.of("views") * 3,
        "{counts}"
    );
}

/// N1.
#[test]
fn deleted_journals() {
    run("delete 4096", "delete", 4096, Via::Library);
}

/// N1.
#[test]
fn truncated_journals() {
    run("truncate 512", "truncate", 512, Via::Library);
}

/// N1.
#[test]
fn persistent_journals() {
    run("persist 65536", "persist", 65536, Via::Library);
}

/// N1.
#[test]
fn deleted_journals_mounted() {
    run("mounted delete", "delete", 4096, Via::Mount);
}
