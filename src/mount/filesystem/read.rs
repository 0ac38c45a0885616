//! Reading: the whole range up to the end of the file, or a refusal (M2, M4).

use std::panic::{self, AssertUnwindSafe};

use super::super::errno::Refusal;
use super::TreeFilesystem;
use crate::os::{File, read_up_to};
use crate::view::tree::{Content, Node, NodeId, ReadError};

/// Reads `[offset, offset + size)` of a node that is open as `handle`, as far as it has it, and hands
/// `answer` the bytes, or the reason why there are none. The bytes are complete before anybody sees them.
pub(super) fn with_bytes<R>(
    filesystem: &TreeFilesystem,
    id: NodeId,
    handle: u64,
    offset: u64,
    size: u32,
    answer: impl FnOnce(Result<&[u8], Refusal<'_>>) -> R,
) -> R {
    let Some(node) = filesystem.tree.node(id) else {
        return answer(Err(Refusal::UnknownName));
    };
    match &node.content {
        Content::Directory(_) => return answer(Err(Refusal::IsDirectory)),
        Content::Link(_) | Content::Special(_) => return answer(Err(Refusal::NotFile)),
        Content::Live(_) => {
            return match filesystem.files.get(handle) {
                Some(open) => {
                    let mut buffer = filesystem.buffers.take(usize::try_from(size).unwrap_or(0));
                    with_live_bytes(node, open.file.as_ref(), offset, &mut buffer, size, answer)
                }
                None => answer(Err(Refusal::BadHandle)),
            };
        }
        Content::Paged(_) | Content::Bytes(_) | Content::Held(_) => {}
    }
    if filesystem.ended.contains(id) {
        return answer(Err(Refusal::Ended));
    }
    let rest = node.size().saturating_sub(offset);
    let wanted = usize::try_from(rest.min(u64::from(size))).unwrap_or(0);
    let mut buffer = filesystem.buffers.take(wanted);
    let Some(out) = buffer.get_mut(..wanted) else {
        return answer(Err(Refusal::BrokenReader));
    };
    match read_whole(filesystem, node, offset, out) {
        Outcome::Whole => answer(Ok(out)),
        Outcome::Failed(error) => answer(Err(Refusal::Read(&error))),
        Outcome::Broken => answer(Err(Refusal::BrokenReader)),
    }
}

/// Reads `size` bytes of an open live file into `buffer`, up to where it ends at this moment.
fn with_live_bytes<R>(
    node: &Node,
    file: &dyn File,
    offset: u64,
    buffer: &mut [u8],
    size: u32,
    answer: impl FnOnce(Result<&[u8], Refusal<'_>>) -> R,
) -> R {
    let wanted = usize::try_from(size).unwrap_or(0);
    let Some(out) = buffer.get_mut(..wanted) else {
        return answer(Err(Refusal::BrokenReader));
    };
    let read = panic::catch_unwind(AssertUnwindSafe(|| read_up_to(file, out, offset)));
    match read {
        Ok(Ok(count)) => answer(out.get(..count).ok_or(Refusal::BrokenReader)),
        Ok(Err(error)) => {
            tracing::warn!(node = node.id.0, offset, wanted, %error, "a live file cannot be read");
            answer(Err(Refusal::LiveRead))
        }
        Err(_) => answer(Err(Refusal::BrokenReader)),
    }
}

enum Outcome {
    Whole,
    Failed(ReadError),
    /// The reader panicked, or gave less than it must.
    Broken,
}

fn read_whole(filesystem: &TreeFilesystem, node: &Node, offset: u64, out: &mut [u8]) -> Outcome {
    let wanted = out.len();
    // A panic would take this thread from the session and, one by one, the others too; then the
    // mount would hang. Nothing of `out` is used after one.
    let read = AssertUnwindSafe(|| filesystem.tree.read(node, offset, out));
    let error = match panic::catch_unwind(read) {
        Ok(Ok(count)) if count == wanted => return Outcome::Whole,
        Ok(Ok(count)) => {
            tracing::error!(
                node = node.id.0,
                offset,
                wanted,
                count,
                "a reader gave a part"
            );
            return Outcome::Broken;
        }
        Err(_) => {
            tracing::error!(node = node.id.0, offset, wanted, "a reader panicked");
            return Outcome::Broken;
        }
        Ok(Err(error)) => error,
    };
    tracing::warn!(node = node.id.0, offset, wanted, %error, "a read of a pinned file failed");
    if matches!(error, ReadError::PinEnded { .. }) {
        filesystem.ended.insert(node.id);
    }
    Outcome::Failed(error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::mpsc::Receiver;

    use parking_lot::Mutex;

    use super::super::super::options::MountOptions;
    use super::super::{EndedNodes, LateNotifier, StatusSource};
    use super::*;
    use crate::view::tree::{Attributes, Content, EndSeen, RangeRead, Tree};

    /// What the next read does.
    #[derive(Clone, Copy, Debug)]
    enum Behaviour {
        Good,
        Ended,
        HalfThenError,
        Panics,
    }

    #[derive(Debug)]
    struct Fickle(Mutex<Behaviour>);

    impl RangeRead for Fickle {
        fn size(&self) -> u64 {
            1000
        }

        fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
            let half = out.len() / 2;
            match *self.0.lock() {
                Behaviour::Good => {
                    for (byte, at) in out.iter_mut().zip(offset..) {
                        *byte = u8::try_from(at % 251).unwrap();
                    }
                    Ok(())
                }
                Behaviour::Ended => Err(ReadError::PinEnded {
                    reason: EndSeen::IndexCut,
                }),
                Behaviour::HalfThenError => {
                    out[..half].fill(9);
                    Err(ReadError::Entry {
                        page: crate::page::PageNo(1),
                        entry: 5,
                    })
                }
                Behaviour::Panics => panic!("a bug of the reader"),
            }
        }
    }

    const FILE: NodeId = NodeId(5);

    fn filesystem() -> (TreeFilesystem, Arc<Fickle>, Receiver<NodeId>) {
        let attributes = Attributes {
            mode: 0o600,
            uid: 0,
            gid: 0,
            changed_ns: 0,
        };
        let content = Arc::new(Fickle(Mutex::new(Behaviour::Good)));
        let mut tree = Tree::new(attributes.clone(), BTreeMap::new());
        let node = Node {
            id: FILE,
            parent: NodeId::ROOT,
            attributes,
            content: Content::Paged(content.clone()),
            xattrs: BTreeMap::new(),
        };
        tree.insert("file".as_ref(), node);
        let (ended, stale) = EndedNodes::new();
        let status = StatusSource::new(String::new);
        let options = MountOptions::default();
        let late = LateNotifier::default();
        let filesystem = TreeFilesystem::new(Arc::new(tree), options, status, ended, late);
        (filesystem, content, stale)
    }

    /// The length of a reply, or the errno.
    fn read(filesystem: &TreeFilesystem, id: NodeId, offset: u64, size: u32) -> Result<usize, i32> {
        with_bytes(filesystem, id, 0, offset, size, |answer| match answer {
            Ok(bytes) => {
                for (byte, at) in bytes.iter().zip(offset..) {
                    assert_eq!(u64::from(*byte), at % 251);
                }
                Ok(bytes.len())
            }
            Err(refusal) => Err(super::super::errno(&refusal).into()),
        })
    }

    /// M2, V2: a short reply would be taken for the end of the file.
    #[test]
    fn a_reply_is_the_whole_range_up_to_the_end() {
        let (filesystem, _, _stale) = filesystem();
        assert_eq!(read(&filesystem, FILE, 0, 100), Ok(100));
        assert_eq!(read(&filesystem, FILE, 900, 4096), Ok(100));
        assert_eq!(read(&filesystem, FILE, 0, u32::MAX), Ok(1000));
        assert_eq!(read(&filesystem, FILE, 1000, 10), Ok(0));
        assert_eq!(read(&filesystem, FILE, u64::MAX, 10), Ok(0));
    }

    #[test]
    fn directories_and_unknown_nodes_are_not_read() {
        let (filesystem, _, _stale) = filesystem();
        assert_eq!(read(&filesystem, NodeId::ROOT, 0, 1), Err(libc::EISDIR));
        assert_eq!(read(&filesystem, NodeId(99), 0, 1), Err(libc::ENOENT));
    }

    #[test]
    fn a_failure_half_way_is_an_error_and_the_next_read_is_tried() {
        let (filesystem, content, _stale) = filesystem();
        *content.0.lock() = Behaviour::HalfThenError;
        assert_eq!(read(&filesystem, FILE, 0, 100), Err(libc::EIO));
        *content.0.lock() = Behaviour::Good;
        assert_eq!(read(&filesystem, FILE, 0, 100), Ok(100));
    }

    #[test]
    fn a_panic_of_a_reader_is_an_error_of_that_read_only() {
        let (filesystem, content, _stale) = filesystem();
        *content.0.lock() = Behaviour::Panics;
        assert_eq!(read(&filesystem, FILE, 0, 100), Err(libc::EIO));
        *content.0.lock() = Behaviour::Good;
        assert_eq!(read(&filesystem, FILE, 0, 100), Ok(100));
    }

    /// M4: whatever the reader would say later, the node stays ended, and is invalidated once.
    #[test]
    fn an_ended_pin_stays_ended() {
        let (filesystem, content, stale) = filesystem();
        *content.0.lock() = Behaviour::Ended;
        assert_eq!(read(&filesystem, FILE, 0, 100), Err(libc::EIO));
        *content.0.lock() = Behaviour::Good;
        assert_eq!(read(&filesystem, FILE, 0, 100), Err(libc::EIO));
        drop(filesystem);
        assert_eq!(stale.iter().collect::<Vec<_>>(), [FILE]);
    }
}
