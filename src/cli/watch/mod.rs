//! How well sources are protected: what their repositories hold, how old and how verified that is, and
//! what is an alert. For `stillfs status` and `stillfs metrics`; reads, takes no lock, changes nothing.

mod alert;
mod record;
mod rule;
mod shown;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::config::{AlertRule, Config};
use crate::cli::nesting;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::{Host, machine};
use crate::repository::AuditEvent;
pub(crate) use alert::{Alert, AlertShown};
use record::Record;
pub(crate) use shown::{RepositoryShown, SourceShown};

/// How well everything is protected. The names are stable.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Watch {
    pub(crate) sources: Vec<SourceShown>,
    pub(crate) repositories: Vec<RepositoryShown>,
    /// The worst first.
    pub(crate) alerts: Vec<AlertShown>,
}

/// A source, and what is expected of its backups.
#[derive(Clone, Debug)]
struct Expected {
    name: String,
    path: String,
    host: String,
    place: RepositoryPlace,
    key: KeyArgs,
    rule: AlertRule,
    verified_within: Duration,
    /// What makes a backup.
    remedy: String,
}

impl Watch {
    /// Of the entries of `config`, and of every source in the repositories at `places`, which `key` opens.
    pub(crate) fn look(
        host: &Host,
        config: Option<&Config>,
        (places, key): (&[RepositoryPlace], &KeyArgs),
    ) -> Self {
        let mut expected: Vec<Expected> = match config {
            Some(config) => config.entries.iter().map(Expected::of_entry).collect(),
            None => Vec::new(),
        };
        let mut records = BTreeMap::new();
        let places: Vec<RepositoryPlace> = places.iter().map(RepositoryPlace::real).collect();
        for (place, key) in keys(&expected, (&places, key)) {
            let record = Record::read(host, &place, &key);
            records.insert(place, record);
        }
        for place in places {
            if let Some(record) = records.get(&place) {
                add_found(&mut expected, record, &place);
            }
        }
        let now_ns = host.clock.wall_ns();
        let here = machine::name();
        let is_gone = |event: &AuditEvent| match (config, &event.entry) {
            (Some(config), Some(name)) if event.host == here => {
                config.entries.iter().all(|entry| entry.name != *name)
            }
            _ => false,
        };
        let mut watch = Self::default();
        for record in records.values() {
            watch.alerts.extend(rule::of_repository(record, &is_gone));
            watch.repositories.push(RepositoryShown::of(record));
        }
        for one in &expected {
            let Some(record) = records.get(&one.place) else {
                continue;
            };
            let mut shown = SourceShown::of(one, record, now_ns);
            let alerts = rule::of_source(one, record, &shown);
            let of_place = watch
                .alerts
                .iter()
                .filter(|alert| alert.repository == record.place);
            let worst = alerts
                .iter()
                .chain(of_place.filter(|alert| alert.name.is_none()));
            shown.state = worst.map(|alert| alert.alert).min();
            watch.alerts.extend(alerts);
            watch.sources.push(shown);
        }
        watch.alerts.sort_by_key(|alert| alert.alert);
        watch
    }

    /// What people see of it, `columns` wide if that is known.
    pub(crate) fn lines(&self) -> Vec<String> {
        table::lines(self)
    }

    /// The alerts for people, each with what to do next.
    pub(crate) fn alert_lines(&self) -> Vec<String> {
        table::alerts(&self.alerts)
    }
}

impl Expected {
    fn of_entry(entry: &crate::cli::config::Entry) -> Self {
        Self {
            name: entry.name.clone(),
            path: text(&nesting::real(&entry.source)),
            host: machine::name(),
            place: entry.repo.real(),
            key: entry.key(),
            rule: entry.alert,
            verified_within: entry.alert.verified_within(entry.verify()),
            remedy: format!("stillfs scheduled {}", entry.name),
        }
    }
}

/// The repositories, each with what opens it: the key of an entry comes before the one of the command line,
/// and that before none.
fn keys(
    expected: &[Expected],
    (places, key): (&[RepositoryPlace], &KeyArgs),
) -> BTreeMap<RepositoryPlace, KeyArgs> {
    let of_entries = expected.iter().map(|one| (&one.place, &one.key));
    let of_places = places.iter().map(|place| (place, key));
    let mut keys = BTreeMap::new();
    for (place, key) in of_entries.chain(of_places) {
        let known: &mut KeyArgs = keys.entry(place.clone()).or_default();
        known.complete(key);
    }
    keys
}

/// Every source in the repository that is not expected by an entry already.
fn add_found(expected: &mut Vec<Expected>, record: &Record, place: &RepositoryPlace) {
    let mut found = BTreeSet::new();
    for backup in &record.backups {
        found.insert((&backup.facts.source.host, &backup.facts.source.path));
    }
    for (host, path) in found {
        let is_known =
            |one: &Expected| one.place == *place && one.path == *path && one.host == *host;
        if expected.iter().any(is_known) {
            continue;
        }
        let last = path.rsplit('/').next().filter(|last| !last.is_empty());
        expected.push(Expected {
            name: last.unwrap_or(path).to_owned(),
            path: path.clone(),
            host: host.clone(),
            place: place.to_owned(),
            key: KeyArgs::default(),
            rule: AlertRule::default(),
            verified_within: AlertRule::default().verified_within(None),
            remedy: format!("stillfs backup {path} --repo {}", place.text()),
        });
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
