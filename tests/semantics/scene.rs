//! A mount under writes, and the bytes that it has to show.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::load::Load;
use crate::rig::{Rig, umount};

/// Declared so that the writers stop before the engine does.
pub struct Scene {
    /// Writers, so that what is read changes below the view.
    pub load: Load,
    /// The view.
    pub mnt: PathBuf,
    /// What its `data.pages` has to show.
    pub expected: Vec<u8>,
    pub rig: Rig,
}

impl Scene {
    /// `None` where nothing can be mounted.
    pub fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// With options of `stillfs mount`.
    pub fn with(options: &[&str]) -> Option<Self> {
        let rig = Rig::with_fill(3000)?;
        // Read through another mount of the same commit, so that nothing of this one is cached.
        let reference = rig.mount("reference", &[]);
        let expected = fs::read(reference.join("data.pages")).unwrap();
        let mnt = rig.mount("mnt", options);
        umount(&reference);
        let load = Load::start(rig.engine().address);
        load.progress();
        Some(Self {
            load,
            mnt,
            expected,
            rig,
        })
    }

    pub fn pages(&self) -> PathBuf {
        self.mnt.join("data.pages")
    }

    /// The expected bytes from `offset` on, as far as there are any.
    pub fn part(&self, offset: usize, count: usize) -> &[u8] {
        let from = offset.min(self.expected.len());
        let upto = offset.saturating_add(count).min(self.expected.len());
        &self.expected[from..upto]
    }

    /// A folder with the same bytes on the disk.
    pub fn plain_copy(&self) -> PathBuf {
        let plain = self.rig.path("plain");
        if !plain.exists() {
            fs::create_dir(&plain).unwrap();
            fs::write(plain.join("data.pages"), &self.expected).unwrap();
            fs::copy(self.mnt.join("snapshot.json"), plain.join("snapshot.json")).unwrap();
        }
        plain
    }

    #[track_caller]
    pub fn assert_copied(&self, copy: &Path) {
        let found = fs::read(copy).unwrap();
        assert_eq!(found.len(), self.expected.len(), "{}", copy.display());
        assert!(found == self.expected, "{}", copy.display());
    }
}

/// The errno that an operation fails with.
#[track_caller]
pub fn errno_of<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("an operation succeeded that must fail"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}
