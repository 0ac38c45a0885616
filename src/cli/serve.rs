//! `stillfs serve`: a database as a server that speaks the Redis protocol.
//!
//! Runs in the engine's process until SIGTERM or SIGINT. Then nobody is let in any more, running
//! batches are finished, a checkpoint puts everything into the live file, and it exits with 0. A
//! second signal ends it at once with 130: like a crash, which loses nothing that was acknowledged.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use super::exit::{Exit, Failure, Outcome};
use super::output;
use super::size::{self, ByteSize};
use super::statement::{Reopening, RepositoryStatements, StatementArgs};
use crate::database::{Create, Database, Engine, EngineOptions, PinServing};
use crate::engine::error::EngineError;
use crate::os::secret_file::read_secret;
use crate::os::{self, Host};
use crate::page::PageSize;
use crate::server::{
    Access, Bound, OpenAccess, PASSWORD_BYTES_MAX, Password, Seat, ServerError, ServerOptions,
};

/// Descriptors that are kept for the engine's own files and for pins.
const OWN_DESCRIPTORS: usize = 512;
/// Where it listens if nothing else is said.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6380);

/// Run a database as a server for Redis clients, and for mounts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints `ready DIR ADDR` once clients can connect. SIGTERM or Ctrl-C stops cleanly; a second one at
once. Mounts stand while it is stopped, and it takes over those of before; one whose daemon does not
come back within 60 s ends.

Examples:
  stillfs serve /var/lib/app                              Redis protocol on 127.0.0.1:6380
  stillfs serve /var/lib/app --listen 127.0.0.1:0         any free port
  stillfs serve /var/lib/app --unix /run/app.sock --cache 1G
  stillfs serve /var/lib/app --listen 0.0.0.0:6380 --password-file /etc/app.password
  stillfs serve /var/lib/app --backup-root /backup        BACKUP DATABASE TO app, by any client")]
pub(crate) struct ServeArgs {
    /// Directory of the database; it is made if it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Address to listen on; port 0 takes any free one; any but loopback needs --password-file, and
    /// nothing is encrypted [default: 127.0.0.1:6380]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Path of a Unix socket to listen on; without --listen there is then no TCP port
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// File with the password that clients must give by AUTH; it must be yours or root's, mode 0600
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Page size of a new database, 4K to 64K; an existing one keeps its own [default: 8K]
    #[arg(long, value_name = "SIZE", value_parser = size::page_size)]
    page_size: Option<PageSize>,
    /// Memory for pages; what has no room goes to a file without a name
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    cache: ByteSize,
    /// Memory for the requests and replies of all clients together
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::nonzero)]
    client_memory: ByteSize,
    /// Log since the last checkpoint that starts the next
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::nonzero)]
    checkpoint_size: ByteSize,
    /// Log at which new transactions wait for a checkpoint, and pins that hold it up end; not less than the
    /// checkpoint size; log that is kept to be used again, or for `archive` alone, goes before it is longer than this
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::nonzero)]
    wal_limit: ByteSize,
    /// Space on the file system that pins leave free for commits [default: --wal-limit and 1G more]
    #[arg(long, value_name = "SIZE")]
    free_space_floor: Option<ByteSize>,
    /// Seconds that a pin of an earlier engine waits for its holder.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide = true)]
    claim_patience: u64,
    #[command(flatten)]
    statements: StatementArgs,
}

impl ServeArgs {
    fn engine_options(&self) -> Result<EngineOptions, Failure> {
        if self.wal_limit < self.checkpoint_size {
            return Err(Failure::usage(anyhow::anyhow!(
                "--wal-limit {} is less than --checkpoint-size {}: writers would wait for every \
                 checkpoint",
                self.wal_limit,
                self.checkpoint_size
            )));
        }
        Ok(EngineOptions {
            create: Create::IfMissing,
            page_size: self.page_size.unwrap_or(PageSize::DEFAULT),
            cache_bytes: self.cache.0,
            checkpoint_bytes: self.checkpoint_size.0,
            log_bytes_max: self.wal_limit.0,
            free_floor_bytes: self.free_space_floor.map(|floor| floor.0),
        })
    }

