//! Writers that never rest: transfers, growth and shrinking, checkpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::books::{ACCOUNTS, WRITERS, value_of};
use crate::process::eventually;
use crate::resp::{Client, Value, words};

/// Numbers that differ from run to run of a thread, and not from run to run of the test.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The engine is about to go: what its clients then see is no failure.
    may_break: AtomicBool,
    acknowledged: [AtomicU64; WRITERS],
    checkpoints: AtomicU64,
}

/// Running writers. Dropping them stops them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them, each from the transfers that were made already, and waits until all are at work.
    pub fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let spawn = |work: Work| {
            let shared = shared.clone();
            thread::spawn(move || {
                let done = work.run(address, &shared);
                let may_break = shared.may_break.load(Ordering::SeqCst);
                assert!(done.is_ok() || may_break, "{work:?}: {done:?}");
            })
        };
        let mut threads: Vec<_> = (0..WRITERS).map(|n| spawn(Work::Transfer(n))).collect();
        threads.push(spawn(Work::Growth));
        threads.push(spawn(Work::Checkpoint));
        let load = Self { shared, threads };
        load.progress();
        load
    }

    /// Transfers that were acknowledged to each writer.
    pub fn acknowledged(&self) -> Vec<u64> {
        let counts = self.shared.acknowledged.iter();
        counts.map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// Waits until every writer has written, and a whole checkpoint was made, from here on.
    pub fn progress(&self) {
        let before = self.acknowledged();
        let checkpoints = self.shared.checkpoints.load(Ordering::SeqCst);
        eventually("the writers go on", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished));
            let counts = self.acknowledged();
            let have_written = counts.iter().zip(&before).all(|(now, then)| now > then);
            have_written && self.shared.checkpoints.load(Ordering::SeqCst) >= checkpoints + 2
        });
    }

    /// From here on the engine may go.
    pub fn expect_end(&self) {
        self.shared.may_break.store(true, Ordering::SeqCst);
    }

    /// Stops them; fails if one of them has failed. Gives the acknowledged transfers.
    pub fn stop(mut self) -> Vec<u64> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.acknowledged()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.may_break.store(true, Ordering::SeqCst);
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Transfer(usize),
    Growth,
    Checkpoint,
}

impl Work {
    fn run(self, address: SocketAddr, shared: &Shared) -> io::Result<()> {
        let mut client = Client::connect(address)?;
        match self {
            Self::Transfer(writer) => transfer(&mut client, writer, shared),
            Self::Growth => grow(&mut client, shared),
            Self::Checkpoint => checkpoint(&mut client, shared),
        }
    }
}

fn is_over(shared: &Shared) -> bool {
    shared.stop.load(Ordering::SeqCst)
}

fn transfer(client: &mut Client, writer: usize, shared: &Shared) -> io::Result<()> {
    let mut random = Random(writer as u64 + 1);
    let key = format!("seq:{writer}");
    let mut done = match client.command(&["GET", &key])? {
        Value::Bytes(Some(text)) => String::from_utf8(text).unwrap().parse().unwrap(),
        _ => 0,
    };
    while !is_over(shared) {
        let amount = random.below(50).to_string();
        let from = format!("acct:{}", random.below(ACCOUNTS));
        let to = format!("acct:{}", random.below(ACCOUNTS));
        let log = format!("log:{writer}:{:09}", done + 1);
        let replies = client.pipeline(&[
            words(&[b"MULTI"]),
            words(&[b"DECRBY", from.as_bytes(), amount.as_bytes()]),
            words(&[b"INCRBY", to.as_bytes(), amount.as_bytes()]),
            words(&[b"INCR", key.as_bytes()]),
            words(&[b"SET", log.as_bytes(), amount.as_bytes()]),
            words(&[b"EXEC"]),
        ])?;
        assert!(matches!(replies.last(), Some(Value::List(list)) if list.len() == 4));
        done += 1;
        shared.acknowledged[writer].store(done, Ordering::SeqCst);
    }
    Ok(())
}

fn grow(client: &mut Client, shared: &Shared) -> io::Result<()> {
    let mut random = Random(1000);
    while !is_over(shared) {
        let mut commands = Vec::new();
        for _ in 0..8 {
            let prefix = if random.below(4) == 0 { "fill" } else { "grow" };
            let key = format!("{prefix}:{:06}", random.below(2000));
            // Some values are longer than a page.
            let limit = 1 << random.below(15);
            let length = usize::try_from(random.below(limit)).unwrap();
            commands.push(match random.below(3) {
                0 => words(&[b"DEL", key.as_bytes()]),
                _ => words(&[b"SET", key.as_bytes(), &value_of(&key, length)]),
            });
        }
        client.pipeline(&commands)?;
    }
    Ok(())
}

fn checkpoint(client: &mut Client, shared: &Shared) -> io::Result<()> {
    while !is_over(shared) {
        client.command(&["CHECKPOINT"])?;
        shared.checkpoints.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(15));
    }
    Ok(())
}
