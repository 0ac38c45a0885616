//! One screen: what is protected, how old, how verified; and what to look at.

use std::time::Duration;

use super::Watch;
use super::alert::AlertShown;
use super::shown::{RepositoryShown, SourceShown};
use crate::amount::Many;
use crate::cli::listing;
use crate::cli::output::{self, Colour, painted};
use crate::os::machine;

const HEADS: [&str; 9] = [
    "STATE", "NAME", "AGE", "VERIFIED", "SIZE", "STORED", "BACKUPS", "DONE", "SOURCE",
];
const NUMBERS: [bool; 9] = [false, false, true, true, true, true, true, true, false];
const REPOSITORY_HEADS: [&str; 5] = ["REPOSITORY", "SIZE", "FREE", "BACKUPS", "LAST ERROR"];
const REPOSITORY_NUMBERS: [bool; 5] = [false, true, true, true, false];
const ERROR_CHARACTERS_MAX: usize = 60;

pub(super) fn lines(watch: &Watch) -> Vec<String> {
    let host = machine::name();
    let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
    rows.extend(watch.sources.iter().map(|source| row(source, &host)));
    let mut lines = Vec::new();
    for (at, line) in listing::columns(&rows, &NUMBERS).into_iter().enumerate() {
        let source = at.checked_sub(1).and_then(|at| watch.sources.get(at));
        lines.push(match source {
            None => painted(&line, Colour::Bold),
            Some(source) => with_state(source, &line),
        });
    }
    let mut rows = vec![REPOSITORY_HEADS.map(str::to_owned).to_vec()];
    rows.extend(watch.repositories.iter().map(repository_row));
    lines.push(String::new());
    for (at, line) in listing::columns(&rows, &REPOSITORY_NUMBERS)
        .into_iter()
        .enumerate()
    {
        lines.push(match at {
            0 => painted(&line, Colour::Bold),
            _ => line,
        });
    }
    lines.push(String::new());
    lines.extend(alerts(&watch.alerts));
    lines
}

pub(super) fn alerts(alerts: &[AlertShown]) -> Vec<String> {
    let mut lines = Vec::new();
    for alert in alerts {
        let subject = alert.name.as_deref().unwrap_or(&alert.repository);
        let (subject, what) = (output::plain(subject), output::plain(&alert.what));
        let kind = painted(alert.alert.name(), Colour::Red);
        lines.push(format!("{kind}: {subject}: {what}"));
        lines.push(format!("  next: {}", output::plain(&alert.next)));
    }
    lines.push(match alerts.len() {
        0 => painted("no alerts", Colour::Green),
        count => painted(&Many(count as u64, "alert").to_string(), Colour::Red),
    });
    lines
}

/// The first word of a line in its colour.
fn with_state(source: &SourceShown, line: &str) -> String {
    let state = state(source);
    let colour = match source.state {
        None => Colour::Green,
        Some(_) => Colour::Red,
    };
    match line.strip_prefix(state) {
        Some(rest) => format!("{}{rest}", painted(state, colour)),
        None => line.to_owned(),
    }
}

fn state(source: &SourceShown) -> &'static str {
    source.state.map_or("ok", super::Alert::name)
}

fn row(source: &SourceShown, host: &str) -> Vec<String> {
    let ago = |seconds: Option<u64>, none: &str| {
        seconds.map_or(none.to_owned(), |seconds| {
            output::duration(Duration::from_secs(seconds))
        })
    };
    let bytes = |count: Option<u64>| count.map_or("-".to_owned(), output::bytes);
    let path = output::plain(&source.source);
    vec![
        state(source).to_owned(),
        output::plain(&source.name),
        ago(source.age_seconds, "-"),
        ago(source.verified_age_seconds, "never"),
        bytes(source.bytes),
        bytes(source.bytes_stored),
        source.backup_count.to_string(),
        format!("{}/{}", source.done_count, source.run_count),
        match source.host == host {
            true => path,
            false => format!("{}:{path}", output::plain(&source.host)),
        },
    ]
}

fn repository_row(shown: &RepositoryShown) -> Vec<String> {
    let error = shown.last_errors.first();
    let no_error = match shown.unreadable_lines {
        0 => "-".to_owned(),
        count => format!("{} of its audit log unreadable", Many(count, "line")),
    };
    let error = error.map_or(no_error, |error| {
        let message = error.message.as_deref().unwrap_or_default();
        output::plain(&format!("{}: {message}", error.command))
    });
    let error = match error.char_indices().nth(ERROR_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", error.get(..end).unwrap_or_default()),
        None => error,
    };
    vec![
        output::plain(&shown.repository),
        output::bytes(shown.pack_bytes),
        shown.free_bytes.map_or("-".to_owned(), output::bytes),
        shown.backup_count.to_string(),
        error,
    ]
}
