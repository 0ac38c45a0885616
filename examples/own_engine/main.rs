//! An engine of another kind behind pin, shadow and mount.
//!
//! ```text
//! cargo run --example own_engine [DIRECTORY]
//! ```
//!
//! The engine is a heap file of accounts, eight bytes each, overwritten in place: no log, no trees,
//! nothing of `stillfs::engine`. (A crash in the middle of a change leaves half of it; that is its own
//! trouble.) For a folder that stands still while its pages change it keeps five rules, and each of
//! them is one place:
//!
//! 1. Every page has the common header, with an LSN that is higher with every change ([`heap::Heap::change`]).
//! 2. The file says whose it is, with an epoch that is new at each open, written after the shadow has
//!    taken over the pins that are still held ([`pages::HeapHeader`], [`heap::Heap::open`]).
//! 3. Before pages are overwritten the shadow is asked, and nobody else writes ([`heap::Heap::overwrite`]).
//! 4. A pin fixes one state while nobody writes; what of that state the file does not hold yet is
//!    spilled, and only then is the pin granted ([`heap::Heap::grant`]).
//! 5. The shadow ends a pin, not whoever reads: released, over its age, or left alone by its holder
//!    ([`heap::Heap::release`], and the tending in [`heap::Heap::overwrite`]).

mod heap;
mod mounted;
mod pages;

use std::error::Error;
use std::path::PathBuf;

use stillfs::mount::MountOptions;
use stillfs::os::Host;

pub(crate) use heap::Heap;
pub(crate) use mounted::HeapPin;
pub(crate) use pages::{FILE, total_of};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[allow(dead_code, reason = "the test of the examples has a run of its own")]
#[expect(clippy::disallowed_methods, reason = "reads as a backup tool does")]
fn main() -> Outcome<()> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let base = given.as_deref().unwrap_or(temporary.path());
    let host = Host::system();
    let (dir, point) = (base.join("heap"), base.join("mnt"));
    host.disk.create_dir(&dir)?;
    host.disk.create_dir(&point)?;
    Heap::create(&host, &dir, 100_000)?;
    let heap = Heap::open(&host, &dir)?;
    heap.change(&[(0, 1_000_000)])?;

    let pin = heap.pin()?;
    let session = pin.mount(&dir, &point, MountOptions::default())?;
    let seen = std::fs::read(point.join(FILE))?;
    for account in 1..100_000 {
        heap.transfer(0, account, 10)?;
    }
    let is_still = std::fs::read(point.join(FILE))? == seen;
    println!("pages overwritten:    {}", heap.pages_kept());
    println!("sum in the live file: {}", heap.total()?);
    println!("sum in {}: {}", point.display(), total_of(&seen));
    println!("the mount stood still: {is_still}");
    drop(session);
    heap.release(&pin)
}
