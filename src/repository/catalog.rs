//! An open repository: what is in it.

use std::path::Path;
use std::sync::Arc;

use crate::fault::{self, Fault};
use crate::os::Host;
use crate::repository::backup_id::BackupId;
use crate::repository::config::{self, Known};
use crate::repository::crypt::{self, FreshRing, NewKeys, SealedStore, Unlock};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::folder_store::FolderStore;
use crate::repository::manifest::{BackupFacts, Manifest};
use crate::repository::mark::Mark;
use crate::repository::store::{Found, Put, Store, WriterLock};

/// How far ahead a clock may have been when a backup was made for that to make no difference.
const AHEAD_MAX_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

/// Whether what is said to be of `ns` was made while the clock was ahead, as it is known at `now_ns`.
///
/// No rule counts with such a backup: as long as its time has not come it would be newer than all.
#[must_use]
pub fn is_of_future(ns: u64, now_ns: u64) -> bool {
    ns > now_ns.saturating_add(AHEAD_MAX_NS)
}

/// A repository. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    host: Host,
    id: [u8; 16],
}

impl Repository {
    /// Opens the repository in the folder `path`, which is not encrypted. Writes nothing.
    ///
    /// Errors: `NoRepository`, `NotARepository`, `KeyNeeded`, `Version`, `Damaged`, `Io`.
    pub fn open(host: &Host, path: &Path) -> Result<Self> {
        Self::open_with(host, path, &Unlock::none())
    }

    /// Opens the repository in the folder `path`, which is encrypted if `unlock` is not empty. Writes nothing.
    ///
    /// Errors: as for [`Repository::open`], `WrongKey`; `NotEncrypted`, since a repository may have been put
    /// in the place of an encrypted one.
    pub fn open_with(host: &Host, path: &Path, unlock: &Unlock) -> Result<Self> {
        Self::open_store(host, Arc::new(FolderStore::new(host, path)), unlock)
    }

    /// As [`Repository::open_with`], of what `store` keeps.
    ///
    /// Errors: as there; `Store` where it is one of objects.
    pub fn open_store(host: &Host, store: Arc<dyn Store>, unlock: &Unlock) -> Result<Self> {
        match config::read(store.as_ref()) {
            Err(RepositoryError::Missing { .. }) => Err(why_none(store.as_ref())?),
            known => Self::unlocked(host, store, known?, unlock),
        }
    }

    /// Opens the repository in the folder `path`; makes one, not encrypted, if nothing is there or an empty
    /// folder. One that was interrupted in that is gone on with.
    ///
    /// Errors: as for [`Repository::open`], `NoSpace`; `Locked` while another process makes it.
    pub fn open_or_create(host: &Host, path: &Path) -> Result<Self> {
        Self::open_or_create_with(host, path, &Unlock::none())
    }

    /// As [`Repository::open_or_create`], and as [`Repository::open_with`]: where `unlock` is not empty none
    /// is made.
    ///
    /// Errors: those of both; `NoEncrypted`.
    pub fn open_or_create_with(host: &Host, path: &Path, unlock: &Unlock) -> Result<Self> {
        Self::open_or_create_store(host, Arc::new(FolderStore::new(host, path)), unlock)
    }

    /// As [`Repository::open_or_create_with`], of what `store` keeps.
    ///
    /// Errors: as there; `Store` where it is one of objects.
    pub fn open_or_create_store(
        host: &Host,
        store: Arc<dyn Store>,
        unlock: &Unlock,
    ) -> Result<Self> {
        let known = match config::read(store.as_ref()) {
            Err(RepositoryError::Missing { .. }) if !unlock.is_empty() => {
                return Err(match why_none(store.as_ref())? {
                    RepositoryError::NoRepository { place } => {
                        RepositoryError::NoEncrypted { place }
                    }
                    error => error,
                });
            }
            Err(RepositoryError::Missing { .. }) => {
                create(host, store.as_ref(), &NewKeys::default())?.0
            }
            known => known?,
        };
        Self::unlocked(host, store, known, unlock)
    }

    /// Makes a repository in the folder `path`, of which nothing is there or which is empty; encrypted for
    /// those in `keys`, if there are any. It is open then: nobody has to show a key for what he made.
    ///
    /// Errors: `Exists`, `NotARepository`, `NoSpace`, `Io`; `Locked` while another process makes it.
    pub fn create(host: &Host, path: &Path, keys: &NewKeys) -> Result<Self> {
        Self::create_store(host, Arc::new(FolderStore::new(host, path)), keys)
    }

