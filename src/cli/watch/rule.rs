//! What somebody must look at, and what to do next.

use std::time::Duration;

use super::Expected;
use super::alert::{Alert, AlertShown};
use super::record::{Backup, Record};
use super::shown::SourceShown;
use crate::amount::Many;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::repository::AuditEvent;

/// With how many backups before it the newest is compared.
const BEFORE_MAX: usize = 7;

/// What is wrong with the repository as a whole; events of which `is_gone` holds are of entries that are no
/// more.
pub(super) fn of_repository(
    record: &Record,
    is_gone: &dyn Fn(&AuditEvent) -> bool,
) -> Vec<AlertShown> {
    let place = record.place.as_str();
    let raise = |alert, what, next| AlertShown {
        alert,
        name: None,
        source: None,
        host: None,
        repository: place.to_owned(),
        what,
        next,
    };
    if let Some(problem) = &record.problem {
        let next = "mount its disk, run as its user, or make the first backup".to_owned();
        return vec![raise(Alert::Unreadable, problem.clone(), next)];
    }
    let mut alerts = Vec::new();
    let verified = record.last("verify", is_gone);
    let is_found =
        |event: &&AuditEvent| event.exit == Exit::Corrupt.code() && !record.is_made_good(event);
    let damage = match (record.unreadable.as_slice(), record.damaged_count) {
        ([first, ..], _) => Some(format!("backup {first}")),
        ([], 1..) => {
            let packs = Many(record.damaged_count, "pack");
            Some(format!("{packs} cannot be read whole"))
        }
        ([], 0) => {
            let found = verified.iter().any(is_found);
            found.then(|| "the last verification found damage".to_owned())
        }
    };
    alerts.extend(damage.map(|what| {
        let next = format!(
            "stillfs verify {place} --read-data names what is spoilt; back up anew, then forget and prune that"
        );
        raise(Alert::Damaged, what, next)
    }));
    for command in ["forget", "verify"] {
        let last = record.last(command, is_gone).into_iter();
        let failed = last.filter(|event| is_failure(event));
        let failed = failed.filter(|event| command != "verify" || !record.is_made_good(event));
        alerts.extend(failed.map(|event| {
            let why = event.message.as_deref().unwrap_or("nobody knows why");
            let whose = event.entry.as_ref();
            let whose = whose.map(|entry| format!(" for {entry} on {}", event.host));
            let whose = whose.unwrap_or_default();
            let what = format!("the last {command}{whose} failed: {why}");
            let next = format!("mend that, then stillfs {command} {place} ...");
            raise(Alert::Failing, what, next)
        }));
    }
    alerts
}

/// What is damaged is told by itself, and whoever made a slip or was in somebody's way knows it.
fn is_failure(event: &AuditEvent) -> bool {
    let others = [Exit::Corrupt, Exit::Usage, Exit::InUse];
    !event.is_done() && others.iter().all(|exit| exit.code() != event.exit)
}

/// What is wrong with the backups of one source.
pub(super) fn of_source(
    expected: &Expected,
    record: &Record,
    shown: &SourceShown,
) -> Vec<AlertShown> {
    if record.problem.is_some() {
        return Vec::new();
    }
    let mut alerts = Vec::new();
    let mut raise = |alert, what: String, next: String| {
        alerts.push(AlertShown {
            alert,
            name: Some(expected.name.clone()),
            source: Some(expected.path.clone()),
            host: Some(expected.host.clone()),
            repository: record.place.clone(),
            what,
            next,
        });
    };
    let remedy = &expected.remedy;
    if let Some(error) = &shown.last_error {
        let why = error.message.as_deref().unwrap_or("nobody knows why");
        let what = format!("the last backup failed with {}: {why}", error.exit);
        raise(Alert::Failing, what, format!("mend that, then {remedy}"));
    }
    let allowed = output::duration(expected.rule.max_age);
    let age = shown.age_seconds.map(Duration::from_secs);
    match age {
        None => raise(
            Alert::Overdue,
            "there is no backup".to_owned(),
            remedy.clone(),
        ),
        Some(age) if age > expected.rule.max_age => {
            let age = output::duration(age);
            let what = format!("the newest backup is {age} old, and may be {allowed}");
            raise(
                Alert::Overdue,
                what,
                format!("{remedy}; systemctl list-timers says why none ran"),
            );
        }
        Some(_) => {}
    }
    let sizes = sizes(record.of(&expected.path, &expected.host));
    if let Some((newest, before)) = sizes {
        if newest == 0 {
            let what = "the newest backup has no bytes in it".to_owned();
            let next = format!(
                "look whether {} is what you mean, and mounted",
                expected.path
            );
            raise(Alert::Empty, what, next);
        } else if is_shrunk(newest, before, expected.rule.shrink) {
            let (now, then) = (
                output::bytes(newest),
                output::bytes(before.unwrap_or_default()),
            );
            let what = format!("the newest backup holds {now}, and those before it {then}");
            let next = format!(
                "look what is gone from {}; stillfs hold {} an older backup until then",
                expected.path, record.place
            );
            raise(Alert::Shrinking, what, next);
        }
    }
    if let Some(since) = unverified_since(expected, record, shown) {
        let within = output::duration(expected.verified_within);
        let what = format!("{since}, and should be every {within}");
        let next = format!("stillfs verify {} --read-data", record.place);
        raise(Alert::Unverified, what, next);
    }
    alerts
}

/// Bytes of the newest backup, and what those before it had: the middle one of them by size.
fn sizes<'a>(backups: impl DoubleEndedIterator<Item = &'a Backup>) -> Option<(u64, Option<u64>)> {
    let mut newest_first = backups.rev().map(|backup| backup.facts.statistics.bytes);
    let newest = newest_first.next()?;
    let mut before: Vec<u64> = newest_first.take(BEFORE_MAX).collect();
    before.sort_unstable();
    Some((newest, before.get(before.len() / 2).copied()))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "it is about a share, not about bytes"
)]
fn is_shrunk(newest: u64, before: Option<u64>, share: f64) -> bool {
    before.is_some_and(|before| (newest as f64) < before as f64 * (1.0 - share))
}

/// What to say of a verification that is missing: one is expected when the oldest backup is old enough.
fn unverified_since(expected: &Expected, record: &Record, shown: &SourceShown) -> Option<String> {
    let within = expected.verified_within;
    match shown.verified_age_seconds.map(Duration::from_secs) {
        Some(age) if age > within => {
            let age = output::duration(age);
            Some(format!("a backup was last verified {age} ago"))
        }
        Some(_) => None,
        None => {
            let oldest = record.of(&expected.path, &expected.host).next()?;
            let newest_ns = shown.moment_ns?;
            // Counted from the newest moment that is known: `now`, as an age of it.
            let now = Duration::from_secs(shown.age_seconds?) + Duration::from_nanos(newest_ns);
            let age = now.saturating_sub(Duration::from_nanos(oldest.facts.finished_ns));
            (age > within).then(|| "no backup was ever verified".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_is_by_the_share_that_was_said() {
        assert!(!is_shrunk(1, None, 0.5));
        assert!(!is_shrunk(50, Some(100), 0.5));
        assert!(is_shrunk(49, Some(100), 0.5));
        assert!(!is_shrunk(49, Some(100), 0.6));
        assert!(!is_shrunk(0, Some(0), 0.5));
    }

    #[test]
    fn names_are_those_of_json_and_the_worst_stands_first() {
        for alert in Alert::ALL {
            assert_eq!(serde_json::to_value(alert).unwrap(), alert.name());
        }
        assert!(Alert::ALL.is_sorted());
    }
}
