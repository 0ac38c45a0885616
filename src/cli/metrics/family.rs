//! The metrics of backups and repositories. docs/watching.md lists all of them.

use super::exposition::{Exposition, count, seconds};
use crate::cli::watch::{Alert, RepositoryShown, SourceShown, Watch};

/// All of them.
pub(super) fn of_watch(watch: &Watch, exposition: &mut Exposition) {
    for source in &watch.sources {
        of_source(source, exposition);
        for alert in Alert::ALL {
            let is_raised = watch.alerts.iter().any(|raised| {
                // Names are for people, and two sources may have the same.
                let is_its = raised.source.is_none()
                    || raised.source.as_ref() == Some(&source.source)
                        && raised.host.as_ref() == Some(&source.host);
                raised.alert == alert && is_its && raised.repository == source.repository
            });
            let [name, repository, path, host] = labels_of(source);
            let labels = [name, repository, path, host, ("alert", alert.name())];
            let help = "Whether the alert is raised: 1, or 0.";
            exposition.gauge(
                "stillfs_backup_alert",
                help,
                &labels,
                f64::from(u8::from(is_raised)),
            );
        }
    }
    for repository in &watch.repositories {
        of_repository(repository, exposition);
    }
}

fn labels_of(source: &SourceShown) -> [(&'static str, &str); 4] {
    [
        ("name", &source.name),
        ("repository", &source.repository),
        ("source", &source.source),
        ("host", &source.host),
    ]
}

fn of_source(source: &SourceShown, exposition: &mut Exposition) {
    let labels = labels_of(source);
    // What is not known has no sample.
    let rows = [
        (
            "stillfs_backup_last_success_timestamp_seconds",
            "When the newest backup was finished.",
            source.finished_ns.map(seconds),
        ),
        (
            "stillfs_backup_age_seconds",
            "Age of the moment that the newest backup shows.",
            source.age_seconds.map(count),
        ),
        (
            "stillfs_backup_max_age_seconds",
            "Age from which the newest backup is overdue.",
            Some(count(source.max_age_seconds)),
        ),
        (
            "stillfs_backup_size_bytes",
            "Bytes of all files of the newest backup.",
            source.bytes.map(count),
        ),
        (
            "stillfs_backup_stored_bytes",
            "Bytes that the repository had to take in for the newest backup.",
            source.bytes_stored.map(count),
        ),
        (
            "stillfs_backup_duration_seconds",
            "How long the newest backup took.",
            source.duration_ns.map(seconds),
        ),
        (
            "stillfs_backup_left_out_files",
            "What the newest backup lacks and nobody asked to leave out.",
            Some(count(source.left_out_count)),
        ),
        (
            "stillfs_backup_backups",
            "How many backups there are.",
            Some(count(source.backup_count)),
        ),
        (
            "stillfs_backup_last_verified_timestamp_seconds",
            "When every byte of a backup was last read back.",
            source.verified_ns.map(seconds),
        ),
        (
            "stillfs_backup_verification_age_seconds",
            "How long ago that is.",
            source.verified_age_seconds.map(count),
        ),
        (
            "stillfs_backup_success_ratio",
            "Share of the runs in the audit log that were done: 0 to 1.",
            source.success_ratio,
        ),
    ];
    for (name, help, value) in rows {
        if let Some(value) = value {
            exposition.gauge(name, help, &labels, value);
        }
    }
}

fn of_repository(shown: &RepositoryShown, exposition: &mut Exposition) {
    let labels = [("repository", shown.repository.as_str())];
    let is_readable = shown.problem.is_none();
    let mut gauge = |name, help, value| exposition.gauge(name, help, &labels, value);
    let help = "Whether the repository can be read: 1, or 0.";
    gauge(
        "stillfs_repository_up",
        help,
        f64::from(u8::from(is_readable)),
    );
    if !is_readable {
        return;
    }
    let help = "Bytes of its content.";
    gauge(
        "stillfs_repository_size_bytes",
        help,
        count(shown.pack_bytes),
    );
    let help = "Backups in it, of all sources.";
    gauge(
        "stillfs_repository_backups",
        help,
        count(shown.backup_count),
    );
    let help = "Packs of which a verification could not read something.";
    gauge(
        "stillfs_repository_damaged_packs",
        help,
        count(shown.damaged_count),
    );
    if let Some(free) = shown.free_bytes {
        let help = "Bytes that can still be stored.";
        gauge("stillfs_repository_free_bytes", help, count(free));
    }
}
