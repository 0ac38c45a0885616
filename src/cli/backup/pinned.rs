//! A source pinned for a backup: its tree, whether the pin still stands, and what gives it up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cli::age::{Age, AgeWatch};
use crate::cli::bounds::BoundArgs;
use crate::cli::exit::Failure;
use crate::cli::lease_watch::LeaseWatch;
use crate::cli::output;
use crate::cli::request::{SourceArgs, Words};
use crate::os::{Host, machine};
use crate::repository::backup::{Still, Subject};
use crate::repository::{LeftOutFact, SourceName};
use crate::source::{self, LeftOut, PinAs, PinnedSource, ReadMeter};
use crate::view::tree::ReadError;

/// How often the lease is looked at: the end of a backup waits for it.
const LEASE_CHECK: Duration = Duration::from_millis(50);

/// What is to be pinned, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) source: &'a Path,
    pub(super) words: &'a Words,
    pub(super) bounds: &'a BoundArgs,
    pub(super) asked: &'a SourceArgs,
}

/// Pins it. Errors: those of a pin.
pub(super) fn pin(host: &Host, request: &Request<'_>) -> Result<Subject, Failure> {
    let pin_as = PinAs {
        holder: "stillfs backup",
        mount_point: None,
        options: request.bounds.options(),
        sqlite: request.asked.sqlite_options(request.words, request.bounds),
        tree: request.asked.tree_options(request.words),
    };
    let PinnedSource {
        tree,
        facts,
        reads,
        lease,
        left_out,
    } = source::pin(host, request.source, &pin_as)?;
    let lease = LeaseWatch::start(lease, reads.clone(), LEASE_CHECK)?;
    let aging = Age::start(host.clock.clone(), facts.max_age).watch(reads.clone());
    let aging = aging.context("cannot start the thread that watches the pin's age")?;
    Ok(Subject {
        tree,
        source: SourceName {
            kind: facts.kind.to_owned(),
            path: request.source.to_string_lossy().into_owned(),
            host: machine::name(),
        },
        moment_ns: facts.wall_ns,
        left_out: left_out.iter().map(fact_of).collect(),
        still: Arc::new(StillReads(reads)),
        keeper: Box::new(Keeper {
            lease: Some(lease),
            _aging: aging,
        }),
    })
}

fn fact_of(left_out: &LeftOut) -> LeftOutFact {
    LeftOutFact {
        path: output::path(&left_out.path),
        reason: left_out.reason.clone(),
        is_wanted: false,
    }
}

struct StillReads(Arc<dyn ReadMeter>);

impl Still for StillReads {
    fn look(&self) -> Result<(), ReadError> {
        self.0.look()
    }
}

/// Gives the pin up when it is dropped (BK11).
struct Keeper {
    lease: Option<LeaseWatch>,
    _aging: AgeWatch,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(Err(failure)) = self.lease.take().map(LeaseWatch::release) {
            tracing::warn!(error = failure.text(), "the pin could not be given up");
        }
    }
}
