//! Small objects as JSON that shows when a bit of it has changed.
//!
//! The text is one object on one line, whose last field is `"crc32"`: eight hexadecimal digits, the crc32
//! of all that stands before `,"crc32":`. It ends with a line feed.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::Store;

/// Larger ones are not read.
const BYTES_MAX: u64 = 64 << 10;
/// `,"crc32":"xxxxxxxx"}` and the line feed.
const SEAL_BYTES: usize = 21;

/// `value`, which is an object with a field at least, with its checksum.
pub(super) fn seal(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_string(value).expect("plain fields can be written");
    assert_eq!(text.pop(), Some('}'), "only objects are sealed");
    let seal = seal_of(text.as_bytes());
    text.push_str(&seal);
    text.into_bytes()
}

fn seal_of(text: &[u8]) -> String {
    format!(",\"crc32\":\"{:08x}\"}}\n", crc32fast::hash(text))
}

/// Reads the whole of `object`, looks at the version in its field `version_field`, then at the checksum.
///
/// One that is replaced while it is read is read once more. Errors: `Missing`, `Version`, `Damaged`, `Io`.
pub(super) fn read<T: DeserializeOwned>(
    store: &dyn Store,
    object: &str,
    version_field: &str,
    known: u32,
) -> Result<T> {
    match read_once(store, object, version_field, known) {
        Err(RepositoryError::Damaged { .. } | RepositoryError::Cut { .. }) => {
            read_once(store, object, version_field, known)
        }
        result => result,
    }
}

fn read_once<T: DeserializeOwned>(
    store: &dyn Store,
    object: &str,
    version_field: &str,
    known: u32,
) -> Result<T> {
    let bytes = store.size(object)?;
    let damaged = |what| RepositoryError::Damaged {
        object: object.to_owned(),
        what,
    };
    let size = usize::try_from(bytes).ok().filter(|_| bytes <= BYTES_MAX);
    let mut text = vec![0; size.ok_or_else(|| damaged("it is too large"))?];
    store.read_at(object, 0, &mut text)?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|_| damaged("it is not JSON"))?;
    let found = value.get(version_field).and_then(serde_json::Value::as_u64);
    let found = found.and_then(|found| u32::try_from(found).ok());
    match found {
        None | Some(0) => return Err(damaged("it has no version of its format")),
        Some(found) if found > known => {
            let object = object.to_owned();
            return Err(RepositoryError::Version {
                object,
                found,
                known,
            });
        }
        Some(_) => {}
    }
    let sealed = text.len().checked_sub(SEAL_BYTES);
    let sealed = sealed.and_then(|at| text.split_at_checked(at));
    if sealed.is_none_or(|(sealed, seal)| seal != seal_of(sealed).as_bytes()) {
        return Err(damaged("its checksum is wrong"));
    }
    serde_json::from_value(value).map_err(|_| damaged("a field of it is missing or wrong"))
}