    fn server_options(&self) -> Result<ServerOptions, Failure> {
        let listen = match &self.unix {
            None => Some(self.listen.unwrap_or(DEFAULT_ADDRESS)),
            Some(_) => self.listen,
        };
        let defaults = ServerOptions::default();
        let options = ServerOptions {
            listen,
            unix: self.unix.clone(),
            connections_max: connections_max(defaults.connections_max),
            access: self.access()?,
            memory_max: usize::try_from(self.client_memory.0).unwrap_or(usize::MAX),
            ..defaults
        };
        // Said before the database is opened, because it is the command line that is wrong.
        if let Some(address) = listen {
            options.refuse_open(address).map_err(Failure::usage)?;
        }
        Ok(options)
    }

    /// Who may use the server. Errors: a password file that cannot be used.
    fn access(&self) -> Result<Arc<dyn Access>, Failure> {
        let Some(path) = &self.password_file else {
            return Ok(Arc::new(OpenAccess));
        };
        let password = read_secret(path, PASSWORD_BYTES_MAX)
            .with_context(|| format!("cannot use the password file {}", path.display()))?;
        Ok(Arc::new(Password::new(&password)))
    }
}

/// As many clients as there are descriptors for, beside those of the engine and of pins.
fn connections_max(wanted: usize) -> usize {
    let limit = match os::process::raise_file_limit() {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot learn how many files may be open");
            return wanted;
        }
    };
    let left = limit.saturating_sub(OWN_DESCRIPTORS).max(limit / 4).max(1);
    if left < wanted {
        tracing::warn!(
            clients = left,
            open_files = limit,
            "few files may be open: see ulimit -n"
        );
    }
    wanted.min(left)
}

/// An address with its port, where `localhost` stands for 127.0.0.1.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| "write it as 127.0.0.1:PORT, localhost:PORT or [::1]:PORT".to_owned())
}

/// Serves the directory until it is told to stop.
///
/// Errors: `Usage`; `InUse` if another engine runs there; `Corrupt`; `Failed`.
pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let (engine, mut server) = (args.engine_options()?, args.server_options()?);
    let mut stop = StopSignals::catch().context("cannot catch signals")?;
    // A link to the directory is followed; one that is missing is made where it was named.
    let dir = os::path::canonical(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let again = Reopening {
        options: engine,
        claim_patience: Duration::from_secs(args.claim_patience),
    };
    let statements = args.statements.statements(&dir, again, stop.handle())?;
    let statements = Arc::new(statements);
    server.statements = Some(statements.clone());
    // Before anything is made there: an address that cannot be had should leave no database behind.
    let bound = match Bound::outside(&dir, server) {
        Ok(bound) => bound,
        // An engine that runs on it explains the address that is in use, too.
        Err(error) => return Err(in_use(&dir).map_or_else(|| error.into(), Failure::from)),
    };
    let unix = args.unix.as_deref();
    let database = Database::open(&dir, &engine, PinServing::On)?;
    if os::trust::is_open_to_others(&dir).unwrap_or_default() {
        let dir = dir.display();
        tracing::warn!(%dir, "other users may hold the directory's lock, so that the next start fails: chmod 700 it");
    }
    database.set_claim_patience(again.claim_patience);
    let found = database.engine().page_size();
    if let Some(wanted) = args.page_size.filter(|wanted| *wanted != found) {
        let (wanted, found) = (wanted.get(), found.get());
        tracing::warn!(
            wanted,
            found,
            "the database keeps the page size it was made with"
        );
    }
    let seat = Seat::of(database);
    let served = serve(&seat, bound, (&args.dir, unix), (&statements, &mut stop));
    let closed = seat.database().map(|database| database.close());
    served?;
    let closed = closed.context(
        "a restore in place has failed, and left no database that can be opened; the next start finds one",
    )?;
    closed.context("cannot stop cleanly; the log is replayed at the next start")?;
    tracing::info!(dir = %dir.display(), "stopped");
    Ok(Exit::Done)
}

/// That somebody holds the database in `dir`.
fn in_use(dir: &Path) -> Option<EngineError> {
    let error = Engine::refuse_if_used(&Host::system(), dir).err()?;
    matches!(error, EngineError::InUse { .. }).then_some(error)
}

