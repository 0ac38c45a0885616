//! What the rules let pass, and why. A rule with many exceptions is a wrong rule.

use crate::Finding;

/// One thing that one rule lets pass in one place.
#[derive(Debug)]
pub(crate) struct Exception {
    /// The rule's name.
    pub(crate) rule: &'static str,
    /// A file, or a folder with all below it.
    pub(crate) path: &'static str,
    /// The subject of the findings that it covers.
    pub(crate) subject: &'static str,
    /// Why it is right here.
    pub(crate) reason: &'static str,
}

/// All of them.
pub(crate) const EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: "place",
        path: "src/mount",
        subject: "libc",
        reason: "the kernel's numbers (SEEK_DATA, open flags, devices, errors); no system call",
    },
    Exception {
        rule: "place",
        path: "src/engine/wal/tests",
        subject: "libc",
        reason: "error numbers that a simulated disk answers with; no system call",
    },
    Exception {
        rule: "place",
        path: "src/repository/interrupted_test.rs",
        subject: "libc",
        reason: "error numbers that a simulated disk answers with; no system call",
    },
    Exception {
        rule: "place",
        path: "src/repository/retention/tests.rs",
        subject: "libc",
        reason: "error numbers that a simulated disk answers with; no system call",
    },
    Exception {
        rule: "place",
        path: "src/repository/verify/tests.rs",
        subject: "libc",
        reason: "error numbers that a simulated disk answers with; no system call",
    },
    Exception {
        rule: "host",
        path: "Cargo.lock",
        subject: "crates.io-index",
        reason: "cargo itself writes the name of the default registry there",
    },
    Exception {
        rule: "host",
        path: "fuzz/Cargo.lock",
        subject: "crates.io-index",
        reason: "cargo itself writes the name of the default registry there",
    },
    Exception {
        rule: "host",
        path: "benches/peers/Cargo.lock",
        subject: "crates.io-index",
        reason: "cargo itself writes the name of the default registry there",
    },
    Exception {
        rule: "machine path",
        path: "tests/style",
        subject: "*",
        reason: "the rule's own table and samples",
    },
    Exception {
        rule: "host",
        path: "tests/style",
        subject: "*",
        reason: "the rule's own table and samples",
    },
    Exception {
        rule: "marker",
        path: "tests/style",
        subject: "*",
        reason: "the rule's own table and samples",
    },
];

/// Whether an exception covers `finding`.
pub(crate) fn covers(finding: &Finding) -> bool {
    EXCEPTIONS.iter().any(|exception| {
        exception.rule == finding.rule
            && crate::tree::is_below(&finding.path, exception.path)
            && ["*", &finding.subject].contains(&exception.subject)
    })
}

/// An exception that nothing needs any more would hide the next mistake. One for a place that is not
/// there yet hides nothing.
#[test]
fn every_exception_is_needed_and_says_why() {
    let findings = [
        crate::layering::check_tree(),
        crate::places::check_tree(),
        crate::sizes::check_tree(),
        crate::names::check_tree(),
        crate::words::check_tree(),
    ]
    .concat();
    for exception in EXCEPTIONS {
        assert!(exception.reason.len() > 10, "{exception:?} gives no reason");
        let is_there = crate::tree::root().join(exception.path).exists();
        let is_needed = findings.iter().any(|finding| {
            exception.rule == finding.rule
                && crate::tree::is_below(&finding.path, exception.path)
                && ["*", &finding.subject].contains(&exception.subject)
        });
        assert!(
            is_needed || !is_there,
            "nothing needs this any more: {exception:?}"
        );
    }
}
