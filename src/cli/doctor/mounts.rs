//! The mounts of stillfs: the runtime directory, the records in it, what dead daemons and runs left,
//! and one view.

use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id, quoted};
use super::{bounded, mount_above};
use crate::cli::daemon::ViewStatus;
use crate::cli::output;
use crate::cli::probe::{self, Answer};
use crate::mount::Registry;
use crate::mount::mountinfo::is_ours;
use crate::mount::record::MountRecord;
use crate::mount::registry::{Listed, Liveness, RegistryError};
use crate::os::mount_table::{self, MountEntry};
use crate::os::path::may_use_dir;
use crate::os::process::effective_user;
use crate::os::{Disk, LockKind, OpenMode, lock_table, real_disk::RealDisk};

/// Most mounts that are asked at once; more are not to be expected.
const ASKED_MAX: usize = 256;

/// What a record takes, at least: a page of a tmpfs.
const RECORD_BYTES: u64 = 4096;

/// What was found at each mount point of ours.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    entry: MountEntry,
    answer: Option<Answer>,
    record: Option<Listed>,
}

/// Looks at everything that a mount leaves on the machine.
pub(super) fn look(findings: &mut Vec<Finding>) -> Mounts {
    let (registry, found) = registry();
    findings.push(found);
    let records = registry
        .as_ref()
        .and_then(|registry| registry.look_at_all().ok())
        .unwrap_or_default();
    let entries = mount_table::entries().unwrap_or_default();
    let ours: Vec<MountEntry> = entries.into_iter().filter(is_ours).collect();
    findings.extend(bounded(dead_records(&records, &ours)));
    if let Some(registry) = &registry {
        findings.extend(bounded(run_views(registry, &ours)));
    }
    let mounts = ask_all(ours, &records);
    findings.extend(bounded(
        mounts.seen.iter().filter_map(Seen::fault).collect(),
    ));
    mounts
}

fn registry() -> (Option<Registry>, Finding) {
    let (id, dir) = (Id::RuntimeDirectory, Registry::dir_of_this_user());
    let (subject, path) = (dir.display().to_string(), quoted(&dir));
    let error = match Registry::existing(dir) {
        Ok(Some(registry)) => {
            let finding = unwritable(registry.dir())
                .unwrap_or_else(|| Finding::ok(id, subject, "is private to you"));
            return (Some(registry), finding);
        }
        Ok(None) => {
            let parent = Path::new(&subject).parent().unwrap_or(Path::new("/"));
            let finding = unwritable(parent);
            let made = || Finding::ok(id, &subject, "is made by the first mount");
            return (None, finding.unwrap_or_else(made));
        }
        Err(error) => error,
    };
    let remedy = match &error {
        RegistryError::OpenToOthers { .. } => format!("chmod 700 {path}"),
        RegistryError::NotDirectory { .. } => format!("rm {path}"),
        _ if effective_user() == 0 => format!("mv -T -- {path} {path}-foreign"),
        _ => "export XDG_RUNTIME_DIR=$(mktemp -d)".to_owned(),
    };
    (None, Finding::problem(id, subject, error).mended_by(remedy))
}

/// Why no record can be written into `dir`, if none can.
fn unwritable(dir: &Path) -> Option<Finding> {
    let found = |text: String| Finding::problem(Id::RuntimeDirectory, dir.display(), text);
    let at = quoted(&mount_above(dir));
    if let Err(error) = may_use_dir(dir) {
        let mend = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => format!("mount -o remount,rw {at}"),
            _ => format!("ls -ld {}", quoted(dir)),
        };
        return Some(found(format!("cannot be written: {error}")).mended_by(mend));
    }
    let free = RealDisk.free_bytes(dir).ok()?;
    (free < RECORD_BYTES).then(|| {
        found("its file system is full, so nothing can be mounted".to_owned())
            .mended_by(format!("du -xah {at} | sort -rh | head -n 30"))
    })
}

