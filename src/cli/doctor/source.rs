//! A source directory: where it lies, who may use it, and what is in it.

use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Id, quoted};
use super::mounts::Mounts;
use super::{engine, files, sqlite};
use crate::cli::{output, probe};
use crate::database::{CHANGES_DIR, LOG_DIR, PAGE_FILE, SHADOW_DIR, SOCKET_FILE};
use crate::engine::EngineOptions;
use crate::os::file_system::{Reflink, RefusedFileSystem, reflink, refuse_remote};
use crate::os::path::{Metadata, file_type_of, may_use_dir, metadata};
use crate::os::{Host, mount_table};
use crate::source::native;

/// Looks at the source at `path`, which answers: absolute and canonical.
pub(super) fn look(host: &Host, path: &Path, mounts: &Mounts, findings: &mut Vec<Finding>) {
    findings.push(file_system(path));
    if sqlite::look(host, path, mounts, findings) {
        findings.push(sharing(path));
        return;
    }
    let is_source = native::recognise(host, path);
    match &is_source {
        Ok(()) => findings.push(Finding::ok(
            Id::Source,
            path.display(),
            "is a stillfs database",
        )),
        Err(error) => {
            let finding = Finding::problem(Id::Source, path.display(), error);
            // An engine makes a database where there is none; it takes no other file for one.
            let is_free = file_type_of(&path.join(PAGE_FILE))
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            findings.push(match is_free {
                true => finding.mended_by(format!("stillfs serve {}", quoted(path))),
                false => finding,
            });
            return;
        }
    }
    if let Some(silent) = silent_part(path) {
        let text = "does not answer: it leads to a file system that hangs";
        let shows = format!("ls -ld {}", quoted(&silent));
        findings.push(Finding::problem(Id::NoAnswer, silent.display(), text).mended_by(shows));
        return;
    }
    findings.push(permission(path));
    findings.push(sharing(path));
    let running = engine::look(host, path, findings);
    let floor = running.floor_bytes;
    let floor = floor.unwrap_or_else(|| EngineOptions::default().floor_bytes());
    findings.push(free_space(host, path, floor));
    files::look(host, path, &running, findings);
}

/// A part of the source that is a link to, or the mount point of, what never answers.
fn silent_part(path: &Path) -> Option<PathBuf> {
    let parts = [SHADOW_DIR, LOG_DIR, CHANGES_DIR, SOCKET_FILE].map(|name| path.join(name));
    let asked = parts.map(|part| (probe::start(&part), part));
    let silent = asked.into_iter().filter_map(|(asked, part)| {
        let is_silent = asked.is_ok_and(|asked| asked.wait().is_none());
        is_silent.then_some(part)
    });
    silent.last()
}

fn file_system(path: &Path) -> Finding {
    let id = Id::FileSystem;
    let entry = mount_of(path);
    let kind = entry.map_or_else(String::new, |entry| {
        let file_system = entry.file_system.to_string_lossy();
        format!("{file_system}, mounted at {}", entry.mount_point.display())
    });
    match refuse_remote(path) {
        Ok(()) => Finding::ok(
            id,
            path.display(),
            format!("lies on a local file system: {kind}"),
        ),
        Err(RefusedFileSystem::Remote(remote)) => {
            let text = format!(
                "lies on {remote} ({kind}), where locks and page cache are not shared: engine and \
                 mount refuse it; move it to a local disk"
            );
            let word = quoted(path);
            let mend = format!("cp -a {word} /var/lib/");
            Finding::problem(id, path.display(), text).mended_by(mend)
        }
        Err(error) => Finding::warning(id, path.display(), error),
    }
}

/// The mount that `path`, which is canonical, lies in.
fn mount_of(path: &Path) -> Option<mount_table::MountEntry> {
    let entries = mount_table::entries().ok()?.into_iter();
    // Of those at one place the last is on top.
    entries
        .filter(|entry| path.starts_with(&entry.mount_point))
        .max_by_key(|entry| entry.mount_point.as_os_str().len())
}

/// An engine makes `wal/`, `shadow/` and its socket there. Whoever only mounts asks the engine.
fn permission(path: &Path) -> Finding {
    let (id, subject) = (Id::Permission, path.display());
    let facts = |found: Metadata| format!("owner {}, mode {:o}", found.uid, found.mode);
    let facts = metadata(path).map(facts).unwrap_or_default();
    let shadow = path.join(SHADOW_DIR);
    let blocked = [path, &shadow].into_iter().find_map(|dir| {
        let error = may_use_dir(dir).err()?;
        (error.kind() != io::ErrorKind::NotFound).then_some((dir, error))
    });
    let Some((dir, error)) = blocked else {
        return Finding::ok(id, subject, format!("you may run an engine here: {facts}"));
    };
    let text = format!(
        "you cannot run an engine here ({facts}): {}: {error}",
        dir.display()
    );
    let mend = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            let at = mount_of(path).map_or("/".into(), |entry| entry.mount_point);
            format!("mount -o remount,rw {}", quoted(&at))
        }
        _ => format!("sudo chown -R \"$(id -u)\" {}", quoted(path)),
    };
    Finding::problem(id, subject, text).mended_by(mend)
}

fn sharing(path: &Path) -> Finding {
    let text = match reflink(path) {
        Ok(Reflink::Yes) => "cp --reflink copies share blocks here",
        Ok(Reflink::Perhaps) => {
            "cp --reflink copies share blocks here if it was made with reflink=1"
        }
        Ok(Reflink::No) => "copies share no blocks here (no reflink)",
        Err(_) => "whether copies share blocks here cannot be told",
    };
    Finding::ok(Id::Reflink, path.display(), text)
}

fn free_space(host: &Host, path: &Path, floor: u64) -> Finding {
    let (id, subject) = (Id::FreeSpace, path.display());
    let free = match host.disk.free_bytes(path) {
        Ok(free) => free,
        Err(error) => return Finding::warning(id, subject, format!("cannot be told: {error}")),
    };
    let (has, needs) = (output::bytes(free), output::bytes(floor));
    if free >= floor {
        return Finding::ok(
            id,
            subject,
            format!("{has} are free, and {needs} are kept for the log"),
        );
    }
    let text = format!(
        "{has} are free, less than the {needs} that are kept for the log: pins find no room and end"
    );
    let at = mount_of(path).map_or("/".into(), |entry| entry.mount_point);
    let shows = format!("du -xah {} | sort -rh | head -n 30", quoted(&at));
    Finding::warning(id, subject, text).mended_by(shows)
}
