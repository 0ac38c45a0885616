//! One mount, and what may be read of it: the bytes of its pin, or an error that has a reason.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::books::Books;
use crate::process::{end_of, stillfs, succeed};
use crate::rig::{Engine, daemon_of, mount_status};

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What a view owes to its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Owes {
    /// Every byte.
    Bytes = 0,
    /// Every byte or EIO: its pin may have ended.
    BytesOrEio = 1,
    /// Nothing but right bytes of the kernel's cache, and errors: its daemon was killed.
    Errors = 2,
}

/// What readers on several threads know of a view.
#[derive(Debug)]
pub struct Still {
    pub point: PathBuf,
    owes: AtomicU8,
    /// The first whole reading: every other one must be equal.
    bytes: OnceLock<Vec<u8>>,
}

impl Still {
    pub fn owes(&self) -> Owes {
        match self.owes.load(Ordering::SeqCst) {
            0 => Owes::Bytes,
            1 => Owes::BytesOrEio,
            _ => Owes::Errors,
        }
    }

    /// From here on it may owe less; never more.
    pub fn owe_at_most(&self, owes: Owes) {
        self.owes.fetch_max(owes as u8, Ordering::SeqCst);
    }

    /// Fails unless a whole reading is that of the pin.
    pub fn compare(&self, read: Vec<u8>, what: &str) {
        let length = read.len();
        if let Err(read) = self.bytes.set(read) {
            let bytes = self.bytes.get().expect("it was set");
            assert_eq!(length, bytes.len(), "{what}: another size");
            let wrong = read.iter().zip(bytes).position(|(one, other)| one != other);
            assert_eq!(wrong, None, "{what}: wrong bytes");
        }
    }

    /// Reads `data.pages` by pieces: each is right, or fails with an error that has a reason. Whether
    /// it was all there.
    pub fn read(&self) -> bool {
        let path = self.point.join("data.pages");
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.excuse(&error),
        };
        let mut all = vec![0; usize::try_from(size).unwrap()];
        let mut is_whole = true;
        for (number, piece) in all.chunks_mut(PIECE).enumerate() {
            let offset = number * PIECE;
            match read_piece(&file, piece, offset as u64) {
                Ok(()) => self.compare_piece(piece, offset),
                Err(error) => is_whole = self.excuse(&error),
            }
        }
        if is_whole {
            self.compare(all, "a reading");
        }
        is_whole
    }

    fn compare_piece(&self, piece: &[u8], offset: usize) {
        if let Some(bytes) = self.bytes.get() {
            let expected = &bytes[offset..offset + piece.len()];
            assert!(piece == expected, "wrong bytes at {offset}");
        }
    }

    /// Fails unless the error has a reason.
    fn excuse(&self, error: &io::Error) -> bool {
        let is_excused = match self.owes() {
            Owes::Bytes => false,
            Owes::BytesOrEio => error.raw_os_error() == Some(libc::EIO),
            Owes::Errors => true,
        };
        assert!(is_excused, "{}: {error}", self.point.display());
        false
    }
}

/// All of the piece. A part of it is what the kernel had in its cache, and the rest then fails.
fn read_piece(file: &File, piece: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < piece.len() {
        match file.read_at(&mut piece[done..], offset + done as u64)? {
            0 => panic!("a short file at {}", offset + done as u64),
            count => done += count,
        }
    }
    Ok(())
}

/// A mount of the database under test.
#[derive(Debug)]
pub struct View {
    pub still: Arc<Still>,
    pub daemon: u32,
    /// Transfers acknowledged to each writer before the mount was asked for, and when it was there.
    acknowledged: [Vec<u64>; 2],
}

impl View {
    /// Of a mount that was just made.
    pub fn new(point: &Path, before: Vec<u64>, after: Vec<u64>) -> Self {
        Self {
            daemon: daemon_of(point),
            still: Arc::new(Still {
                point: point.to_owned(),
                owes: AtomicU8::new(Owes::Bytes as u8),
                bytes: OnceLock::new(),
            }),
            acknowledged: [before, after],
        }
    }

    /// Reads it all once more; if it is all there: it is sound, a copy of it is the same database, and
    /// that is the state of a moment while it was being mounted. Whether it was.
    pub fn is_proven(&self, copy: &Path) -> bool {
        let point = &self.still.point;
        if !self.still.read() {
            return false;
        }
        fs::create_dir(copy).unwrap();
        if let Err(error) = fs::copy(point.join("data.pages"), copy.join("data.pages")) {
            return self.still.excuse(&error);
        }
        self.still
            .compare(fs::read(copy.join("data.pages")).unwrap(), "a copy");
        if self.still.owes() == Owes::Bytes {
            assert_eq!(mount_status(point)["failed_checks"], 0);
        }
        let check = end_of(stillfs().arg("check").arg(point));
        let digest = end_of(stillfs().args(["dump", "--digest"]).arg(point));
        for ended in [&check, &digest] {
            let may_have_ended = self.still.owes() != Owes::Bytes && ended.code() == 13;
            assert!(ended.code() == 0 || may_have_ended, "{ended:?}");
        }
        succeed(stillfs().arg("check").arg(copy));
        let of_copy = succeed(stillfs().args(["dump", "--digest"]).arg(copy));
        if digest.code() == 0 {
            assert_eq!(digest.out, of_copy);
        }
        let restored = Engine::start(copy);
        let books = Books::read(restored.address);
        books.audit();
        let [before, after] = &self.acknowledged;
        for (writer, count) in books.transfers().into_iter().enumerate() {
            // One that was on its way counts or not.
            let possible = before[writer]..=after[writer] + 1;
            assert!(possible.contains(&count), "{writer}: {count} {possible:?}");
        }
        restored.kill();
        fs::remove_dir_all(copy).unwrap();
        true
    }
}
