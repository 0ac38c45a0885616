//! The house rules as tests: direction, places, sizes, names, words and documents.
//!
//! Each rule is a table or a number at the head of its module, a check over one file's text, and two
//! kinds of test: the check over this tree, and the check over small bad samples, so that a rule which
//! has gone blind fails too. A finding names file, line and rule. What a rule lets pass stands, with
//! its reason, in `exception.rs`.
//!
//! It reads the tree and nothing else: no network, no git, no file written.

#![allow(clippy::disallowed_methods)]

mod exception;
mod scan;
mod tree;

mod documents;
mod invariants;
mod layering;
mod names;
mod places;
mod sizes;
mod words;

use std::fmt;

/// One place that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the root of the tree, with `/`.
    pub(crate) path: String,
    /// 1-based; 0 where the whole file is meant.
    pub(crate) line: usize,
    /// The rule's name, as `exception.rs` uses it.
    pub(crate) rule: &'static str,
    /// The thing that the rule forbids here, as `exception.rs` uses it.
    pub(crate) subject: String,
    /// What is wrong, in words.
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            text,
            ..
        } = self;
        write!(f, "{path}:{line}: {rule}: {text}")
    }
}

/// Fails with every finding that no exception covers.
#[track_caller]
pub(crate) fn expect_none(findings: Vec<Finding>) {
    let mut left: Vec<_> = findings
        .into_iter()
        .filter(|finding| !exception::covers(finding))
        .collect();
    left.sort();
    let lines: String = left
        .iter()
        .map(|finding| format!("  {finding}\n"))
        .collect();
    assert!(
        left.is_empty(),
        "{} house rules broken:\n{lines}",
        left.len()
    );
}

/// The subjects of `findings`, for the tests of the rules themselves.
pub(crate) fn subjects(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .map(|finding| finding.subject.as_str())
        .collect()
}
