//! People who do things to files that are not theirs.

use std::path::{Path, PathBuf};

use stillfs::os::sim::Faults;
use stillfs::os::{self, Disk, OpenMode};

use crate::draw::Draw;
use crate::view::Standing;
use crate::world::{DIR, World, note};

fn in_dir(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

impl World {
    /// What somebody does by hand goes well, and is on the disk when it returns.
    fn by_hand(&mut self) {
        self.machine.disk.set_faults(Faults::none());
        self.next_view += 1;
    }

    fn sync_dir(&self) {
        self.admin.sync_dir(Path::new(DIR)).expect("no faults");
    }

    pub(crate) fn delete_shadow(&mut self, draw: &Draw) {
        self.by_hand();
        let shadow = in_dir("shadow");
        let Ok(names) = self.admin.list(&shadow) else {
            return;
        };
        self.trouble.shadow = true;
        if draw.one_in(2) {
            note!(self, "shadow/ is moved away");
            let away = in_dir(&format!("shadow.{}", self.next_view));
            self.admin.rename(&shadow, &away).expect("no faults");
        } else {
            note!(self, "the files of shadow/ are removed");
            for name in names {
                self.admin.remove(&shadow.join(name)).expect("no faults");
            }
        }
    }

    pub(crate) fn replace_slots(&mut self) {
        self.by_hand();
        let slots = in_dir("shadow/slots");
        if self.admin.open(&slots, OpenMode::Read).is_err() {
            return;
        }
        self.trouble.shadow = true;
        note!(self, "shadow/slots is replaced");
        self.admin.remove(&slots).expect("no faults");
        let file = self
            .admin
            .open(&slots, OpenMode::CreateNew)
            .expect("no faults");
        if self
            .machine
            .host
            .disk
            .free_bytes(Path::new("/"))
            .is_ok_and(|free| free > 9999)
        {
            os::write_all_at(&*file, &[0xa5; 9999], 0).expect("no faults");
        }
    }

    /// Bytes of some images are turned over.
    pub(crate) fn damage_slots(&mut self, draw: &Draw) {
        self.by_hand();
        let Ok(file) = self
            .admin
            .open(&in_dir("shadow/slots"), OpenMode::ReadWrite)
        else {
            return;
        };
        let size = file.len().expect("no faults");
        if size == 0 || self.trouble.shadow {
            return;
        }
        self.trouble.slots = true;
        for _ in 0..draw.between(1, 4) {
            let (at, mut byte) = (draw.below(size), [0]);
            os::read_exact_at(&*file, &mut byte, at).expect("no faults");
            if let Err(error) = os::write_all_at(&*file, &[!byte[0]], at) {
                self.excuse("damage", &error);
            }
        }
        note!(self, "images in shadow/slots are damaged");
        for pinned in &self.pinned {
            pinned
                .view
                .lower(Standing::Excused("its slots were damaged"));
        }
    }

    /// The page file goes elsewhere; in its place is nothing, or something else.
    pub(crate) fn move_pages(&mut self, draw: &Draw) {
        self.by_hand();
        let pages = in_dir("data.pages");
        if self.pages_away.is_some() || self.admin.open(&pages, OpenMode::Read).is_err() {
            return;
        }
        let away = in_dir(&format!("away.{}", self.next_view));
        self.admin.rename(&pages, &away).expect("no faults");
        note!(self, "data.pages is moved to {}", away.display());
        self.pages_away = Some(away);
        self.trouble.moved = true;
        if draw.one_in(2) {
            let file = self
                .admin
                .open(&pages, OpenMode::CreateNew)
                .expect("no faults");
            let byte = draw.pick(&[0, 0x5a]);
            if os::write_all_at(&*file, &[byte; 20_000], 0).is_ok() {
                note!(self, "and something else takes its place");
            }
        }
        self.sync_dir();
    }

    /// With no engine running, the page file is replaced by a copy of itself: the same database, and
    /// not the file that the pins of before name.
    pub(crate) fn copy_pages(&mut self) {
        self.kill();
        self.by_hand();
        let pages = in_dir("data.pages");
        let Ok(file) = self.admin.open(&pages, OpenMode::Read) else {
            return;
        };
        if self.pages_away.is_some() || self.trouble.full {
            return;
        }
        note!(self, "data.pages is replaced by a copy of itself");
        let size = usize::try_from(file.len().expect("no faults")).expect("a small file");
        let mut bytes = vec![0; size];
        os::read_exact_at(&*file, &mut bytes, 0).expect("no faults");
        let new = in_dir("data.pages.copy");
        let copy = self
            .admin
            .open(&new, OpenMode::CreateNew)
            .expect("no faults");
        os::write_all_at(&*copy, &bytes, 0).expect("no faults");
        copy.sync_data().expect("no faults");
        self.admin.rename(&new, &pages).expect("no faults");
        self.sync_dir();
        for pinned in &self.pinned {
            pinned.view.leave_alone();
        }
    }

    pub(crate) fn put_pages_back(&mut self) {
        self.by_hand();
        let Some(away) = self.pages_away.take() else {
            return;
        };
        note!(self, "data.pages is put back");
        self.admin
            .rename(&away, &in_dir("data.pages"))
            .expect("no faults");
        self.sync_dir();
        self.trouble.moved = false;
    }
}
