//! provisional
use crate::cli::exit::{Exit, Outcome};
use crate::database::{Database, EngineOptions, PinServing};
use crate::server::{Server, ServerOptions};
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    dir: std::path::PathBuf,
    #[arg(long, default_value = "127.0.0.1:6380")]
    listen: std::net::SocketAddr,
}
pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let mut signals = signal_hook::iterator::Signals::new([15, 2])?;
    let db = Database::open(&args.dir, &EngineOptions::default(), PinServing::On)?;
    let server = Server::start(
        db.clone(),
        ServerOptions {
            listen: Some(args.listen),
            ..ServerOptions::default()
        },
    )?;
    crate::cli::output::line(&format!(
        "ready {} {}",
        args.dir.display(),
        server.local_address().unwrap()
    ));
    signals.forever().next();
    server.stop();
    db.close()?;
    Ok(Exit::Done)
}
