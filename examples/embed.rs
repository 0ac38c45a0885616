//! A database inside an application: write, pin, write on, and read the pinned state.
//!
//! ```text
//! cargo run --example embed [DIRECTORY]
//! ```
//!
//! Without a directory it works in a temporary one. The pin is held by this very process; another
//! process gets one with `stillfs mount`, which shows the same view as a folder.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use stillfs::Database;
use stillfs::database::{Engine, EngineOptions, PAGE_FILE, Pin, PinServing};
use stillfs::os::Host;
use stillfs::view::tree::RangeRead;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of pages to keep in memory when a view or a copy is read.
const CACHE_BYTES: u64 = 16 << 20;

/// What the example found, newest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Apples in the running database at the end.
    pub(crate) live: String,
    /// Apples in the view of the pin, read at the same time.
    pub(crate) pinned: String,
    /// Apples in the copy of the view, opened after the pin was released.
    pub(crate) copied: String,
}

#[allow(dead_code, reason = "the test of the examples calls run itself")]
fn main() -> Outcome<()> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let dir = given.as_deref().unwrap_or(temporary.path());
    let stock = run(dir)?;
    println!("apples, live:     {}", stock.live);
    println!("apples, pinned:   {}", stock.pinned);
    println!("apples, in copy:  {}", stock.copied);
    Ok(())
}

/// Makes `dir/app`, a database, and `dir/copy`, a copy of its state at the pin.
pub(crate) fn run(dir: &Path) -> Outcome<Stock> {
    // PinServing::On also listens on control.sock, so that `stillfs mount` can pin from outside.
    let options = EngineOptions::default();
    let database = Database::open(dir.join("app"), &options, PinServing::Off)?;

    // One transaction over two tables: both changes are there after the commit, or none.
    let mut transaction = database.begin_write()?;
    transaction.put("stock", b"apples", b"100")?;
    for delivery in 0..5000_u32 {
        // Keys are ordered by their bytes, so numbers are written big-endian.
        let entry = format!("delivery {delivery}: apples");
        transaction.put("journal", &delivery.to_be_bytes(), entry.as_bytes())?;
    }
    transaction.commit()?;

    // From here on the pinned commit stays readable, whatever is written.
    let pin = database.pin()?;

    // Write on. The checkpoint overwrites pages of data.pages that the pin still needs; their
    // content goes to the shadow first.
    let mut transaction = database.begin_write()?;
    transaction.put("stock", b"apples", b"7")?;
    transaction.clear("journal")?;
    transaction.commit()?;
    database.checkpoint()?;

    let live = apples(&database.begin_read()?.get("stock", b"apples")?);
    // The view is a database of its own, for reading.
    let view = pin.open(CACHE_BYTES)?;
    let pinned = apples(&view.begin_read().get("stock", b"apples")?);
    drop(view);

    let copy_dir = dir.join("copy");
    copy(&pin, &copy_dir)?;
    // Every later read of the view fails; the copy is independent of it.
    pin.release()?;
    database.close()?;

    let copy = Engine::open_read_only(&Host::system(), &copy_dir, CACHE_BYTES)?;
    let copied = apples(&copy.begin_read().get("stock", b"apples")?);
    Ok(Stock {
        live,
        pinned,
        copied,
    })
}

/// Copies the pinned page file. It needs no log: alone in a directory it is a whole database, which
/// `Database::open` would open for writing too, as a history of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "an application has no simulated disk"
)]
fn copy(pin: &Pin, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    let mut file = fs::File::create_new(to.join(PAGE_FILE))?;
    let view = pin.view();
    let mut chunk = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < view.size() {
        let bytes = chunk.len().min(usize::try_from(view.size() - offset)?);
        // All of it or an error: never a part, never bytes of a later commit.
        view.read_range(offset, &mut chunk[..bytes])?;
        file.write_all(&chunk[..bytes])?;
        offset += bytes as u64;
    }
    Ok(file.sync_all()?)
}

fn apples(value: &Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(value.as_deref().unwrap_or(b"none")).into_owned()
}
