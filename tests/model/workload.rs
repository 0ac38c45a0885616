//! Random transactions, and what the acknowledged ones amount to at any moment.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::thread;

use stillfs::database::{Database, ReadTransaction};
use stillfs::os::random::SeededRandom;

/// Tables of the workload: some grow and shrink, one is cleared now and then.
const TABLES: [&str; 3] = ["accounts", "blobs", "scratch"];

type Key = (usize, Vec<u8>);

/// One transaction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    clear: Option<usize>,
    steps: Vec<(Key, Option<Vec<u8>>)>,
}

impl Plan {
    /// Enough for a few hundred pages.
    pub(crate) fn initial() -> Self {
        let step = |number: u32| {
            let key = (0, number.to_be_bytes().to_vec());
            (key, Some(vec![0x5a; 500]))
        };
        Self {
            clear: None,
            steps: (0..1500).map(step).collect(),
        }
    }

    pub(crate) fn draw(random: &SeededRandom) -> Self {
        let steps = 1 + random.below(10);
        let step = |_| {
            let table = usize::try_from(random.below(3)).expect("three");
            let keys = if table == 0 { 1500 } else { 60 };
            let key = u32::try_from(random.below(keys))
                .expect("few")
                .to_be_bytes()
                .to_vec();
            let length = match table {
                0 => 500,
                1 => random.below(20_000),
                _ => random.below(2_000),
            };
            let byte = u8::try_from(random.below(256)).expect("a byte");
            let value = vec![byte; usize::try_from(length).expect("short")];
            (
                (table, key),
                (table == 0 || random.below(3) > 0).then_some(value),
            )
        };
        let clear = (random.below(40) == 0).then_some(2);
        Self {
            clear,
            steps: (0..steps).map(step).collect(),
        }
    }

    fn apply(&self, model: &mut BTreeMap<Key, Vec<u8>>) {
        if let Some(cleared) = self.clear {
            model.retain(|(table, _), _| *table != cleared);
        }
        for (key, value) in &self.steps {
            match value {
                Some(value) => drop(model.insert(key.clone(), value.clone())),
                None => drop(model.remove(key)),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    /// Acknowledged plans by commit number.
    plans: BTreeMap<u64, Plan>,
    /// The state at one commit, from which the next is replayed.
    at: u64,
    model: BTreeMap<Key, Vec<u8>>,
}

/// The acknowledged commits.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Log>);

impl History {
    /// Commits `plan` and notes it under its number.
    pub(crate) fn commit(&self, database: &Database, plan: &Plan) {
        let mut write = database.begin_write().expect("the writer slot");
        if let Some(cleared) = plan.clear {
            write.clear(TABLES[cleared]).expect("a clear");
        }
        for ((table, key), value) in &plan.steps {
            match value {
                Some(value) => write.put(TABLES[*table], key, value).expect("a put"),
                None => drop(write.delete(TABLES[*table], key).expect("a delete")),
            }
        }
        let base = write.base().0;
        let timestamp = write.commit().expect("a commit").0;
        if timestamp > base {
            self.0
                .lock()
                .expect("no panic under it")
                .plans
                .insert(timestamp, plan.clone());
        }
    }

    /// Compares what `read` sees with the commits up to `timestamp`.
    pub(crate) fn check_at(&self, timestamp: u64, read: &ReadTransaction) {
        let expected = loop {
            let mut log = self.0.lock().expect("no panic under it");
            // Commits are durable in order, but noted by their threads a moment later.
            let complete = log.plans.range(..=timestamp).count() as u64 == timestamp;
            if complete {
                break log.model_at(timestamp);
            }
            drop(log);
            thread::yield_now();
        };
        let mut found = BTreeMap::new();
        for (number, table) in TABLES.iter().enumerate() {
            for entry in read.range(table, ..).expect("a table") {
                let (key, value) = entry.expect("an entry");
                found.insert((number, key), value);
            }
            let count = found.keys().filter(|(table, _)| *table == number).count() as u64;
            assert_eq!(read.entry_count(table).expect("a count"), count);
        }
        assert!(found == expected, "content at commit {timestamp} differs");
    }
}

impl Log {
    fn model_at(&mut self, timestamp: u64) -> BTreeMap<Key, Vec<u8>> {
        if timestamp < self.at {
            let mut model = BTreeMap::new();
            self.plans
                .range(..=timestamp)
                .for_each(|(_, plan)| plan.apply(&mut model));
            return model;
        }
        let (at, plans, model) = (self.at, &self.plans, &mut self.model);
        plans
            .range((Bound::Excluded(at), Bound::Included(timestamp)))
            .for_each(|(_, plan)| plan.apply(model));
        self.at = timestamp;
        self.model.clone()
    }
}
