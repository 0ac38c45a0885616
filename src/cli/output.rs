//! What a command prints: the only place that writes to the standard streams.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use tracing::level_filters::LevelFilter;

use crate::amount::Bytes;

/// One line on standard output. A reader that went away ends the output quietly.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A path as text: what is not UTF-8 replaced, control characters written out, so that no file's name
/// makes a line of its own or talks to the terminal.
pub(crate) fn path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

/// The text with its control characters written out.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            control if control.is_control() => plain.extend(control.escape_default()),
            other => plain.push(other),
        }
    }
    plain
}

/// One JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => problem(&format!("cannot write JSON: {error}")),
    }
}

/// One JSON document on one line of standard output, one of many.
pub(crate) fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => problem(&format!("cannot write JSON: {error}")),
    }
}

/// One line on standard error, with the program's name. Names of files may be in it.
pub(crate) fn problem(text: &str) {
    let _ = writeln!(io::stderr().lock(), "stillfs: {}", plain(text));
}

/// Starts the log on standard error. Errors: a level that there is not.
pub(crate) fn start_log(level: &str) -> Result<(), String> {
    // A filter would take any word for the name of a module, and log nothing.
    let level = LevelFilter::from_str(level)
        .map_err(|_| format!("no such log level: {level} (error, warn, info, debug, trace)"))?;
    let started = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // It would say so on standard error, and panic where nobody reads that any more.
        .log_internal_errors(false)
        .try_init();
    started.map_err(|error| format!("cannot start the log: {error}"))
}

/// What a word is painted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Bold,
    Green,
    Red,
}

/// The text in a colour, where a terminal shows it and nobody said `NO_COLOR`.
pub(crate) fn painted(text: &str, colour: Colour) -> String {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_plain || !io::stdout().is_terminal() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Bold => "1",
        Colour::Green => "32",
        Colour::Red => "1;31",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// A duration for people: its two largest units.
pub(crate) fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

/// A number of bytes for people, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    Bytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_times_are_told_in_their_largest_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::from(u32::MAX) + 1), "4.0 GiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
        assert_eq!(
            path("/a\n\u{1b}[1m\u{e4}".as_ref()),
            "/a\\n\\u{1b}[1m\u{e4}"
        );
        assert_eq!(duration(Duration::from_secs(59)), "59s");
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 7200)), "3d02h");
    }
}
