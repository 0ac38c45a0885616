//! The content of files, written and read back.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::os::beneath::OpenDir;
use crate::os::dir_edit::{start_writeback, sync_all};
use crate::os::extent::{self, next_extent};
use crate::os::{File, cache, read_exact_at, read_up_to, write_all_at};
use crate::repository::blob_reader::BlobReader;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{Entry, FileContent};
use crate::repository::pack::UNIT_BYTES_MAX;
use crate::repository::progress::Control;
use crate::repository::restore::Made;
use crate::repository::restore::outline::{Outline, place_of};
use crate::repository::restore::piece::{Opened, Piece, Run, Work};

/// Writes files, or what differs of those that are there.
pub(super) struct Writer<'a> {
    /// The root of what is restored.
    pub(super) tree: &'a OpenDir,
    /// Where content comes from.
    pub(super) reader: &'a BlobReader,
    /// Whether each file is synced when it is whole.
    pub(super) syncs_files: bool,
    /// Who looks on.
    pub(super) control: &'a Control,
    /// What was made so far.
    pub(super) made: &'a Made,
}

/// Reads files back and compares the digests of their units (BK8).
pub(super) struct Checker<'a> {
    /// The root of what is restored.
    pub(super) tree: &'a OpenDir,
    /// Where digests come from.
    pub(super) reader: &'a BlobReader,
}

fn shown(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

/// The folder of `entry`, opened, and the name of it there.
pub(super) fn folder_of<'e>(
    tree: &OpenDir,
    entry: &'e Entry,
) -> Result<(OpenDir, &'e std::ffi::OsStr)> {
    let (folder, name) = place_of(entry).unwrap_or((Path::new(""), "".as_ref()));
    let folder = tree.dir(folder);
    let folder = folder.map_err(RepositoryError::io("open the folder of", shown(entry)))?;
    Ok((folder, name))
}

impl Work for Writer<'_> {
    fn open(&self, entry: &Entry, content: &FileContent) -> Result<Opened> {
        let (folder, name) = folder_of(self.tree, entry)?;
        let failed = |op| RepositoryError::io(op, shown(entry));
        let file = folder.writable_file(name).map_err(failed("make"))?;
        let old_bytes = file.len().map_err(failed("measure"))?;
        if old_bytes != content.bytes {
            file.set_len(content.bytes).map_err(failed("size"))?;
        }
        let old_bytes = old_bytes.min(content.bytes);
        Ok(Opened { file, old_bytes })
    }

    fn piece(&self, opened: &Opened, piece: &Piece<'_>, buffer: &mut Vec<u8>) -> Result<()> {
        if has_data(opened, piece) {
            return self.mend(opened, piece, buffer);
        }
        buffer.clear();
        let mut at = piece.offset;
        for run in &piece.runs {
            if run.pack.is_some() {
                read_run(self.reader, run, buffer)?;
                continue;
            }
            at = self.put(opened, piece, at, buffer)? + run.bytes as u64;
        }
        self.put(opened, piece, at, buffer)?;
        start_writeback(&*opened.file, piece.offset, piece.bytes as u64);
        Ok(())
    }

    fn close(&self, opened: &Opened, entry: &Entry, _content: &FileContent) -> Result<()> {
        if self.syncs_files {
            let synced = opened.file.sync_data();
            synced.map_err(RepositoryError::io("sync", shown(entry)))?;
        }
        self.control.add_file();
        Ok(())
    }
}

