//! One thing that a check found, for people and for programs.

use std::path::Path;

use serde::Serialize;

use crate::database::{Finding, PAGE_FILE, Problem};
use crate::engine::error::{EngineError, FileRole, HeaderFault};
use crate::page::{PageFault, PageNo};
use crate::view::tree::ReadError;

/// A finding as `--json` shows it. Field names and the values of `problem` are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FindingRow {
    /// The file, by its name in the directory or by its path.
    pub(super) file: String,
    /// The page, where one is known.
    pub(super) page: Option<u64>,
    /// What kind of thing is wrong.
    pub(super) problem: &'static str,
    /// What should be there, where that can be said.
    pub(super) expected: Option<String>,
    /// What is there.
    pub(super) found: Option<String>,
    /// The whole of it for people.
    pub(super) text: String,
}

impl FindingRow {
    fn new(page: Option<PageNo>, problem: &'static str, text: String) -> Self {
        Self {
            file: PAGE_FILE.to_owned(),
            page: page.map(|page| page.0),
            problem,
            expected: None,
            found: None,
            text,
        }
    }

    fn expecting(self, expected: impl ToString, found: impl ToString) -> Self {
        Self {
            expected: Some(expected.to_string()),
            found: Some(found.to_string()),
            ..self
        }
    }

    fn in_file(self, file: impl ToString) -> Self {
        Self {
            file: file.to_string(),
            ..self
        }
    }

    /// What SQLite said of the database `file`; its pages are counted from 1.
    pub(super) fn of_sqlite(file: &Path, text: &str) -> Self {
        let mut words = text
            .split([' ', ':', ','])
            .skip_while(|word| !word.eq_ignore_ascii_case("page"));
        let page = words.nth(1).and_then(|word| word.parse().ok());
        let row = Self::new(None, "structure", text.to_owned()).in_file(file.display());
        Self { page, ..row }
    }

    /// What the walk through the structures found.
    pub(super) fn of_walk(finding: &Finding) -> Self {
        let page = Some(finding.page);
        let text = finding.problem.to_string();
        match &finding.problem {
            Problem::Unreadable(error) => Self::of_error(error, page),
            Problem::Structure { expected, found } => {
                Self::new(page, "structure", text).expecting(expected, found)
            }
            Problem::UsedTwice(_) => Self::new(page, "used_twice", text),
            Problem::Unreached => Self::new(page, "unreached", text),
            Problem::EntryCount {
                expected, found, ..
            } => Self::new(page, "entry_count", text).expecting(expected, found),
        }
    }

    /// A page that is not what it should be.
    pub(super) fn of_page(page: PageNo, fault: &PageFault) -> Self {
        let row = |problem| Self::new(Some(page), problem, fault.to_string());
        match fault {
            PageFault::Checksum { expected, found } => {
                row("checksum").expecting(format!("{expected:08x}"), format!("{found:08x}"))
            }
            PageFault::Number { found } => row("page_number").expecting(page, found),
            PageFault::Newer { found, limit } => {
                row("newer").expecting(format!("LSN up to {limit}"), format!("LSN {found}"))
            }
            PageFault::Unknown { kind, version } => row("unknown_kind").expecting(
                "a known kind and version",
                format!("kind {kind}, version {version}"),
            ),
            PageFault::Short { found } => {
                row("short").expecting("a whole page", format!("{found} bytes"))
            }
        }
    }

    /// A copy of the header that is a whole page, but no header.
    pub(super) fn of_header(page: PageNo, fault: HeaderFault) -> Self {
        let row = Self::new(Some(page), "header", fault.to_string());
        row.expecting("a copy of the header", fault)
    }

    /// An error of reading, met at `page`.
    pub(super) fn of_error(error: &EngineError, page: Option<PageNo>) -> Self {
        let row = |problem| Self::new(page, problem, error.to_string());
        match error {
            EngineError::Page { file, page, fault } => {
                Self::of_page(*page, fault).in_file(name_of(*file))
            }
            EngineError::Structure {
                page,
                expected,
                found,
            } => Self::new(Some(*page), "structure", error.to_string()).expecting(expected, found),
            EngineError::Header { path, fault } => {
                let text = format!(
                    "both copies of the header are damaged ({fault}); restore it from a backup"
                );
                let row = Self::new(page, "header", text).in_file(path.display());
                row.expecting("a whole header copy", "two damaged ones")
            }
            EngineError::Log { segment, at, fault } => {
                let text = format!("the log is damaged at LSN {at}: {fault}");
                Self::new(page, "log", text).in_file(segment.display())
            }
            EngineError::Io {
                source, file, path, ..
            } => {
                let read = source.get_ref().and_then(|error| error.downcast_ref());
                match (read, path) {
                    (Some(ReadError::Page { file, page, fault }), _) => {
                        Self::of_page(*page, fault).in_file(file)
                    }
                    (Some(error), _) => Self::new(page, "unreadable", error.to_string()),
                    (None, Some(path)) if !is_page_file(path) => row("io").in_file(path.display()),
                    (None, _) => row("io").in_file(name_of(*file)),
                }
            }
            _ => row("other"),
        }
    }
}

fn name_of(file: FileRole) -> String {
    match file {
        FileRole::PageFile => PAGE_FILE.to_owned(),
        file => file.to_string(),
    }
}

fn is_page_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == PAGE_FILE)
}

impl std::fmt::Display for FindingRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.page {
            Some(page) => write!(f, "{} page {page}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}