/// Records of daemons that died whose mounts are gone, and records that nobody can read. A mount that
/// is still there is a finding of its own.
fn dead_records(
    records: &[(PathBuf, Result<Listed, RegistryError>)],
    ours: &[MountEntry],
) -> Vec<Finding> {
    let is_mounted = |point: &Path| ours.iter().any(|entry| entry.mount_point == point);
    let dead = records.iter().filter_map(|(path, looked)| match looked {
        Ok(one) if one.liveness == Liveness::Dead && !is_mounted(&one.record.mount_point) => {
            let point = &one.record.mount_point;
            let text = format!("its daemon died, and {} is not mounted", point.display());
            let clean = format!("stillfs umount {}", quoted(point));
            Some(Finding::warning(Id::MountRecord, path.display(), text).mended_by(clean))
        }
        Ok(_) => None,
        Err(error) => {
            let remove = format!("rm -- {}", quoted(path));
            Some(Finding::warning(Id::MountRecord, path.display(), error).mended_by(remove))
        }
    });
    dead.collect()
}

/// Mount points that `run` made: an empty one is used again, and what somebody put into one is in the
/// way of the next run.
fn run_views(registry: &Registry, ours: &[MountEntry]) -> Vec<Finding> {
    let views = registry.dir().join("views");
    let mut idle = 0;
    let mut found = Vec::new();
    for name in RealDisk.list(&views).unwrap_or_default() {
        let view = views.join(name);
        if ours.iter().any(|entry| entry.mount_point == view) {
            continue;
        }
        match RealDisk.list(&view) {
            Ok(names) if names.is_empty() => idle += 1,
            _ => {
                let text = "is in the way of the next stillfs run: something was put there";
                let aside = registry.dir().join("views-aside");
                let (dir, view_word) = (quoted(&aside), quoted(&view));
                let mend = format!("mkdir -p {dir} && mv -- {view_word} {dir}");
                found.push(Finding::problem(Id::RunView, view.display(), text).mended_by(mend));
            }
        }
    }
    if idle > 0 {
        let text = format!("{idle} empty mount points of earlier runs, for the next ones");
        let dir = quoted(&views);
        let tidy = format!("find {dir} -mindepth 1 -maxdepth 1 -type d -empty -delete");
        found.push(Finding::ok(Id::RunView, views.display(), text).mended_by(tidy));
    }
    found
}

fn ask_all(ours: Vec<MountEntry>, records: &[(PathBuf, Result<Listed, RegistryError>)]) -> Mounts {
    let asked = ours.into_iter().take(ASKED_MAX).map(|entry| {
        let asked = probe::start(&entry.mount_point);
        (entry, asked)
    });
    let asked: Vec<_> = asked.collect();
    let record_of = |point: &Path| {
        let listed = records
            .iter()
            .filter_map(|(_, looked)| looked.as_ref().ok());
        listed
            .into_iter()
            .find(|one| one.record.mount_point == point)
            .cloned()
    };
    let seen = asked.into_iter().filter_map(|(entry, asked)| {
        let answer = match asked {
            Ok(asked) => asked.wait(),
            Err(error) => {
                tracing::warn!(%error, "a mount could not be asked");
                return None;
            }
        };
        let record = record_of(&entry.mount_point);
        Some(Seen {
            entry,
            answer,
            record,
        })
    });
    Mounts {
        seen: seen.collect(),
    }
}

impl Seen {
    fn fault(&self) -> Option<Finding> {
        let point = &self.entry.mount_point;
        let word = quoted(point);
        match &self.answer {
            None => {
                let text = "its daemon does not answer: readers wait for ever";
                let mend = match self.daemon() {
                    Some(pid) => format!("kill -KILL {pid} && stillfs umount {word}"),
                    None => format!("stillfs umount --lazy {word}"),
                };
                Some(Finding::problem(Id::HungMount, point.display(), text).mended_by(mend))
            }
            Some(answer) if answer.is_of_a_dead_daemon() => {
                let text = "its daemon died: every read fails";
                let mend = format!("stillfs umount {word}");
                Some(Finding::problem(Id::StaleMount, point.display(), text).mended_by(mend))
            }
            Some(_) => None,
        }
    }

