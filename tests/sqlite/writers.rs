//! The applications that write: started, stopped, killed and started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::process::wait;

/// One application. Dropping it kills it.
#[derive(Debug)]
pub struct Writer {
    child: Child,
}

impl Writer {
    pub fn start(wanted: &Value) -> Self {
        let child = Command::new("python3")
            .arg("-B")
            .arg(crate::program("writer.py"))
            .arg(wanted.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Starts one that stops in the middle of a transaction larger than its cache.
    pub fn stuck(wanted: &Value) -> Self {
        let mut wanted = wanted.clone();
        wanted["kinds"] = json!({ "stuck": 1 });
        let mut writer = Self::start(&wanted);
        let mut line = String::new();
        let mut from = BufReader::new(writer.child.stdout.as_mut().unwrap());
        from.read_line(&mut line).unwrap();
        assert_eq!(line, "stuck\n", "a writer in mid-transaction");
        writer
    }

    /// Lets it end by itself; gives its counts.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let mut from = self.child.stdout.take().unwrap();
        from.read_to_string(&mut text).unwrap();
        let status = wait(&mut self.child, "a stopped writer");
        assert!(status.success(), "a writer failed: {status}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How one application behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// What it does, with weights.
    pub kinds: Value,
    /// Whether it opens and closes the database for each of them.
    pub is_reopening: bool,
    /// Whether it may be killed: not if it starts others.
    pub can_be_killed: bool,
}

/// All applications of a database.
#[derive(Debug)]
pub struct Writers {
    common: Value,
    behaviours: Vec<Behaviour>,
    running: Vec<Option<Writer>>,
    next_seed: u64,
    /// What those did that were stopped and not killed.
    pub counts: BTreeMap<String, u64>,
    /// How many were killed.
    pub kills: u64,
}

impl Writers {
    /// None runs yet. `common` is what all of them are told.
    pub fn new(common: Value, behaviours: Vec<Behaviour>, seed: u64) -> Self {
        let running = behaviours.iter().map(|_| None).collect();
        Self {
            common,
            behaviours,
            running,
            next_seed: seed % 1_000_000,
            counts: BTreeMap::new(),
            kills: 0,
        }
    }

    fn wanted(&mut self, behaviour: &Behaviour) -> Value {
        self.next_seed += 1;
        let mut wanted = self.common.clone();
        wanted["seed"] = json!(self.next_seed);
        wanted["kinds"] = behaviour.kinds.clone();
        wanted["reopens"] = json!(behaviour.is_reopening);
        wanted
    }

    /// Starts all that do not run.
    pub fn start(&mut self) {
        for index in 0..self.behaviours.len() {
            if self.running[index].is_none() {
                let behaviour = self.behaviours[index].clone();
                let wanted = self.wanted(&behaviour);
                self.running[index] = Some(Writer::start(&wanted));
            }
        }
    }

    /// Kills one of them, as the out-of-memory killer would, and starts it again.
    pub fn kill_one(&mut self, index: usize) {
        let index = index % self.behaviours.len();
        if self.behaviours[index].can_be_killed {
            self.running[index] = None;
            self.kills += 1;
            self.start();
        }
    }

    /// Lets all of them end by themselves.
    pub fn stop(&mut self) {
        for running in &mut self.running {
            for (name, count) in running.take().map(Writer::stop).unwrap_or_default() {
                *self.counts.entry(name).or_default() += count;
            }
        }
    }

    /// Kills all that may be killed, and last one in the middle of a transaction.
    pub fn kill(&mut self) {
        for index in 0..self.behaviours.len() {
            if self.behaviours[index].can_be_killed {
                self.running[index] = None;
                self.kills += 1;
            }
        }
        self.stop();
        let mut wanted = self.common.clone();
        wanted["seed"] = json!(self.next_seed);
        drop(Writer::stuck(&wanted));
        self.kills += 1;
    }
}