    /// As [`Repository::create`], of what `store` keeps.
    ///
    /// Errors: as there; `Store` where it is one of objects.
    pub fn create_store(host: &Host, store: Arc<dyn Store>, keys: &NewKeys) -> Result<Self> {
        match config::read(store.as_ref()) {
            Err(RepositoryError::Missing { .. }) => {}
            found => {
                return Err(found.map_or_else(|error| error, |_| exists(store.as_ref())));
            }
        }
        let (known, ring) = create(host, store.as_ref(), keys)?;
        if known.is_encrypted && ring.is_none() {
            return Err(exists(store.as_ref()));
        }
        let store: Arc<dyn Store> = match ring {
            Some(ring) => Arc::new(SealedStore::fresh(host, store, ring)),
            None => store,
        };
        Ok(Self {
            store,
            host: host.clone(),
            id: known.id,
        })
    }

    /// Opens the repository that `store` keeps, which is not encrypted.
    ///
    /// Errors: as for [`Repository::open`].
    pub fn on(host: &Host, store: Arc<dyn Store>) -> Result<Self> {
        match config::read(store.as_ref()) {
            Err(RepositoryError::Missing { .. }) => {
                let place = store.place();
                Err(RepositoryError::NoRepository { place })
            }
            known => Self::unlocked(host, store, known?, &Unlock::none()),
        }
    }

    fn unlocked(host: &Host, store: Arc<dyn Store>, known: Known, unlock: &Unlock) -> Result<Self> {
        let store = match known.is_encrypted {
            true => Arc::new(SealedStore::open(host, store, known.id, unlock)?),
            false if unlock.is_empty() => store,
            false => {
                let place = store.place();
                return Err(RepositoryError::NotEncrypted { place });
            }
        };
        Ok(Self {
            store,
            host: host.clone(),
            id: known.id,
        })
    }

