//! A pin of a heap, and its view as a folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use stillfs::mount::{MountOptions, MountPoint, MountedSession, Registry, StatusSource, mount};
use stillfs::os;
use stillfs::shadow::HeldPin;
use stillfs::view::PinnedFile;
use stillfs::view::tree::{Attributes, Content, Node, NodeId, Tree};

use super::{FILE, Outcome};

/// A pin of a heap, and its view.
#[derive(Debug)]
pub(crate) struct HeapPin {
    pub(crate) view: Arc<PinnedFile>,
    pub(super) held: Arc<HeldPin>,
}

impl HeapPin {
    /// Shows the pinned state of the heap in `dir` as a folder with one file.
    pub(crate) fn mount(
        &self,
        dir: &Path,
        point: &Path,
        options: MountOptions,
    ) -> Outcome<MountedSession> {
        let live = os::path::metadata(&dir.join(FILE))?;
        let attributes = |mode| Attributes {
            mode,
            uid: live.uid,
            gid: live.gid,
            changed_ns: self.view.header().wall_ns,
        };
        let mut tree = Tree::new(attributes(0o500), BTreeMap::new());
        let file = Node {
            id: NodeId(live.identity.inode),
            parent: NodeId::ROOT,
            attributes: attributes(0o400),
            content: Content::Paged(self.view.clone()),
            xattrs: BTreeMap::new(),
        };
        tree.insert(OsStr::new(FILE), file);
        let point = MountPoint::check(point, dir, &Registry::of_this_user()?)?;
        let view = self.view.clone();
        let status = StatusSource::new(move || format!("{{\"held\": {}}}", view.look().is_ok()));
        let session = mount(Arc::new(tree), &point, options, dir.as_os_str(), status)?;
        Ok(session)
    }
}
