//! `stillfs metrics`: what is watched, for Prometheus: printed, as a file for node_exporter's textfile
//! collector, or by HTTP.

mod engine;
mod exposition;
mod family;
mod listener;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use parking_lot::Mutex;

use crate::cli::config::{Config, PLACE};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::cli::watch::Watch;
use crate::os::Host;
use crate::os::path::publish_file;
use exposition::Exposition;

/// Arguments of `stillfs metrics`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints once. With --textfile the file is replaced in one step, readable by all, so that the
textfile collector of node_exporter finds it whole; `stillfs scheduled` does the same after each
run, if the configuration has `textfile`. With --listen it is served under /metrics until Ctrl-C or
SIGTERM; what one request finds serves others for some seconds, and a configuration that was changed
counts from the next one on. There is no password, and names of paths are in it: only loopback
addresses are taken without --public.

Examples:
  stillfs metrics --repo /backup/app
  stillfs metrics --textfile /var/lib/prometheus/node-exporter/stillfs.prom
  stillfs metrics --listen 127.0.0.1:9750")]
pub(crate) struct MetricsArgs {
    /// The configuration: a file, or a folder with *.toml in it [default: /etc/stillfs, without --repo]
    #[arg(long, value_name = "FILE", env = "STILLFS_CONFIG")]
    config: Option<PathBuf>,
    /// Every source in this repository; may be given more than once
    #[arg(long, value_name = "REPO")]
    repo: Vec<RepositoryPlace>,
    #[command(flatten)]
    key: KeyArgs,
    /// Write to this file
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
    /// Serve by HTTP at this address
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Let --listen take an address that others reach
    #[arg(long, requires = "listen")]
    public: bool,
}

pub(crate) fn run(args: &MetricsArgs) -> Outcome {
    let host = Host::system();
    let place = match (&args.config, args.repo.is_empty()) {
        (Some(config), _) => Some(config.as_path()),
        (None, true) => Some(Path::new(PLACE)),
        (None, false) => None,
    };
    let config = Mutex::new(Current::load(&host, place)?);
    let write = || {
        let mut config = config.lock();
        config.renew(&host);
        text(&host, config.config.as_ref(), (&args.repo, &args.key))
    };
    match (&args.textfile, args.listen) {
        (Some(textfile), _) => {
            publish(textfile, &write()).map_err(|error| {
                anyhow::Error::new(error)
                    .context(format!("cannot write {}", output::path(textfile)))
            })?;
        }
        (None, Some(address)) => {
            if !args.public && !address.ip().to_canonical().is_loopback() {
                return Err(Failure::usage(anyhow::anyhow!(
                    "{address} is no loopback address, and whoever reaches it could read the names of \
                     sources: write 127.0.0.1 or [::1], or --public"
                )));
            }
            listener::serve(&host, address, &write)?;
        }
        (None, None) => output::line(write().trim_end()),
    }
    Ok(Exit::Done)
}

/// The configuration as it is at the moment.
struct Current<'a> {
    /// Where it is; `None` if none is asked for.
    place: Option<&'a Path>,
    /// The last one that could be read.
    config: Option<Config>,
    /// Why it cannot be read any more, as it was told; empty if it can.
    problem: String,
}

impl<'a> Current<'a> {
    /// Errors: as for [`Config::load`].
    fn load(host: &Host, place: Option<&'a Path>) -> Result<Self, Failure> {
        let config = place.map(|place| Config::load(host, place)).transpose()?;
        Ok(Self {
            place,
            config,
            problem: String::new(),
        })
    }

    /// Reads it anew; one that cannot be read is told once, and the one before is kept.
    fn renew(&mut self, host: &Host) {
        let Some(place) = self.place else {
            return;
        };
        match Config::load(host, place) {
            Ok(config) => {
                self.config = Some(config);
                self.problem.clear();
            }
            Err(failure) => {
                let problem = failure.text();
                if problem != self.problem {
                    output::problem(&format!("{problem}; the configuration before it counts"));
                    self.problem = problem;
                }
            }
        }
    }
}

/// Replaces the file by what is known at this moment. Errors: the system's.
pub(crate) fn write_textfile(
    host: &Host,
    config: Option<&Config>,
    textfile: &Path,
) -> io::Result<()> {
    publish(textfile, &text(host, config, (&[], &KeyArgs::default())))
}

fn publish(textfile: &Path, text: &str) -> io::Result<()> {
    publish_file(textfile, text.as_bytes())
}

/// All metrics, in Prometheus' text format.
fn text(host: &Host, config: Option<&Config>, repos: (&[RepositoryPlace], &KeyArgs)) -> String {
    let watch = Watch::look(host, config, repos);
    let mut exposition = Exposition::default();
    family::of_watch(&watch, &mut exposition);
    let sources = watch.sources.iter().map(|source| Path::new(&source.source));
    engine::of_sources(host, sources, &mut exposition);
    engine::of_mounts(&mut exposition);
    exposition.finish(host.clock.wall_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes it need not start what serves the metrics again, and may make a slip in it.
    #[test]
    fn configuration_is_the_newest_that_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("c.toml");
        let write = |text: &str| publish_file(&place, text.as_bytes()).unwrap();
        let entry = |name: &str| {
            format!("[[backup]]\nname = \"{name}\"\nsource = \"/{name}\"\nrepo = \"/r\"\n")
        };
        let host = Host::system();
        write(&entry("a"));
        let mut current = Current::load(&host, Some(&place)).map_err(|failure| failure.text());
        let current = current.as_mut().unwrap();
        let mut names = || {
            current.renew(&host);
            let entries = &current.config.as_ref().unwrap().entries;
            let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
            (names.concat(), current.problem.is_empty())
        };
        assert_eq!(names(), ("a".to_owned(), true));
        write("nothing");
        assert_eq!(names(), ("a".to_owned(), false));
        write(&format!("{}{}", entry("a"), entry("b")));
        assert_eq!(names(), ("ab".to_owned(), true));
    }
}
