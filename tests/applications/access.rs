//! Which files were read: the kernel tells, whoever reads and by whatever way.

#![allow(
    clippy::host_endian_bytes,
    reason = "what the kernel writes into memory"
)]

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Watches the files of some directories (inotify).
#[derive(Debug)]
pub struct Access {
    queue: File,
    /// By the number of the watch, from 1 on.
    directories: Vec<PathBuf>,
}

impl Access {
    /// Begins to watch the files of each directory, not those below it.
    pub fn watch(directories: &[PathBuf]) -> Self {
        // SAFETY: gives a new descriptor, or none.
        let queue = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(queue >= 0);
        // SAFETY: nobody else owns the new descriptor.
        let queue = unsafe { File::from_raw_fd(queue) };
        for (directory, number) in directories.iter().zip(1..) {
            let path = CString::new(directory.as_os_str().as_bytes()).unwrap();
            let events = libc::IN_ACCESS | libc::IN_ONLYDIR;
            // SAFETY: the path ends in zero.
            let watch =
                unsafe { libc::inotify_add_watch(queue.as_raw_fd(), path.as_ptr(), events) };
            assert_eq!(watch, number, "{}", directory.display());
        }
        let directories = directories.to_vec();
        Self { queue, directories }
    }

    /// The files that were read since this was asked last, under `root`.
    pub fn read_since(&mut self, root: &Path) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut buffer = [0_u8; 1 << 16];
        loop {
            let count = match self.queue.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return files,
                Err(error) => panic!("{error}"),
            };
            let mut events = &buffer[..count];
            while !events.is_empty() {
                let (file, rest) = self.next(events);
                events = rest;
                let relative = file.map(|file| file.strip_prefix(root).unwrap().to_owned());
                files.extend(relative);
            }
        }
    }

    /// The file of the first event, unless it is a directory that was listed, and the other events.
    fn next<'a>(&self, events: &'a [u8]) -> (Option<PathBuf>, &'a [u8]) {
        let word = |at: usize| i32::from_ne_bytes(events[at..at + 4].try_into().unwrap());
        let (watch, mask, room) = (word(0), word(4).cast_unsigned(), word(12));
        assert_eq!(mask & libc::IN_Q_OVERFLOW, 0, "events were lost");
        let (event, rest) = events.split_at(16 + usize::try_from(room).unwrap());
        let name = event[16..].split(|byte| *byte == 0).next().unwrap();
        let is_file = mask & libc::IN_ISDIR == 0 && !name.is_empty();
        let file = is_file.then(|| {
            let directory = &self.directories[usize::try_from(watch).unwrap() - 1];
            directory.join(OsStr::from_bytes(name))
        });
        (file, rest)
    }
}
