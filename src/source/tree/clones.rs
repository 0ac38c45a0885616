//! The plain files of a tree, as they are shown: live, or cloned right after the databases were pinned.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::walk::{Plain, Walked, is_gone};
use super::xattrs_of;
use crate::os::path::Metadata;
use crate::os::{FileIdentity, process, reflink};
use crate::source::{Files, PinAs, SourceError};
use crate::view::tree::HeldFile;

/// Descriptors that are left for everything else, and for each database.
const OTHER_DESCRIPTORS: usize = 256;
const DATABASE_DESCRIPTORS: usize = 8;

/// A plain file, and how it is shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) plain: Plain,
    pub(super) content: ShownAs,
}

#[derive(Debug)]
pub(super) enum ShownAs {
    /// As it is when it is read; or another name of a file that came before.
    Live,
    /// As it was at the pin.
    Held {
        file: HeldFile,
        xattrs: BTreeMap<OsString, Vec<u8>>,
    },
}

/// Sees to it that there is a descriptor for each clone, and as many as there can be for databases.
///
/// Errors: `TooManyFiles`, `Io`.
pub(super) fn check_room(walked: &Walked, pin_as: &PinAs<'_>) -> Result<(), SourceError> {
    let raised = process::raise_file_limit();
    if pin_as.tree.files == Files::Live {
        // Each database has a few, and what is refused then says so.
        return Ok(());
    }
    let limit = raised.map_err(SourceError::io(
        "raise the limit of open files for",
        Path::new("clones"),
    ))?;
    let files = walked.plain.len();
    let databases = walked.databases.len().saturating_mul(DATABASE_DESCRIPTORS);
    let wanted = files
        .saturating_add(databases)
        .saturating_add(OTHER_DESCRIPTORS);
    match wanted as u64 > limit {
        true => Err(SourceError::TooManyFiles { files, limit }),
        false => Ok(()),
    }
}

/// Takes the plain files out of `walked`, and clones them where that is asked for.
///
/// Errors: `NoClone`, `Io`.
pub(super) fn plain_files(
    source: &Path,
    walked: &mut Walked,
    pin_as: &PinAs<'_>,
) -> Result<Vec<Shown>, SourceError> {
    let mut known: HashSet<FileIdentity> = HashSet::new();
    let mut shown = Vec::with_capacity(walked.plain.len());
    for mut plain in std::mem::take(&mut walked.plain) {
        let is_known = plain.metadata.link_count > 1 && !known.insert(plain.metadata.identity);
        let content = match pin_as.tree.files {
            Files::Clone if !is_known => {
                let path = walked.folders.path_of(plain.folder, &plain.name);
                match hold(walked, &path) {
                    Ok((metadata, content)) => {
                        plain.metadata = metadata;
                        content
                    }
                    Err(error) if is_gone(&error) => continue,
                    // It cannot be read there either.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => ShownAs::Live,
                    Err(error) => {
                        let path: PathBuf = source.join(path);
                        let source = error;
                        return Err(SourceError::NoClone { path, source });
                    }
                }
            }
            _ => ShownAs::Live,
        };
        shown.push(Shown { plain, content });
    }
    Ok(shown)
}

/// The times are asked for before the clone is made: a write in between then shows in the next pin, which
/// has a later time.
fn hold(walked: &Walked, path: &Path) -> io::Result<(Metadata, ShownAs)> {
    let folders = &walked.folders;
    let held = folders.root().hold(path)?;
    let file = held.read()?;
    let metadata = folders.root().hold(path)?.found.metadata;
    if metadata.identity != held.found.metadata.identity {
        return Err(io::ErrorKind::NotFound.into());
    }
    let parent = folders.root().dir(path.parent().unwrap_or(Path::new("")))?;
    let clone = parent.unnamed()?;
    reflink::clone_file(file.as_ref(), clone.as_ref())?;
    let bytes = clone.len()?;
    let xattrs = xattrs_of(&held.way());
    let file = HeldFile { file: clone, bytes };
    Ok((metadata, ShownAs::Held { file, xattrs }))
}