    /// The process that holds the record, by the kernel's word.
    fn daemon(&self) -> Option<u32> {
        let record = self
            .record
            .as_ref()
            .filter(|one| one.liveness == Liveness::Alive)?;
        let registry = Registry::existing(Registry::dir_of_this_user()).ok()??;
        let path = registry.record_path(&record.record.mount_point);
        let file = RealDisk.open(&path, OpenMode::Read).ok()?;
        let holders = lock_table::holders(file.as_fd()?).ok()?;
        let daemon = holders.iter().find(|one| one.kind == LockKind::Exclusive)?;
        Some(daemon.process)
    }

    /// Whether it holds locks in the SQLite database at `path`, as its daemon says.
    fn holds(&self, path: &Path) -> bool {
        let record = self.record.as_ref();
        let Some(record) = record.filter(|one| one.liveness == Liveness::Alive) else {
            return false;
        };
        let status = self
            .answer
            .as_ref()
            .and_then(|answer| answer.status.as_ref());
        let (Some(status), Ok(below)) = (status, path.strip_prefix(&record.record.source)) else {
            return false;
        };
        // Paths that are no text come as the daemon could say them.
        let below = below.display().to_string();
        let rows = &status.members.databases;
        let is_cut = (rows.len() as u64) < status.members.database_count;
        match rows.iter().find(|row| row.path == below) {
            Some(row) => row.state == "held",
            None => is_cut,
        }
    }

    fn describe(&self, findings: &mut Vec<Finding>) {
        let (id, point) = (Id::View, self.entry.mount_point.display());
        let source = self.entry.source.to_string_lossy();
        let commit = self.record.as_ref().and_then(|one| one.record.timestamp);
        let commit = commit.map_or_else(String::new, |commit| format!(", commit {commit}"));
        let what = format!("a view of {source}{commit}");
        let Some(status) = self
            .answer
            .as_ref()
            .and_then(|answer| answer.status.as_ref())
        else {
            // A dead or silent one was told of with the mounts; another user's does not answer us.
            if self.fault().is_none() {
                findings.push(Finding::warning(
                    id,
                    point,
                    format!("{what} of another user"),
                ));
            }
            return;
        };
        let daemon = self.daemon().map(|pid| format!(", process {pid}"));
        let told = state_of(status, &format!("{what}{}", daemon.unwrap_or_default()));
        let again = format!("stillfs umount {}", quoted(&self.entry.mount_point));
        findings.push(match status.state.as_str() {
            "ended" => Finding::problem(id, &point, told).mended_by(again),
            "held" | "no engine" => Finding::ok(id, &point, told),
            _ => Finding::warning(id, &point, told),
        });
        findings.extend(self.failed_read(status));
    }

    fn failed_read(&self, status: &ViewStatus) -> Option<Finding> {
        let (id, point) = (Id::FailedRead, self.entry.mount_point.display());
        let source = quoted(Path::new(&self.entry.source));
        let check = format!("stillfs check {source}");
        if let Some(failed) = &status.failed_read {
            let text = format!("a read failed, so a copy made of it is not whole: {failed}");
            return Some(Finding::problem(id, point, text).mended_by(check));
        }
        let checks = status.failed_checks;
        let text = format!("{checks} pages were wrong at the first read, and right at the second");
        (checks > 0).then(|| Finding::warning(id, point, text).mended_by(check))
    }
}

fn state_of(status: &ViewStatus, what: &str) -> String {
    let reason = status.reason.as_ref().map(|reason| format!(" ({reason})"));
    format!(
        "{what}: {}{}, {} served",
        status.state,
        reason.unwrap_or_default(),
        output::bytes(status.bytes_served)
    )
}

impl Mounts {
    /// The views that hold locks in the SQLite database at `path`, which is canonical.
    pub(super) fn holding(&self, path: &Path) -> Vec<&MountRecord> {
        let holding = self.seen.iter().filter(|one| one.holds(path));
        holding
            .filter_map(|one| Some(&one.record.as_ref()?.record))
            .collect()
    }

    /// Tells of the view that is mounted at exactly `path`; `false` if none is.
    pub(super) fn view(&self, path: &Path, findings: &mut Vec<Finding>) -> bool {
        let seen = self.seen.iter().rfind(|one| one.entry.mount_point == path);
        if let Some(seen) = seen {
            seen.describe(findings);
        }
        seen.is_some()
    }
}
