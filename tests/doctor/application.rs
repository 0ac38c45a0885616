//! An application that keeps a SQLite database, in Python.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process of Python that has run `script`, in which `db` is a connection and `path` its file, and waits.
pub(crate) struct Application(Child);

impl Application {
    pub(crate) fn start(path: &Path, script: &str) -> Self {
        let script = format!(
            "import sqlite3, sys\npath = sys.argv[1]\n\
             db = sqlite3.connect(path, isolation_level=None)\n{script}\n\
             print('ready', flush=True)\nsys.stdin.read()"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{script}");
        Self(child)
    }

    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// As a crash ends it: nothing is closed.
    pub(crate) fn crash(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
