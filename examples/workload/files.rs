//! The files of this machine as keys and values.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::client::{Client, Reply};
use crate::list::{self, Stored};

/// Of a longer file this much is stored.
const VALUE_BYTES_MAX: u64 = 8 << 20;
/// The engine takes no longer key.
const KEY_BYTES_MAX: usize = 1024;
/// At least this many are stored, however large they are.
const FILES_MIN: usize = 1000;
/// How often the folder may be stored again under other keys if it is small.
const ROUNDS_MAX: usize = 100;
/// What one transaction holds.
const TRANSACTION_BYTES: usize = 4 << 20;
const TRANSACTION_FILES: usize = 200;

/// Stores files until `bytes` are stored; prints how many files and bytes there are.
pub(crate) fn load(address: &str, folder: &Path, bytes: usize, list: &Path) -> io::Result<()> {
    let mut loading = Loading {
        client: Client::connect(address)?,
        wanted_bytes: bytes,
        stored: Vec::new(),
        stored_bytes: 0,
        open_files: 0,
        open_bytes: 0,
    };
    for round in 1..=ROUNDS_MAX {
        loading.walk(folder, round)?;
        if loading.is_enough() || loading.stored.is_empty() {
            break;
        }
    }
    if !loading.is_enough() {
        let text = format!("there are not enough files below {}", folder.display());
        return Err(io::Error::other(text));
    }
    loading.commit()?;
    list::save(list, &loading.stored)?;
    println!("{} {}", loading.stored.len(), loading.stored_bytes);
    Ok(())
}

/// Compares every value that no writer touches; prints how many there are.
pub(crate) fn compare(address: &str, list: &Path) -> io::Result<()> {
    let (_, untouched) = list::read(list)?;
    let mut client = Client::connect(address)?;
    for one in &untouched {
        let found = client.add(&[b"GET", &one.key]).send()?.pop();
        if !matches!(&found, Some(Reply::Bulk(value)) if one.is(value)) {
            let text = format!("{} differs", String::from_utf8_lossy(&one.key));
            return Err(io::Error::other(text));
        }
    }
    println!("{}", untouched.len());
    Ok(())
}

#[derive(Debug)]
struct Loading {
    client: Client,
    wanted_bytes: usize,
    stored: Vec<Stored>,
    stored_bytes: usize,
    open_files: usize,
    open_bytes: usize,
}

impl Loading {
    fn is_enough(&self) -> bool {
        self.stored_bytes >= self.wanted_bytes && self.stored.len() >= FILES_MIN
    }

    /// Stores the regular files below `folder` in the order of their names, on its file system only.
    /// What cannot be read is left out.
    fn walk(&mut self, folder: &Path, round: usize) -> io::Result<()> {
        let device = fs::metadata(folder)?.dev();
        let mut waiting = vec![folder.to_owned()];
        while let Some(path) = waiting.pop() {
            if self.is_enough() {
                break;
            }
            let Ok(facts) = fs::symlink_metadata(&path) else {
                continue;
            };
            if facts.is_dir() && facts.dev() == device {
                waiting.extend(children(&path));
            } else if facts.is_file() {
                self.store(&path, round)?;
            }
        }
        Ok(())
    }

    fn store(&mut self, path: &Path, round: usize) -> io::Result<()> {
        let mut key = Vec::new();
        if round > 1 {
            key.extend_from_slice(format!("{round}:").as_bytes());
        }
        key.extend_from_slice(path.as_os_str().as_bytes());
        let mut value = Vec::new();
        let read = File::open(path).and_then(|file| {
            let mut start = file.take(VALUE_BYTES_MAX);
            start.read_to_end(&mut value)
        });
        if read.is_err() || value.is_empty() || key.len() > KEY_BYTES_MAX {
            return Ok(());
        }
        if self.open_files == 0 {
            self.client.add(&[b"MULTI"]);
        }
        self.client.add(&[b"SET", &key, &value]);
        self.open_files += 1;
        self.open_bytes += value.len();
        self.stored_bytes += value.len();
        self.stored.push(Stored::new(key, &value));
        if self.open_bytes >= TRANSACTION_BYTES || self.open_files >= TRANSACTION_FILES {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> io::Result<()> {
        if self.open_files > 0 {
            self.client.add(&[b"EXEC"]).send()?;
        }
        (self.open_files, self.open_bytes) = (0, 0);
        Ok(())
    }
}

/// What a folder holds, last name first.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by(|a, b| b.cmp(a));
    paths
}
