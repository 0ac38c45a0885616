//! The process that says what the committed state is.

use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// How the oracle knows that a state stays the same while something is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bracket {
    /// It holds a read transaction from before until after.
    Hold,
    /// It keeps writers out; checkpointers go on.
    Lock,
    /// It read before and reads after.
    Before,
    /// Nobody else has the database open.
    Alone,
}

impl Bracket {
    fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Lock => "lock",
            Self::Before => "before",
            Self::Alone => "alone",
        }
    }
}

/// What SQLite read.
#[derive(Debug)]
pub struct Truth {
    /// Whether the state was the same before the pin and after it.
    pub is_same: bool,
    /// SHA-256 of the whole database.
    pub digest: String,
    /// Transactions that were counted before the pin and after it.
    pub counted: RangeInclusive<u64>,
}

/// See the head of the file. It ends when this is dropped.
#[derive(Debug)]
pub struct Oracle {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Oracle {
    pub fn start() -> Self {
        let mut child = Command::new("python3")
            .arg("-B")
            .arg(crate::program("oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    /// Asks, and gives what SQLite refused as an error.
    pub fn try_ask(&mut self, asked: Value) -> Result<Value, String> {
        let to = self.to.as_mut().unwrap();
        writeln!(to, "{asked}").unwrap();
        to.flush().unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{asked}: the oracle died"));
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    pub fn ask(&mut self, asked: Value) -> Value {
        self.try_ask(asked)
            .unwrap_or_else(|error| panic!("the oracle: {error}"))
    }

    /// A word of its own without anything more.
    pub fn tell(&mut self, word: &str) {
        self.ask(json!({ "do": word }));
    }

    /// Sees to it that `after` can tell whether the state is still the same.
    pub fn begin(&mut self, bracket: Bracket) {
        if bracket != Bracket::Alone {
            self.tell(bracket.word());
        }
    }

    /// The state, and whether it is the one of `begin`; lets everything go.
    pub fn after(&mut self, bracket: Bracket) -> Truth {
        let answer = self.ask(json!({ "do": "after", "how": bracket.word() }));
        Truth {
            is_same: answer["same"].as_bool().unwrap(),
            digest: answer["digest"].as_str().unwrap().to_owned(),
            counted: answer["first"].as_u64().unwrap()..=answer["last"].as_u64().unwrap(),
        }
    }

    /// The bytes of the last truth.
    pub fn truth_bytes(&mut self, scratch: &Path) -> Vec<u8> {
        self.ask(json!({ "do": "save", "path": scratch }));
        let bytes = std::fs::read(scratch).unwrap();
        std::fs::remove_file(scratch).unwrap();
        bytes
    }

    /// What is said of a copy, which it removes: `ok N`, or what is wrong.
    pub fn check(&mut self, copy: &PathBuf) -> String {
        let answer = self.ask(json!({ "do": "check", "path": copy }));
        answer["said"].as_str().unwrap().to_owned()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.to = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