fn serve(
    seat: &Seat,
    bound: Bound,
    (dir, unix): (&Path, Option<&Path>),
    (statements, stop): (&RepositoryStatements, &mut StopSignals),
) -> Result<(), ServerError> {
    if stop.is_asked() {
        return Ok(());
    }
    let server = bound.serve_seat(seat.clone())?;
    output::line(&ready(dir, server.local_address(), unix));
    stop.wait();
    tracing::info!("stopping: running batches are finished, then a checkpoint is made");
    statements.stop();
    server.stop();
    Ok(())
}

/// What is said when clients can connect.
fn ready(dir: &Path, address: Option<SocketAddr>, unix: Option<&Path>) -> String {
    let mut text = format!("ready {}", dir.display());
    if let Some(address) = address {
        text.push_str(&format!(" {address}"));
    }
    if let Some(path) = unix {
        text.push_str(&format!(" unix:{}", path.display()));
    }
    text
}

/// SIGTERM and SIGINT, from the moment when they are caught.
#[derive(Debug)]
struct StopSignals {
    signals: Signals,
    asked: Arc<AtomicBool>,
}

impl StopSignals {
    /// Errors: the system's.
    fn catch() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag down and puts it up.
            let exit = Exit::Interrupted as i32;
            flag::register_conditional_shutdown(signal, exit, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        let signals = Signals::new([SIGTERM, SIGINT])?;
        Ok(Self { signals, asked })
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Closing it ends [`Self::wait`] as well.
    fn handle(&self) -> Handle {
        self.signals.handle()
    }

    /// Waits for the first one; one that came before counts.
    fn wait(&mut self) {
        let _ = self.signals.forever().next();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn parse(words: &[&str]) -> Result<ServeArgs, clap::Error> {
        Line::try_parse_from([&["serve", "/d"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn a_unix_socket_alone_means_no_port() {
        let listens = |words: &[&str]| parse(words).unwrap().server_options().unwrap().listen;
        assert_eq!(listens(&[]), Some(DEFAULT_ADDRESS));
        assert_eq!(listens(&["--unix", "/s"]), None);
        let both = listens(&["--unix", "/s", "--listen", "localhost:7"]);
        assert_eq!(both, Some("127.0.0.1:7".parse().unwrap()));
    }

    /// Nothing would ask a client from elsewhere for a password.
    #[test]
    fn only_loopback_addresses_are_taken() {
        for text in [
            "0.0.0.0:1",
            "[::]:1",
            "192.0.2.1:6380",
            "[::ffff:192.0.2.1]:1",
        ] {
            let args = parse(&["--listen", text]).unwrap();
            assert_eq!(
                args.server_options().unwrap_err().exit,
                Exit::Usage,
                "{text}"
            );
        }
        for text in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(
                parse(&["--listen", text]).unwrap().server_options().is_ok(),
                "{text}"
            );
        }
        for text in ["6380", "127.0.0.1", "example.org:1", "localhost:99999", ""] {
            assert!(parse(&["--listen", text]).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        let args = parse(&["--wal-limit", "1M"]).unwrap();
        assert_eq!(args.engine_options().unwrap_err().exit, Exit::Usage);
        let args = parse(&["--wal-limit", "1M", "--checkpoint-size", "1M"]).unwrap();
        assert_eq!(args.engine_options().unwrap().log_bytes_max, 1 << 20);
        assert!(parse(&["--checkpoint-size", "0"]).is_err());
        assert!(parse(&["--page-size", "5000"]).is_err());
    }

    #[test]
    fn ready_names_everything_that_clients_can_connect_to() {
        let dir = Path::new("/d");
        let address = Some(DEFAULT_ADDRESS);
        assert_eq!(ready(dir, address, None), "ready /d 127.0.0.1:6380");
        let unix = Some(Path::new("/s"));
        assert_eq!(ready(dir, None, unix), "ready /d unix:/s");
        assert_eq!(ready(dir, address, unix), "ready /d 127.0.0.1:6380 unix:/s");
    }
}
