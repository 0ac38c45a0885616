//! The only place that writes text for people and programs.

use std::io::{self, Write};

/// One line on standard output, at once. A reader that has gone away is no failure.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One JSON value on standard output.
pub(crate) fn json(value: &impl serde::Serialize) {
    line(&serde_json::to_string(value).expect("plain fields encode"));
}

/// One line on standard error.
pub(crate) fn problem(text: &str) {
    let _ = writeln!(io::stderr().lock(), "stillfs: {text}");
}
