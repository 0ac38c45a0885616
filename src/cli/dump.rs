//! `stillfs dump`: the content of a database as text, or as one digest.
//!
//! Runs in its own process, on a stopped database, a copy, a mount, or a pin of a running engine.
//! Every pin of one commit, and every database of the same content however its pages lie, gives the
//! same text and the same digest.
//!
//! `database::text` says what the text is.
//!
//! # Digest
//!
//! The SHA-256 of these bytes, as 64 hexadecimal digits; lengths are u64, little-endian:
//!
//! ```text
//! "stillfs digest 1\n"
//! per table:   01, length of the name, name
//!   per entry: 02, length of the key, key, length of the value, value
//! 00
//! ```
//!
//! Memory: the engine's cache, one entry and one buffer. Nothing is written but standard output.

mod digest;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::exit::{Exit, Failure, Outcome};
use super::output;
use crate::database::{ReadTransaction, text};
use crate::os::Host;
use crate::source::still::{self, StillDatabase};
use digest::ContentDigest;

/// What is gathered before it is written.
const BUFFER_BYTES: usize = 256 << 10;

/// Write the content of a database as text, or its digest
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stillfs dump /var/lib/app | zstd > app.dump.zst
  stillfs dump /mnt/still --digest    equal for equal content, whatever the page layout")]
pub(crate) struct DumpArgs {
    /// A database: its directory (an engine may run on it), a mount, a copy, or a data.pages file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Print one line instead: the SHA-256 of the content, whatever the page layout
    #[arg(long)]
    digest: bool,
}

/// Why a walk through the content ended.
#[derive(Debug)]
enum Stopped {
    /// Whoever reads standard output has gone.
    ReaderGone,
    /// Anything else.
    Failed(anyhow::Error),
}

/// Takes the content in its order.
trait Sink {
    fn table(&mut self, name: &str, entry_count: u64) -> io::Result<()>;
    fn entry(&mut self, key: &[u8], value: &[u8]) -> io::Result<()>;
}

/// Dumps the database at the path.
///
/// Errors: those of opening it; `Corrupt` where it is damaged; `PinLost` if the pin ended meanwhile.
pub(crate) fn run(args: &DumpArgs) -> Outcome {
    let host = Host::system();
    let still = still::open(&host, &args.path, "stillfs dump")?;
    let exit = match dump(&still, args) {
        Ok(()) => Exit::Done,
        Err(Stopped::ReaderGone) => Exit::Failed,
        // A pin that ended explains whatever went wrong with the reading.
        Err(Stopped::Failed(error)) => {
            still.look()?;
            return Err(failure(error));
        }
    };
    still.release()?;
    Ok(exit)
}

fn failure(error: anyhow::Error) -> Failure {
    if error.is::<WrongCount>() {
        let exit = Exit::Corrupt;
        return Failure { exit, error };
    }
    Failure::from(error)
}

fn dump(still: &StillDatabase, args: &DumpArgs) -> Result<(), Stopped> {
    let read = still.engine().begin_read();
    if args.digest {
        let mut digest = ContentDigest::new();
        walk(&read, &mut digest)?;
        output::line(&digest.finish());
        return Ok(());
    }
    let mut text = TextSink(BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()));
    writeln!(text.0, "{}", text::FIRST_LINE).map_err(write_error)?;
    let entry_count = walk(&read, &mut text)?;
    writeln!(text.0, "end {entry_count}").map_err(write_error)?;
    text.0.flush().map_err(write_error)
}

/// Hands all tables and entries to `sink`; returns how many entries there were.
fn walk(read: &ReadTransaction, sink: &mut dyn Sink) -> Result<u64, Stopped> {
    let failed = |error| Stopped::Failed(anyhow::Error::new(error));
    let mut sum = 0;
    for table in read.tables().map_err(failed)? {
        let stated = read.entry_count(&table).map_err(failed)?;
        sink.table(&table, stated).map_err(write_error)?;
        let mut found = 0;
        for entry in read.range(&table, ..).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            sink.entry(&key, &value).map_err(write_error)?;
            found += 1;
        }
        if found != stated {
            return Err(Stopped::Failed(anyhow::Error::new(WrongCount {
                table,
                stated,
                found,
            })));
        }
        sum += found;
    }
    Ok(sum)
}

/// A table has not the entries that its catalog counts.
#[derive(Debug, thiserror::Error)]
#[error("table {table:?} has {found} entries where the catalog says {stated}; see stillfs check")]
struct WrongCount {
    table: String,
    stated: u64,
    found: u64,
}

fn write_error(error: io::Error) -> Stopped {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Stopped::ReaderGone;
    }
    Stopped::Failed(anyhow::Error::new(error).context("cannot write to standard output"))
}

struct TextSink<W: Write>(BufWriter<W>);

impl<W: Write> Sink for TextSink<W> {
    fn table(&mut self, name: &str, entry_count: u64) -> io::Result<()> {
        self.0.write_all(b"table ")?;
        text::write_escaped(&mut self.0, name.as_bytes())?;
        writeln!(self.0, " {entry_count}")
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        text::write_escaped(&mut self.0, key)?;
        self.0.write_all(b" ")?;
        text::write_escaped(&mut self.0, value)?;
        self.0.write_all(b"\n")
    }
}

impl Sink for ContentDigest {
    fn table(&mut self, name: &str, _entry_count: u64) -> io::Result<()> {
        Self::table(self, name);
        Ok(())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        Self::entry(self, key, value);
        Ok(())
    }
}
