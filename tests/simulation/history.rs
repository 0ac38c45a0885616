//! The commits as the model knows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::content::Content;

#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) content: Arc<Content>,
    pub(crate) wall_ns: Option<u64>,
    /// Checksum of the view's bytes, once a pin of this commit was read: every other is the same (D3).
    pub(crate) view_crc: Option<u32>,
}

/// Acknowledged commits, and the one of which nobody knows.
#[derive(Debug, Default)]
pub(crate) struct History {
    commits: BTreeMap<u64, Commit>,
    /// A commit that failed in such a way that it is there after recovery in whole or not at all.
    in_flight: Option<Arc<Content>>,
}

impl History {
    /// The newest acknowledged commit: number and content.
    pub(crate) fn newest(&self) -> (u64, Arc<Content>) {
        let newest = self.commits.last_key_value();
        newest.map_or_else(Default::default, |(at, commit)| {
            (*at, commit.content.clone())
        })
    }

    /// Whether no database was ever opened.
    pub(crate) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    pub(crate) fn get(&self, timestamp: u64) -> Option<&Commit> {
        self.commits.get(&timestamp)
    }

    /// A commit was acknowledged under the number `timestamp`.
    pub(crate) fn acknowledge(&mut self, timestamp: u64, content: Content) {
        let (newest, before) = self.newest();
        if timestamp == newest && !self.commits.is_empty() {
            assert_eq!(
                *before, content,
                "a commit without a number changed something"
            );
            return;
        }
        assert!(
            timestamp == newest + 1 || self.commits.is_empty(),
            "commit {timestamp} was acknowledged after {newest}"
        );
        self.put(timestamp, Arc::new(content));
    }

    fn put(&mut self, timestamp: u64, content: Arc<Content>) {
        let commit = Commit {
            content,
            wall_ns: None,
            view_crc: None,
        };
        self.commits.insert(timestamp, commit);
    }

    /// A commit failed, and only the next recovery will tell whether it is there.
    pub(crate) fn leave_in_flight(&mut self, content: Content) {
        assert!(self.in_flight.is_none(), "a poisoned engine took a commit");
        self.in_flight = Some(Arc::new(content));
    }

    /// What a recovery that finds `timestamp` as the newest commit must show, if it may find that.
    pub(crate) fn after_recovery(&self, timestamp: u64) -> Option<Arc<Content>> {
        let (newest, content) = self.newest();
        match &self.in_flight {
            _ if timestamp == newest => Some(content),
            Some(in_flight) if timestamp == newest + 1 => Some(in_flight.clone()),
            _ => None,
        }
    }

    /// A recovery found `timestamp` as the newest commit: exactly the acknowledged ones, or one more
    /// that was in flight. From here on that is the truth.
    pub(crate) fn recover(&mut self, timestamp: u64) {
        if self.commits.is_empty() {
            return self.put(timestamp, Arc::default());
        }
        let (newest, _) = self.newest();
        let Some(content) = self.after_recovery(timestamp) else {
            let in_flight = u8::from(self.in_flight.is_some());
            panic!("found commit {timestamp}; acknowledged: {newest}, in flight: {in_flight}");
        };
        self.in_flight = None;
        if timestamp > newest {
            self.put(timestamp, content);
        }
    }

    /// Notes the wall clock of a commit. It never changes, and is later than that of the one before.
    pub(crate) fn note_wall(&mut self, timestamp: u64, wall_ns: u64) {
        let before = timestamp
            .checked_sub(1)
            .and_then(|at| self.commits.get(&at));
        let before = before.and_then(|commit| commit.wall_ns);
        assert!(
            before.is_none_or(|before| before < wall_ns),
            "commit {timestamp} at {wall_ns} is not after the one before, at {before:?}"
        );
        let commit = self
            .commits
            .get_mut(&timestamp)
            .expect("a commit of the model");
        let known = *commit.wall_ns.get_or_insert(wall_ns);
        assert_eq!(
            known, wall_ns,
            "the wall clock of commit {timestamp} changed"
        );
    }

    /// Notes the bytes of a view of `timestamp`.
    pub(crate) fn note_view(&mut self, timestamp: u64, crc: u32) {
        let commit = self
            .commits
            .get_mut(&timestamp)
            .expect("a commit of the model");
        let known = *commit.view_crc.get_or_insert(crc);
        assert_eq!(known, crc, "two views of commit {timestamp} differ");
    }
}
