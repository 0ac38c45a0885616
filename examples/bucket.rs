//! Backups of a database of this process, in a repository that any object store keeps.
//!
//! ```text
//! cargo run --example bucket
//! ```
//!
//! The store is one in memory; `object_store::aws::AmazonS3Builder` and its likes make others, and
//! `stillfs::repository::bucket::connect` one of S3 that takes its credentials from the environment.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use stillfs::Database;
use stillfs::database::{EngineOptions, PinOptions, PinServing};
use stillfs::os::Host;
use stillfs::repository::backup::{BackupOptions, Subject, backup};
use stillfs::repository::bucket::{BucketSettings, BucketStore};
use stillfs::repository::crypt::Unlock;
use stillfs::repository::{Control, Depth, Repository, VerifyOptions, verify};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[allow(dead_code, reason = "the test of the examples calls run itself")]
fn main() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let count = run(dir.path(), Arc::new(InMemory::new()))?;
    println!("{count} backups, every byte of them read back");
    Ok(())
}

/// Makes a database in `dir`, and two backups of it in `objects`; returns how many were verified.
pub(crate) fn run(dir: &Path, objects: Arc<dyn ObjectStore>) -> Outcome<usize> {
    let host = Host::system();
    let settings = BucketSettings::default();
    let store = BucketStore::new(&host, objects, "hosts/earth", "the objects", settings)?;
    // Of an encrypted one Unlock has the keys.
    let repository = Repository::open_or_create_store(&host, Arc::new(store), &Unlock::none())?;

    let options = EngineOptions::default();
    let database = Database::open(dir.join("app"), &options, PinServing::Off)?;
    for day in ["monday", "tuesday"] {
        let mut transaction = database.begin_write()?;
        transaction.put("diary", day.as_bytes(), b"backed up")?;
        transaction.commit()?;
        let subject = Subject::of_database(&database, &PinOptions::default())?;
        backup(
            &repository,
            subject,
            &BackupOptions::default(),
            &Control::default(),
        )?;
    }
    database.close()?;

    let options = VerifyOptions {
        backup: None,
        depth: Depth::ReadData,
        restore_test: None,
    };
    let report = verify(&repository, &options, &Control::default())?;
    match report.findings.as_slice() {
        [] => Ok(report.verified.len()),
        [finding, ..] => Err(format!("{finding:?}").into()),
    }
}
