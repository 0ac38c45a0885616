//! An application that has an SQLite database open and knows nothing of us: the sqlite3 command line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::process::PATIENCE;

/// What is printed behind the results of a statement.
const END: &str = "-- that is all --";

/// See the head of the file. Dropping it kills it.
#[derive(Debug)]
pub struct Application {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Application {
    /// Opens the database at `path`, and makes it in WAL mode where there is none.
    pub fn open(path: &Path) -> Self {
        let mut application = Self::start(path);
        application.run("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE IF NOT EXISTS notes(text);");
        application
    }

    /// The same in whatever mode the database is.
    pub fn start(path: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .args(["-batch", "-init", "/dev/null"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            input,
            lines,
        }
    }

    /// Runs statements; gives what they print.
    pub fn run(&mut self, statements: &str) -> Vec<String> {
        writeln!(self.input, "{statements}\n.print '{END}'").unwrap();
        self.input.flush().unwrap();
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("sqlite3 answers");
            if line == END {
                return printed;
            }
            printed.push(line);
        }
    }

    /// Adds so many notes of 1000 characters, each a commit.
    pub fn note(&mut self, count: u64) {
        let one = "INSERT INTO notes VALUES (printf('%01000d', random()));\n";
        self.run(&one.repeat(usize::try_from(count).unwrap()));
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What SQLite says of a copy, and how many notes are in it.
pub fn notes_in(copy: &Path) -> u64 {
    let mut sqlite = Application::start(copy);
    assert_eq!(
        sqlite.run("PRAGMA integrity_check;"),
        ["ok"],
        "{}",
        copy.display()
    );
    let count = sqlite.run("SELECT count(*) FROM notes;");
    count[0].parse().unwrap()
}
