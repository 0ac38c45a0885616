//! What is written down about a mount.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One mount, as the registry keeps it. Fields that a reader does not know are ignored, and those
/// that a writer did not know are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where: absolute and canonical.
    #[serde(with = "path_text")]
    pub mount_point: PathBuf,
    /// What is shown.
    #[serde(with = "path_text")]
    pub source: PathBuf,
    /// Kind of the source, like `stillfs` or `sqlite`.
    #[serde(default)]
    pub source_kind: String,
    /// Process of the daemon, for people: never a sign of life (M7).
    pub pid: u32,
    /// When the mount was made: nanoseconds since 1970.
    pub started_wall_ns: u64,
    /// The pin, in hexadecimal, where the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_id: Option<String>,
    /// The pinned commit's number, where the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// The moment that the view shows: nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_wall_ns: Option<u64>,
    /// When the pin reaches its maximum age: nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_wall_ns: Option<u64>,
    /// Whatever else a source wants shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// Paths as text, or as a list of bytes where they are not UTF-8, which JSON cannot say.
mod path_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum PathText {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
        };
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        Ok(match PathText::deserialize(deserializer)? {
            PathText::Text(text) => text.into(),
            PathText::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn record(mount_point: PathBuf) -> MountRecord {
        MountRecord {
            mount_point,
            source: "/var/lib/app".into(),
            source_kind: "stillfs".to_owned(),
            pid: 7,
            started_wall_ns: 1,
            pin_id: None,
            timestamp: Some(3),
            snapshot_wall_ns: None,
            expires_wall_ns: None,
            facts: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_survives_json_whatever_its_path() {
        let odd = PathBuf::from(OsString::from_vec(b"/mnt/\xff\n\"x".to_vec()));
        for path in ["/mnt/app".into(), "/mnt/\u{e4} b".into(), odd] {
            let record = record(path);
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<MountRecord>(&text).unwrap(), record);
        }
    }

    /// An older `stillfs umount` must understand the record of a newer daemon.
    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_empty() {
        let text = r#"{"mount_point":"/m","source":"/s","pid":1,"started_wall_ns":2,"later":[1]}"#;
        let record: MountRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.timestamp, None);
        assert!(record.facts.is_empty() && record.source_kind.is_empty());
    }
}