impl Writer<'_> {
    /// Writes the units of `piece` that differ from what is there.
    fn mend(&self, opened: &Opened, piece: &Piece<'_>, old: &mut Vec<u8>) -> Result<()> {
        let failed = |op| RepositoryError::io(op, piece.path());
        old.clear();
        old.resize(piece.bytes, 0);
        read_up_to(&*opened.file, old, piece.offset).map_err(failed("read"))?;
        let mut bytes = Vec::new();
        let (mut at, mut rest) = (piece.offset, old.as_slice());
        for run in &piece.runs {
            let (there, after) = rest.split_at(run.bytes.min(rest.len()));
            let end = at + there.len() as u64;
            let stretches = self.differing(piece, run, there)?;
            let unit_bytes = piece.unit_bytes();
            for (first, count) in stretches {
                let (from, until) = (first * unit_bytes, (first + count) * unit_bytes);
                let part = part_of(run, first, count, until.min(run.bytes) - from);
                bytes.clear();
                match part {
                    Part::Zeros(length) => bytes.resize(length, 0),
                    Part::Stored(part) => read_run(self.reader, &part, &mut bytes)?,
                }
                self.put(opened, piece, at + from as u64, &mut bytes)?;
            }
            (at, rest) = (end, after);
        }
        Ok(())
    }

    /// Writes `bytes` at `at`, empties it, and gives the place behind.
    fn put(&self, opened: &Opened, piece: &Piece<'_>, at: u64, bytes: &mut Vec<u8>) -> Result<u64> {
        let written = write_all_at(&*opened.file, bytes, at);
        written.map_err(RepositoryError::io("write", piece.path()))?;
        let count = bytes.len() as u64;
        bytes.clear();
        self.made.bytes_written.fetch_add(count, Ordering::Relaxed);
        self.control.add_stored(count);
        Ok(at + count)
    }

    /// The first and the number of the units of `run` that `there` has not, in stretches.
    fn differing(&self, piece: &Piece<'_>, run: &Run, there: &[u8]) -> Result<Vec<(usize, usize)>> {
        let expected = expected(self.reader, run, piece.unit_bytes())?;
        let mut stretches: Vec<(usize, usize)> = Vec::new();
        let units = there.chunks(piece.unit_bytes()).zip(expected);
        for (index, (unit, digest)) in units.enumerate() {
            if Digest::of(unit) == digest {
                if run.pack.is_some() {
                    let bytes = unit.len() as u64;
                    self.made.bytes_resumed.fetch_add(bytes, Ordering::Relaxed);
                }
                continue;
            }
            match stretches.last_mut() {
                Some((first, count)) if *first + *count == index => *count += 1,
                _ => stretches.push((index, 1)),
            }
        }
        Ok(stretches)
    }
}

/// A part of a run that is written anew.
enum Part {
    Zeros(usize),
    Stored(Run),
}

fn part_of(run: &Run, first: usize, count: usize, bytes: usize) -> Part {
    if run.pack.is_none() {
        return Part::Zeros(bytes);
    }
    // Both are within the run, whose numbers are small.
    let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Part::Stored(Run {
        pack: run.pack,
        slot: run.slot.saturating_add(small(first)),
        count: small(count),
        bytes,
    })
}

