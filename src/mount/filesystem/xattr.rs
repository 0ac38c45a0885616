//! Extended attributes: the fixed facts, which are listed, the status, which is not, and those of live
//! files, which are asked of them.
//!
//! Access control lists (`system.posix_acl_access`, `system.posix_acl_default`) are attributes like any
//! other here: the kernel asks for them by these names, for whoever wants to see them and, where it
//! compares modes, for itself.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::errno::Refusal;
use super::live::{ask, live};
use crate::view::tree::{LiveError, Node, NodeId};

/// Attribute of the root that says how the mount is doing, in JSON. It changes while mounted, so it is
/// never listed (M1): a copy tool that archives what it lists would see a change in every run.
pub(super) const STATUS: &str = "user.stillfs.status";
/// A size that is asked for the status is answered with this much more, because the text may have
/// grown when it is fetched.
const STATUS_SLACK_BYTES: u32 = 256;
/// The kernel takes no larger value.
const VALUE_BYTES_MAX: u32 = 64 << 10;
/// Attributes that only root sees: a name that cannot be read would make a copy tool complain.
const ROOT_ONLY: &[u8] = b"trusted.";

/// Gives the current status as JSON. Called on a thread that serves the mount; it must not touch the
/// mount, and should not wait.
#[derive(Clone)]
pub struct StatusSource(Arc<dyn Fn() -> String + Send + Sync>);

impl StatusSource {
    /// A source that asks `status` each time.
    pub fn new(status: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(status))
    }

    fn text(&self) -> Vec<u8> {
        (self.0)().into_bytes()
    }
}

impl fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusSource")
    }
}

/// What a request for an attribute, or for the list of them, is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum XattrAnswer {
    /// How large a buffer has to be.
    Size(u32),
    /// The value, or the names, each with a NUL after it.
    Data(Vec<u8>),
}

/// The attribute `name` of `node`, for a buffer of `room` bytes; 0 asks for the size.
///
/// Errors: `NoXattr`, `SmallBuffer`, `LargeValue`; `Live` and `BrokenReader` for a live file.
pub(super) fn get(
    node: &Node,
    name: &OsStr,
    room: u32,
    status: &StatusSource,
) -> Result<XattrAnswer, Refusal<'static>> {
    if let Some(value) = node.xattrs.get(name) {
        return answer(value.clone(), room);
    }
    if let Some(file) = live(node) {
        let value = ask(node, || file.xattr(name))?;
        return answer(value.ok_or(Refusal::NoXattr)?, room);
    }
    if node.id != NodeId::ROOT || name != OsStr::new(STATUS) {
        return Err(Refusal::NoXattr);
    }
    match answer(status.text(), room)? {
        XattrAnswer::Size(bytes) => Ok(XattrAnswer::Size(
            (bytes + STATUS_SLACK_BYTES).min(VALUE_BYTES_MAX),
        )),
        data @ XattrAnswer::Data(_) => Ok(data),
    }
}

/// The names of the attributes of `node` that the user `uid` may see, for a buffer of `room` bytes; 0
/// asks for the size.
///
/// Errors: `SmallBuffer`, `LargeValue`; `Live` and `BrokenReader` for a live file.
pub(super) fn list(node: &Node, uid: u32, room: u32) -> Result<XattrAnswer, Refusal<'static>> {
    let mut names: Vec<OsString> = node.xattrs.keys().cloned().collect();
    if let Some(file) = live(node) {
        names.extend(live_names(node, || file.xattr_names())?);
        names.sort_unstable();
        names.dedup();
    }
    let mut list = Vec::new();
    for name in names {
        if uid == 0 || !name.as_bytes().starts_with(ROOT_ONLY) {
            list.extend_from_slice(name.as_bytes());
            list.push(0);
        }
    }
    answer(list, room)
}

/// A file system without attributes has none to list.
fn live_names(
    node: &Node,
    question: impl FnOnce() -> Result<Vec<OsString>, LiveError>,
) -> Result<Vec<OsString>, Refusal<'static>> {
    match ask(node, question) {
        Err(Refusal::Live(LiveError::Io { source, .. }))
            if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(Vec::new())
        }
        names => names,
    }
}

