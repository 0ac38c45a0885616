//! Extended attributes: the fixed facts, which are listed, and the status, which is not.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::errno::Refusal;
use crate::view::tree::{Node, NodeId};

/// Attribute of the root that says how the mount is doing, in JSON. It changes while mounted, so it is
/// never listed (M1): a copy tool that archives what it lists would see a change in every run.
pub(super) const STATUS: &str = "user.stillfs.status";
/// A size that is asked for the status is answered with this much more, because the text may have
/// grown when it is fetched.
const STATUS_SLACK_BYTES: u32 = 256;
/// The kernel takes no larger value.
const VALUE_BYTES_MAX: u32 = 64 << 10;

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
/// Errors: `NoXattr`, `SmallBuffer`, `LargeValue`.
pub(super) fn get(
    node: &Node,
    name: &OsStr,
    room: u32,
    status: &StatusSource,
) -> Result<XattrAnswer, Refusal<'static>> {
    if let Some(value) = node.xattrs.get(name) {
        return answer(value.clone(), room);
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

/// The names of the attributes of `node`, for a buffer of `room` bytes; 0 asks for the size.
///
/// Errors: `SmallBuffer`, `LargeValue`.
pub(super) fn list(node: &Node, room: u32) -> Result<XattrAnswer, Refusal<'static>> {
    let mut names = Vec::new();
    for name in node.xattrs.keys() {
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    answer(names, room)
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
        let names = list(root(&tree), 100).unwrap();
        assert_eq!(names, XattrAnswer::Data(b"user.stillfs.pin\0".to_vec()));
    }

    #[test]
    fn a_list_of_names_follows_the_same_rules() {
        let tree = fixture::tree();
        assert_eq!(list(root(&tree), 0).unwrap(), XattrAnswer::Size(17));
        assert!(matches!(list(root(&tree), 16), Err(Refusal::SmallBuffer)));
        let file = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap();
        assert_eq!(list(file, 0).unwrap(), XattrAnswer::Size(0));
        assert_eq!(list(file, 5).unwrap(), XattrAnswer::Data(Vec::new()));
    }

    #[test]
    fn a_value_that_the_kernel_would_not_take_is_refused() {
        let tree = fixture::tree();
        let long = StatusSource::new(|| "x".repeat(70_000));
        let answer = get(root(&tree), STATUS.as_ref(), 0, &long);
        assert!(matches!(answer, Err(Refusal::LargeValue)));
    }
}