impl Work for Checker<'_> {
    fn open(&self, entry: &Entry, content: &FileContent) -> Result<Opened> {
        let (folder, name) = folder_of(self.tree, entry)?;
        let failed = |op| RepositoryError::io(op, shown(entry));
        let file = folder.file(name).map_err(failed("open"))?;
        let old_bytes = file.len().map_err(failed("measure"))?;
        if old_bytes != content.bytes {
            let path = shown(entry);
            let what = format!("it has {old_bytes} bytes instead of {}", content.bytes);
            return Err(RepositoryError::Unsound { path, what });
        }
        // What was written is synced, so that all of it is read from the disk.
        cache::drop_cached(&*file).map_err(failed("read afresh"))?;
        Ok(Opened { file, old_bytes })
    }

    fn piece(&self, opened: &Opened, piece: &Piece<'_>, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        buffer.resize(piece.bytes, 0);
        let read = read_exact_at(&*opened.file, buffer, piece.offset);
        read.map_err(RepositoryError::io("read back", piece.path()))?;
        let mut rest = buffer.as_slice();
        for run in &piece.runs {
            let (bytes, after) = rest.split_at(run.bytes.min(rest.len()));
            rest = after;
            let expected = expected(self.reader, run, piece.unit_bytes())?;
            let units = bytes.chunks(piece.unit_bytes());
            for (found, expected) in units.map(Digest::of).zip(expected) {
                if found != expected {
                    return Err(RepositoryError::OtherContent {
                        object: format!("restored {}", piece.path()),
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(())
    }

    fn close(&self, _: &Opened, _: &Entry, _: &FileContent) -> Result<()> {
        Ok(())
    }
}

/// Whether there is anything at the place of `piece` that could be right already.
fn has_data(opened: &Opened, piece: &Piece<'_>) -> bool {
    if opened.old_bytes <= piece.offset {
        return false;
    }
    let Some(fd) = opened.file.as_fd() else {
        return true;
    };
    match next_extent(fd, piece.offset, extent::Extent::Data) {
        Ok(data) => data < piece.offset + piece.bytes as u64,
        Err(error) => !extent::is_at_end(&error),
    }
}

/// Appends the units of `run`, which has a pack, to `out`.
fn read_run(reader: &BlobReader, run: &Run, out: &mut Vec<u8>) -> Result<()> {
    let Some(pack) = run.pack else {
        return Ok(());
    };
    let before = out.len();
    reader.read(pack, run.slot, run.count, out)?;
    if out.len() - before != run.bytes {
        let (object, what) = (pack.object(), "a unit has another size than its file says");
        return Err(RepositoryError::Damaged { object, what });
    }
    Ok(())
}

/// The digests of the units of `run`.
fn expected(reader: &BlobReader, run: &Run, unit_bytes: usize) -> Result<Vec<Digest>> {
    match run.pack {
        Some(pack) => reader.digests(pack, run.slot, run.count),
        None => {
            let zeros = [0; UNIT_BYTES_MAX];
            let zeros_of = |bytes: usize| Digest::of(zeros.get(..bytes).unwrap_or(&zeros));
            let (whole, rest) = (run.bytes / unit_bytes, run.bytes % unit_bytes);
            let mut digests = vec![zeros_of(unit_bytes); whole];
            digests.extend((rest > 0).then(|| zeros_of(rest)));
            Ok(digests)
        }
    }
}

/// Proves that the packs have what the manifest says: each file's digest is that of the digests that the
/// packs' directories have for its units. So that whoever compares unit by unit has compared the file.
///
/// Errors: `Missing`, `Damaged` and the like of the pack; `OtherContent` of a file; `Cancelled`.
pub(super) fn prove(outline: &Outline<'_>, reader: &BlobReader, control: &Control) -> Result<()> {
    for (entry, content) in outline.contents() {
        control.refuse_if_cancelled()?;
        let found = digest_by_packs(outline, content, reader, control)?;
        if found != content.digest {
            return Err(RepositoryError::OtherContent {
                object: shown(entry),
                expected: content.digest,
                found,
            });
        }
    }
    Ok(())
}

fn digest_by_packs(
    outline: &Outline<'_>,
    content: &FileContent,
    reader: &BlobReader,
    control: &Control,
) -> Result<Digest> {
    let mut failure = None;
    let runs = super::piece::runs_of(outline, content);
    let unit_bytes = usize::try_from(content.unit_bytes.max(1)).unwrap_or(1);
    let digests = runs.map_while(|run| {
        // A run is no longer than a piece.
        let cancelled = control.refuse_if_cancelled();
        match cancelled.and_then(|()| expected(reader, &run, unit_bytes)) {
            Ok(digests) => Some(digests),
            Err(error) => {
                failure = Some(error);
                None
            }
        }
    });
    let digest = Digest::of_units(content.bytes, digests.flatten());
    match failure {
        Some(error) => Err(error),
        None => Ok(digest),
    }
}

/// Makes the attributes of the file `entry` durable too.
pub(super) fn sync_file(tree: &OpenDir, entry: &Entry) -> Result<()> {
    let (folder, name) = folder_of(tree, entry)?;
    let failed = |op| RepositoryError::io(op, shown(entry));
    let file: std::sync::Arc<dyn File> = folder.file(name).map_err(failed("open"))?;
    sync_all(&*file).map_err(failed("sync"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::specimen::{Specimen, endless};

    /// A file of zeros without end must not keep a restore that is cancelled.
    #[test]
    fn proof_hears_that_it_is_cancelled_within_a_file() {
        let (specimen, [id, ..]) = Specimen::rich(1);
        let manifest = specimen.repository.manifest(&id).unwrap();
        let outline = Outline::of(&manifest).unwrap();
        let (reader, control) = (BlobReader::new(&specimen.repository), Control::default());
        control.cancel();
        let found = digest_by_packs(&outline, &endless(), &reader, &control);
        assert!(
            matches!(found, Err(RepositoryError::Cancelled)),
            "{found:?}"
        );
    }
}
