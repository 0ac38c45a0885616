//! SQLite in a process of its own: no lock of an application's is lost to a descriptor of a test's.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::process::{succeed, wait};

/// Runs a statement; gives what it printed, without the last line end.
pub fn query(database: &Path, sql: &str) -> String {
    let said = succeed(Command::new("sqlite3").arg(database).arg(sql));
    said.trim_end().to_owned()
}

/// What the database is whole by, and the journal mode that it is in.
#[track_caller]
pub fn assert_whole(database: &Path, journal_mode: &str) {
    let said = query(database, "PRAGMA journal_mode; PRAGMA integrity_check;");
    assert_eq!(
        said,
        format!("{journal_mode}\nok"),
        "{}",
        database.display()
    );
}

/// An application that keeps a database open. Dropping it closes that.
#[derive(Debug)]
pub struct Session {
    child: Child,
    statements: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Session {
    pub fn open(database: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            statements: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Runs a statement, whatever it prints.
    pub fn run(&mut self, sql: &str) {
        let statements = self.statements.as_mut().unwrap();
        writeln!(statements, "{sql};\nSELECT 'done';").unwrap();
        let mut line = String::new();
        while line != "done\n" {
            line.clear();
            let count = self.answers.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "{sql}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.statements = None;
        wait(&mut self.child, "a closed session");
    }
}
