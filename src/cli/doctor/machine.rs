//! The machine: what every mount needs, whatever its source.

use std::path::Path;

use super::finding::{Finding, Id, quoted};
use crate::mount::{DeviceError, check_device, find_helper};
use crate::os::path::{metadata, read_small_file};
use crate::os::process::{effective_user, file_limit};

const DEVICE: &str = "/dev/fuse";
const FUSE_CONF: &str = "/etc/fuse.conf";
const FUSE_CONF_BYTES_MAX: u64 = 1 << 20;
const SET_USER_ID: u32 = 0o4000;
/// What an engine with a few hundred clients, or a daemon, gets by with.
const OPEN_FILES_MIN: u64 = 1024;
/// What is enough for a thousand clients and many segments.
const OPEN_FILES_MANY: u64 = 65_536;

pub(super) fn look() -> Vec<Finding> {
    vec![device(), helper(), allow_other(), open_files()]
}

fn device() -> Finding {
    let error = match check_device() {
        Ok(()) => return Finding::ok(Id::FuseDevice, DEVICE, "can be opened"),
        Err(error) => error,
    };
    let remedy = match &error {
        DeviceError::Missing => "modprobe fuse",
        DeviceError::Denied { .. } => "chmod 666 /dev/fuse",
        DeviceError::Foreign => "umount /dev/fuse",
        DeviceError::Io { .. } => "ls -l /dev/fuse",
    };
    Finding::problem(Id::FuseDevice, DEVICE, error).mended_by(remedy)
}

/// Root mounts by itself, so for root a missing helper is only worth knowing.
fn helper() -> Finding {
    let id = Id::FuseHelper;
    let fault = |text: String| match effective_user() {
        0 => Finding::warning(id, "fusermount3", format!("{text}; only root can mount")),
        _ => Finding::problem(id, "fusermount3", format!("{text}, so you cannot mount")),
    };
    let Some(path) = find_helper() else {
        return fault("was not found".to_owned()).mended_by("apt-get install fuse3");
    };
    match metadata(&path) {
        Ok(found) if found.mode & SET_USER_ID != 0 && found.uid == 0 => {
            Finding::ok(id, path.display(), "mounts for ordinary users")
        }
        Ok(_) => {
            let mend = quoted(&path);
            fault(format!("{} does not run as root", path.display()))
                .mended_by(format!("chown root {mend} && chmod u+s {mend}"))
        }
        Err(error) => fault(format!("cannot be looked at: {error}")),
    }
}

fn allow_other() -> Finding {
    let id = Id::AllowOther;
    let text = read_small_file(Path::new(FUSE_CONF), FUSE_CONF_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Finding::ok(id, FUSE_CONF, "ordinary users may mount with allow_other");
    }
    if effective_user() == 0 {
        let text = "only root may mount with allow_other: there is no line user_allow_other";
        return Finding::ok(id, FUSE_CONF, text);
    }
    let text = "you cannot mount with allow_other: there is no line user_allow_other";
    Finding::warning(id, FUSE_CONF, text)
        .mended_by("echo user_allow_other | sudo tee -a /etc/fuse.conf")
}

/// `serve` raises its limit itself, as far as it may; a daemon and an application's engine do not.
fn open_files() -> Finding {
    let (id, subject) = (Id::OpenFiles, "ulimit -n");
    match file_limit() {
        Ok((_, hard)) if hard < OPEN_FILES_MIN => {
            let text = format!("at most {hard} open files: an engine cannot serve many clients");
            Finding::warning(id, subject, text).mended_by(format!("ulimit -n {OPEN_FILES_MANY}"))
        }
        Ok((soft, hard)) if soft < OPEN_FILES_MIN => {
            let text = format!("{soft} open files, where {hard} are allowed");
            let enough = hard.min(OPEN_FILES_MANY);
            Finding::warning(id, subject, text).mended_by(format!("ulimit -Sn {enough}"))
        }
        Ok((soft, hard)) => Finding::ok(id, subject, format!("{soft} open files, up to {hard}")),
        Err(error) => Finding::warning(id, subject, format!("cannot be asked: {error}")),
    }
}