    /// Its id: packs carry it, so that one of another repository is told apart.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Where its objects are.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The names of all backups, oldest first; what has no name of a backup is passed over. Errors: `Io`.
    pub fn ids(&self) -> Result<Vec<BackupId>> {
        let names = self.store.list("backups")?;
        let mut ids: Vec<BackupId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// What is known of one backup: the head of its manifest alone is read.
    ///
    /// Errors: `NoBackup`, `Version`, `Damaged`, `Io`.
    pub fn facts(&self, id: &BackupId) -> Result<BackupFacts> {
        BackupFacts::read(self.store.as_ref(), id).map_err(no_backup(id))
    }

    /// What is known of all, oldest first, and what is wrong with those that cannot be read. One that is
    /// forgotten meanwhile is passed over.
    ///
    /// Errors: `Io` of the listing; `Store`.
    pub fn backups(&self) -> Result<Vec<(BackupId, Result<BackupFacts>)>> {
        let with_facts = |id: BackupId| {
            let facts = self.facts(&id);
            (id, facts)
        };
        let is_there =
            |(_, facts): &(_, Result<_>)| !matches!(facts, Err(RepositoryError::NoBackup { .. }));
        let ids = self.ids()?.into_iter();
        let found = ids.map(with_facts).filter(is_there);
        // A store that does not answer says nothing of what it has.
        let found = found.map(|(id, facts)| match facts {
            Err(error @ RepositoryError::Store { .. }) => Err(error),
            facts => Ok((id, facts)),
        });
        found.collect()
    }

    /// One whole manifest. Errors: as for [`Repository::facts`].
    pub fn manifest(&self, id: &BackupId) -> Result<Manifest> {
        Manifest::read(self.store.as_ref(), id).map_err(no_backup(id))
    }

    /// Whether the time in the name `id` has not come by far: the clock was ahead when it was given.
    #[must_use]
    pub fn is_of_future(&self, id: &BackupId) -> bool {
        let latest_ns = self.host.clock.wall_ns().saturating_add(AHEAD_MAX_NS);
        *id > BackupId::new(latest_ns, [0xff; 4])
    }

    /// The backup that `name` means: a whole name, the beginning of one, or `latest`: the newest that is
    /// not of the future, if there is one.
    ///
    /// Errors: `NoBackup`, `ManyBackups`, `Io`.
    pub fn find(&self, name: &str) -> Result<BackupId> {
        let mut ids = self.ids()?;
        let unknown = || RepositoryError::NoBackup {
            name: name.to_owned(),
        };
        if name == "latest" {
            let mut newest_first = ids.iter().rev();
            let latest = newest_first.find(|id| !self.is_of_future(id));
            return latest.or(ids.last()).cloned().ok_or_else(unknown);
        }
        ids.retain(|id| id.as_str().starts_with(name));
        let count = ids.len();
        match ids.pop() {
            Some(id) if count == 1 => Ok(id),
            Some(_) if !name.is_empty() => Err(RepositoryError::ManyBackups {
                name: name.to_owned(),
                count,
            }),
            _ => Err(unknown()),
        }
    }

    /// Makes `manifest` a backup, last of all (BK1), with its mark: what was put before is durable before
    /// the manifest has its name. Returns the bytes of both.
    ///
    /// Errors: `Locked` if `lock` no longer counts; `Damaged` if the manifest could not be read again;
    /// `Exists`, `NoSpace`, `Io`. Nothing is published then, but if it was the last sync that failed and
    /// the taking back too.
    pub fn publish(&self, manifest: &Manifest, mark: &Mark, lock: &dyn WriterLock) -> Result<u64> {
        let store = self.store.as_ref();
        let object = Manifest::object(&manifest.facts.id);
        manifest.check().map_err(|what| {
            let object = object.clone();
            RepositoryError::Damaged { object, what }
        })?;
        match store.size(&object) {
            Err(RepositoryError::Missing { .. }) => {}
            found => return Err(found.map_or_else(|e| e, |_| RepositoryError::Exists { object })),
        }
        let bytes = manifest.encode();
        let id = &manifest.facts.id;
        let underway = Mark {
            is_underway: true,
            ..mark.clone()
        };
        let mark_bytes = underway.write(store, id)?;
        if !fault::is(Fault::ManifestUnsettled) {
            store.settle()?;
        }
        lock.confirm()?;
        store.put(&object, &[&bytes], Put::New)?;
        store.settle()?;
        // From here on the manifest would be missed. The backup is one without that, too.
        if let Err(error) = self.set_mark(id, &mut |mark| mark.is_underway = false) {
            tracing::warn!(%error, %id, "the backup is published, and its mark says it is about to be");
        }
        Ok(bytes.len() as u64 + mark_bytes)
    }

    /// What was found out later about a backup; every one has a mark.
    ///
    /// Errors: `Missing`, `Version`, `Damaged`, `Io`.
    pub fn mark(&self, id: &BackupId) -> Result<Mark> {
        Mark::read(self.store.as_ref(), id)
    }

    /// Changes that, in one step, in which nobody else changes marks. Needs no writer's lock.
    ///
    /// Errors: `NoBackup`, `NoSpace`, `Io`; `Locked` if somebody else does not come to an end; as for [`Repository::mark`], since what cannot be read may be
    /// a hold.
    pub fn set_mark(&self, id: &BackupId, change: &mut dyn FnMut(&mut Mark)) -> Result<()> {
        let marks = self.store.lock_marks()?;
        marks.confirm()?;
        self.require(id)?;
        let mut mark = self.mark(id)?;
        change(&mut mark);
        mark.write(self.store.as_ref(), id)?;
        self.store.settle()
    }

    /// Puts `mark` in the place of one that is missing or damaged, or of any other.
    ///
    /// Errors: `NoBackup`, `NoSpace`, `Io`, `Locked`; `Version` if the one that is there is of a later version.
    pub fn new_mark(&self, id: &BackupId, mark: &Mark) -> Result<()> {
        let marks = self.store.lock_marks()?;
        marks.confirm()?;
        self.require(id)?;
        if let Err(error @ RepositoryError::Version { .. }) = self.mark(id) {
            return Err(error);
        }
        mark.write(self.store.as_ref(), id)?;
        self.store.settle()
    }

    fn require(&self, id: &BackupId) -> Result<()> {
        let manifest = self.store.size(&Manifest::object(id));
        manifest.map(drop).map_err(no_backup(id))
    }
}

/// Why `store` is no repository.
fn why_none(store: &dyn Store) -> Result<RepositoryError> {
    let place = store.place();
    Ok(match store.look()? {
        Found::Nothing | Found::Empty => RepositoryError::NoRepository { place },
        Found::Else => RepositoryError::NotARepository { place },
    })
}

/// Makes `store` a repository. `repository.json` comes last: before, the folder counts as empty.
fn create(host: &Host, store: &dyn Store, keys: &NewKeys) -> Result<(Known, Option<FreshRing>)> {
    if store.look()? == Found::Else {
        return Err(why_none(store)?);
    }
    store.prepare()?;
    let _lock = store.lock()?;
    // Another process may have made it meanwhile.
    match config::read(store) {
        Err(RepositoryError::Missing { .. }) => {}
        Ok(_) if !keys.is_empty() => return Err(exists(store)),
        known => return Ok((known?, None)),
    }
    let known = Known {
        id: config::draw_id(host, store)?,
        is_encrypted: !keys.is_empty(),
    };
    let ring = match known.is_encrypted {
        true => Some(crypt::create(host, store, known.id, keys)?),
        false => None,
    };
    config::create(host, store, known)?;
    Ok((known, ring))
}

fn exists(store: &dyn Store) -> RepositoryError {
    let object = format!("a repository at {}", store.place());
    RepositoryError::Exists { object }
}

/// For `map_err`: a manifest that is missing is a backup that is not there.
fn no_backup(id: &BackupId) -> impl FnOnce(RepositoryError) -> RepositoryError {
    move |error| match error {
        RepositoryError::Missing { .. } => {
            let name = id.to_string();
            RepositoryError::NoBackup { name }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests;