fn answer(value: Vec<u8>, room: u32) -> Result<XattrAnswer, Refusal<'static>> {
    let bytes = u32::try_from(value.len()).map_err(|_| Refusal::LargeValue)?;
    if bytes > VALUE_BYTES_MAX {
        return Err(Refusal::LargeValue);
    }
    match room {
        0 => Ok(XattrAnswer::Size(bytes)),
        room if bytes > room => Err(Refusal::SmallBuffer),
        _ => Ok(XattrAnswer::Data(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::view::tree::Tree;

    fn root(tree: &Tree) -> &Node {
        tree.node(NodeId::ROOT).unwrap()
    }

    fn status() -> StatusSource {
        StatusSource::new(|| "{\"reads\":1}".to_owned())
    }

    #[test]
    fn a_size_is_probed_and_a_small_buffer_refused() {
        let tree = fixture::tree();
        let name = OsStr::new("user.stillfs.pin");
        let get = |room| get(root(&tree), name, room, &status());
        assert_eq!(get(0).unwrap(), XattrAnswer::Size(4));
        assert_eq!(get(4).unwrap(), XattrAnswer::Data(b"beef".to_vec()));
        assert!(matches!(get(3), Err(Refusal::SmallBuffer)));
    }

    #[test]
    fn a_missing_attribute_is_missing() {
        let tree = fixture::tree();
        let missing = get(root(&tree), "user.other".as_ref(), 0, &status());
        assert!(matches!(missing, Err(Refusal::NoXattr)));
        let file = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap();
        let elsewhere = get(file, STATUS.as_ref(), 0, &status());
        assert!(matches!(elsewhere, Err(Refusal::NoXattr)));
    }

    #[test]
    fn the_status_can_be_got_but_is_not_listed() {
        let tree = fixture::tree();
        let XattrAnswer::Size(room) = get(root(&tree), STATUS.as_ref(), 0, &status()).unwrap()
        else {
            panic!("a probe is answered with a size");
        };
        assert!(room > 11, "room for a text that has grown meanwhile");
        let text = get(root(&tree), STATUS.as_ref(), room, &status()).unwrap();
        assert_eq!(text, XattrAnswer::Data(b"{\"reads\":1}".to_vec()));
        let names = list(root(&tree), 0, 100).unwrap();
        assert_eq!(names, XattrAnswer::Data(b"user.stillfs.pin\0".to_vec()));
    }

    #[test]
    fn a_list_of_names_follows_the_same_rules() {
        let tree = fixture::tree();
        assert_eq!(list(root(&tree), 0, 0).unwrap(), XattrAnswer::Size(17));
        assert!(matches!(
            list(root(&tree), 0, 16),
            Err(Refusal::SmallBuffer)
        ));
        let file = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap();
        assert_eq!(list(file, 0, 0).unwrap(), XattrAnswer::Size(0));
        assert_eq!(list(file, 0, 5).unwrap(), XattrAnswer::Data(Vec::new()));
    }

    #[test]
    fn what_only_root_may_read_only_root_sees() {
        let mut tree = fixture::tree();
        let mut node = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap().clone();
        for name in ["trusted.a", "user.b"] {
            node.xattrs.insert(name.into(), Vec::new());
        }
        node.id = NodeId(99);
        let id = tree.insert("other".as_ref(), node);
        let list = |uid| list(tree.node(id).unwrap(), uid, 100).unwrap();
        assert_eq!(list(0), XattrAnswer::Data(b"trusted.a\0user.b\0".to_vec()));
        assert_eq!(list(1000), XattrAnswer::Data(b"user.b\0".to_vec()));
    }

    #[test]
    fn a_value_that_the_kernel_would_not_take_is_refused() {
        let tree = fixture::tree();
        let long = StatusSource::new(|| "x".repeat(70_000));
        let answer = get(root(&tree), STATUS.as_ref(), 0, &long);
        assert!(matches!(answer, Err(Refusal::LargeValue)));
    }
}
