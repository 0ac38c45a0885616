//! What the load writes, and how a snapshot of it is audited.
//!
//! ```text
//! acct:0 .. acct:99      amounts, moved between each other: their sum never changes
//! seq:<writer>           transfers of a writer
//! log:<writer>:<n>       one key for each transfer, written in its transaction
//! fill:<n>, grow:<n>     values that follow from key and length
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::resp::{Client, Value, words};

pub const ACCOUNTS: u64 = 100;
pub const WRITERS: usize = 3;
const OPENING: i64 = 1000;

/// The value of a key: nothing else in the database looks like it.
pub fn value_of(key: &str, length: usize) -> Vec<u8> {
    let pattern = format!("{key}/{length};");
    pattern.bytes().cycle().take(length).collect()
}

/// Opens the accounts, and fills `fill_keys` values of 1000 bytes.
pub fn open_accounts(address: SocketAddr, fill_keys: u64) {
    let mut client = Client::connect(address).unwrap();
    let mut opening = words(&[b"MSET"]);
    for account in 0..ACCOUNTS {
        opening.push(format!("acct:{account}").into());
        opening.push(OPENING.to_string().into());
    }
    let mut commands = vec![opening];
    for first in (0..fill_keys).step_by(100) {
        let mut fill = words(&[b"MSET"]);
        for key in first..fill_keys.min(first + 100) {
            let key = format!("fill:{key:06}");
            fill.push(key.clone().into());
            fill.push(value_of(&key, 1000));
        }
        commands.push(fill);
    }
    for reply in client.pipeline(&commands).unwrap() {
        assert_eq!(reply, Value::Text("OK".to_owned()));
    }
}

/// Every key and its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Books(BTreeMap<String, Vec<u8>>);

impl Books {
    /// Reads them from a server that nobody writes to.
    pub fn read(address: SocketAddr) -> Self {
        let mut client = Client::connect(address).unwrap();
        let mut books = BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let scan = client.command(&["SCAN", &cursor, "COUNT", "1000"]);
            let mut scan = scan.unwrap().list();
            let names = scan.pop().unwrap().list();
            cursor = String::from_utf8(scan.pop().unwrap().bytes()).unwrap();
            let names: Vec<Vec<u8>> = names.into_iter().map(Value::bytes).collect();
            if !names.is_empty() {
                let get = [words(&[b"MGET"]), names.clone()].concat();
                let values = client.pipeline(&[get]).unwrap().remove(0).list();
                for (name, value) in names.into_iter().zip(values) {
                    books.insert(String::from_utf8(name).unwrap(), value.bytes());
                }
            }
            if cursor == "0" {
                return Self(books);
            }
        }
    }

    fn number(&self, key: &str) -> Option<i64> {
        let text = std::str::from_utf8(self.0.get(key)?).unwrap();
        Some(text.parse().unwrap())
    }

    fn below(&self, prefix: &str) -> usize {
        let keys = self.0.range(prefix.to_owned()..);
        keys.take_while(|(key, _)| key.starts_with(prefix)).count()
    }

    /// How many transfers each writer has made.
    pub fn transfers(&self) -> Vec<u64> {
        let of = |writer| self.number(&format!("seq:{writer}")).unwrap_or(0);
        let counts = (0..WRITERS).map(of);
        counts.map(|count| u64::try_from(count).unwrap()).collect()
    }

    /// Fails unless this is a state that was committed.
    pub fn audit(&self) {
        let amounts = (0..ACCOUNTS).map(|account| self.number(&format!("acct:{account}")).unwrap());
        let expected = OPENING * i64::try_from(ACCOUNTS).unwrap();
        assert_eq!(amounts.sum::<i64>(), expected, "money was made or lost");
        for (writer, count) in self.transfers().into_iter().enumerate() {
            let logged = self.below(&format!("log:{writer}:"));
            assert_eq!(logged as u64, count, "transfers of writer {writer}");
            if count > 0 {
                let last = self.0.contains_key(&format!("log:{writer}:{count:09}"));
                assert!(last, "the last transfer of writer {writer}");
            }
        }
        for (key, value) in &self.0 {
            if key.starts_with("fill:") || key.starts_with("grow:") {
                assert!(*value == value_of(key, value.len()), "the value of {key}");
            }
        }
    }
}
