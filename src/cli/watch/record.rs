//! What one repository says of itself.

use std::collections::BTreeSet;

use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::pack::PackId;
use crate::repository::{
    AuditEvent, AuditLog, BackupFacts, Repository, RepositoryError, Verified, is_of_future,
    read_audit,
};

/// All that is known of one; of one that cannot be read why.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) place: String,
    /// Why it cannot be read.
    pub(super) problem: Option<String>,
    pub(super) id: Option<String>,
    /// Oldest first, without those whose clock was ahead.
    pub(super) backups: Vec<Backup>,
    /// Backups that cannot be read.
    pub(super) unreadable: Vec<String>,
    pub(super) pack_count: u64,
    pub(super) pack_bytes: u64,
    /// Packs of which a verification could not read something.
    pub(super) damaged_count: u64,
    pub(super) free_bytes: Option<u64>,
    pub(super) log: AuditLog,
    /// When it was read: what is said to be of later is not believed.
    now_ns: u64,
}

/// One backup, and its newest verification.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) facts: BackupFacts,
    /// None whose clock was ahead.
    pub(super) verified: Option<Verified>,
}

impl Record {
    pub(super) fn read(host: &Host, place: &RepositoryPlace, key: &KeyArgs) -> Self {
        let mut record = Self {
            place: place.text(),
            ..Self::default()
        };
        let filled = key
            .open(host, place)
            .and_then(|repository| Ok(record.fill(&repository)?));
        record.problem = filled.err().map(|failure| failure.text());
        record
    }

    fn fill(&mut self, repository: &Repository) -> Result<(), RepositoryError> {
        let store = repository.store();
        let id = repository.id();
        self.now_ns = repository.host().clock.wall_ns();
        self.id = Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        for (id, facts) in repository.backups()? {
            match facts {
                Ok(_) if repository.is_of_future(&id) => {}
                Ok(facts) => {
                    let verified = repository.mark(&id).ok().and_then(|mark| mark.verified);
                    let verified = verified.filter(|one| !is_of_future(one.at_ns, self.now_ns));
                    self.backups.push(Backup { facts, verified });
                }
                Err(RepositoryError::NoBackup { .. }) => {}
                Err(error) => self.unreadable.push(format!("{id}: {error}")),
            }
        }
        let names = store.list("packs")?;
        for pack in names.iter().filter_map(|name| PackId::of_name(name)) {
            match store.size(&pack.object()) {
                Ok(bytes) => {
                    self.pack_count += 1;
                    self.pack_bytes = self.pack_bytes.saturating_add(bytes);
                }
                // Pruned meanwhile.
                Err(RepositoryError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let damaged = store.list("damaged")?;
        let damaged = damaged.iter().filter_map(|name| PackId::of_name(name));
        self.damaged_count = damaged.count() as u64;
        self.free_bytes = store.free_bytes()?;
        self.log = read_audit(store.as_ref())?;
        Ok(())
    }

    /// Those of one source, oldest first.
    pub(super) fn of<'a>(
        &'a self,
        path: &'a str,
        host: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a Backup> {
        let is_of = move |backup: &&Backup| {
            let source = &backup.facts.source;
            source.path == path && source.host == host
        };
        self.backups.iter().filter(is_of)
    }

    /// The runs of `stillfs backup` of one source, oldest first. One that somebody stopped is none.
    pub(super) fn runs<'a>(
        &'a self,
        path: &'a str,
        host: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a AuditEvent> {
        let is_of = move |event: &&AuditEvent| {
            let is_backup = event.command == "backup" && !is_stopped(event);
            is_backup && event.path.as_deref() == Some(path) && event.host == host
        };
        self.log.events.iter().filter(is_of)
    }

    /// When a backup of the source was last verified, also if that backup is forgotten by now. What was
    /// found to be damaged since is verified no longer.
    pub(super) fn verified_ns(&self, path: &str, host: &str) -> Option<u64> {
        let by_marks = self
            .of(path, host)
            .filter_map(|backup| backup.verified.as_ref());
        let is_damage = |event: &AuditEvent| {
            event.command == "verify" && event.exit == crate::cli::exit::Exit::Corrupt.code()
        };
        let since = self
            .log
            .events
            .iter()
            .rposition(is_damage)
            .map_or(0, |at| at + 1);
        let by_log = self.log.events.iter().skip(since).filter(|event| {
            let is_whole = event.exit == 0 && event.is_verification_of(path);
            is_whole && event.host == host && !is_of_future(event.finished_ns, self.now_ns)
        });
        let by_log = by_log.map(|event| event.finished_ns);
        by_marks.map(|verified| verified.at_ns).chain(by_log).max()
    }

    /// The newest events of a command that nobody stopped, oldest first: one of each that runs it, since what
    /// one does says nothing of another one's disks and rights. One that ran for an entry that `is_gone` is
    /// passed over, as nobody could mend it.
    pub(super) fn last(
        &self,
        command: &str,
        is_gone: &dyn Fn(&AuditEvent) -> bool,
    ) -> Vec<&AuditEvent> {
        let mut seen = BTreeSet::new();
        let newest_first = self.log.events.iter().rev();
        let mut last: Vec<&AuditEvent> = newest_first
            .filter(|event| event.command == command && !is_stopped(event) && !is_gone(event))
            .filter(|event| seen.insert((&event.entry, &event.path, &event.host)))
            .collect();
        last.reverse();
        last
    }

    /// Whether the verification `failed` is made good by a later one that found nothing wrong with all that
    /// there was then, whoever ran it.
    pub(super) fn is_made_good(&self, failed: &AuditEvent) -> bool {
        let newest_first = self.log.events.iter().rev();
        newest_first
            .take_while(|event| event.id != failed.id)
            .any(|event| event.command == "verify" && event.exit == 0 && self.is_of_all(event))
    }

    fn is_of_all(&self, event: &AuditEvent) -> bool {
        // Only so many are named.
        let is_cut = event.backups.iter().any(|name| name.starts_with("..."));
        let mut of_then = self.backups.iter().map(|backup| &backup.facts);
        event.entry.is_some()
            || is_cut
            || of_then.all(|facts| {
                facts.finished_ns >= event.begun_ns || event.backups.contains(&facts.id.to_string())
            })
    }
}

fn is_stopped(event: &AuditEvent) -> bool {
    event.exit == crate::cli::exit::Exit::Interrupted.code()
}
