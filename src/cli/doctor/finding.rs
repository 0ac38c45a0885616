//! What `doctor` says: one finding, and the text of paths and of what others wrote.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

/// Which finding. The names in `--json` are stable; docs/doctor.md has a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Id {
    FuseDevice,
    FuseHelper,
    AllowOther,
    OpenFiles,
    RuntimeDirectory,
    MountRecord,
    StaleMount,
    HungMount,
    RunView,
    NoAnswer,
    Source,
    FileSystem,
    Permission,
    Reflink,
    FreeSpace,
    Engine,
    PinServer,
    StaleSocket,
    Pin,
    UnheldIndex,
    MovedPageFile,
    ForeignSegment,
    HeaderCopy,
    PageFile,
    Database,
    DatabaseUser,
    SqliteLibrary,
    HeldCheckpoint,
    ExclusiveLock,
    StaleIndex,
    HotJournal,
    FileAccess,
    UnlockedUser,
    View,
    FailedRead,
}

/// How bad it is. Only a problem makes the exit code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Ok,
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) id: Id,
    pub(super) level: Level,
    /// What was looked at: a path, mostly.
    pub(super) subject: String,
    pub(super) message: String,
    /// A command for the shell that mends it, or shows who can.
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn new(id: Id, level: Level, subject: &str, message: &str) -> Self {
        // What others report often begins with the path that it is about.
        let message = message
            .strip_prefix(subject)
            .and_then(|rest| rest.strip_prefix(' '))
            .unwrap_or(message);
        Self {
            id,
            level,
            subject: plain(subject),
            message: plain(message),
            remedy: None,
        }
    }

    pub(super) fn ok(id: Id, subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self::new(id, Level::Ok, &subject.to_string(), &message.to_string())
    }

    pub(super) fn warning(id: Id, subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        let (subject, message) = (subject.to_string(), message.to_string());
        Self::new(id, Level::Warning, &subject, &message)
    }

    pub(super) fn problem(id: Id, subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        let (subject, message) = (subject.to_string(), message.to_string());
        Self::new(id, Level::Problem, &subject, &message)
    }

    /// The same with a command that mends it.
    pub(super) fn mended_by(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        let mut lines = vec![format!("{level:<8} {}: {}", self.subject, self.message)];
        lines.extend(
            self.remedy
                .iter()
                .map(|remedy| format!("         $ {remedy}")),
        );
        lines
    }
}

/// Text that may come from anybody, without what a terminal would obey.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// A path as one word of a shell command, whatever its bytes are.
pub(super) fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_bare) {
        return path.display().to_string();
    }
    if bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    }
    let mut word = String::from("$'");
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => word.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => word.push(char::from(*byte)),
            byte => word.push_str(&format!("\\x{byte:02x}")),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// A file name must not clear the terminal, nor forge a line of the report.
    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let finding = Finding::problem(Id::Source, "/a\x1b[2J", "b\nok       /x: fine\u{9b}31m");
        let lines = finding.mended_by("true").lines();
        assert_eq!(lines.len(), 2);
        assert!(
            lines.iter().all(|line| !line.contains(char::is_control)),
            "{lines:?}"
        );
        assert!(lines[0].contains(r"/a\u{1b}[2J: b\nok"), "{lines:?}");
    }

    #[test]
    fn what_it_is_about_is_said_once() {
        let message = |text: &str| Finding::problem(Id::Source, "/a", text).message;
        assert_eq!(message("/a is not a database"), "is not a database");
        assert_eq!(message("/ab is not a database"), "/ab is not a database");
    }

    #[test]
    fn quoted_path_is_one_word_of_the_shell() {
        for name in [
            &b"/mnt/app"[..],
            b"/a b/it's",
            b"/$(reboot)`x`\"y\"",
            b"/\xff\n\x01'\\",
            b"",
            b"-rf",
        ] {
            let path = Path::new(OsStr::from_bytes(name));
            let script = format!("printf %s {}", quoted(path));
            let printed = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            assert_eq!(printed.unwrap().stdout, name, "{script}");
        }
        assert_eq!(quoted(Path::new("/mnt/app")), "/mnt/app");
    }
}
