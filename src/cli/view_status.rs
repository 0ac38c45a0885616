//! What a daemon says of its view while that is mounted: the text of `user.stillfs.status`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cli::age::Age;
use crate::cli::members::Members;
use crate::cli::omitted::Omitted;
use crate::mount::StatusSource;
use crate::source::{LeaseView, LeftOut, ReadMeter, SourceFacts};

/// Bytes of JSON for databases. All of a status must stay below what an attribute holds, 64 KiB.
const MEMBER_BYTES_MAX: usize = 32 << 10;
/// The same for what is not shown.
const OMITTED_BYTES_MAX: usize = 12 << 10;
/// Characters of a reason or a warning, which may have a path in it.
const TEXT_MAX: usize = 1000;

/// What `user.stillfs.status` of a mount's root says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ViewStatus {
    /// `held`, `no engine`, `engine gone` or `ended`.
    pub(crate) state: String,
    /// How often an engine that started gave the pin back.
    #[serde(default)]
    pub(crate) reconnects: u64,
    /// Why it ended, if it did.
    pub(crate) reason: Option<String>,
    pub(crate) pin: String,
    pub(crate) age_seconds: u64,
    /// When the pin is at its maximum age.
    pub(crate) ends_in_seconds: u64,
    /// What is to be told of a held pin: that it ends soon, or that a log grows for it.
    pub(crate) warning: Option<String>,
    pub(crate) bytes_served: u64,
    pub(crate) live_pages: u64,
    pub(crate) shadow_pages: u64,
    pub(crate) failed_checks: u64,
    /// The last read that failed while the pin held, if one did.
    #[serde(default)]
    pub(crate) failed_read: Option<String>,
    /// Its databases, where the source has them one by one.
    #[serde(default)]
    pub(crate) members: Members,
    /// What it lacks of its source.
    #[serde(default)]
    pub(crate) omitted: Omitted,
}

/// What a daemon knows of its view.
#[derive(Clone, Debug)]
pub(crate) struct ViewWatch {
    pub(crate) reads: Arc<dyn ReadMeter>,
    /// What the source said last of the lease.
    pub(crate) seen: Arc<Mutex<LeaseView>>,
    pub(crate) reconnects: Arc<AtomicU64>,
    pub(crate) age: Age,
}

impl ViewWatch {
    /// What answers for the attribute.
    pub(crate) fn status_source(self, facts: &SourceFacts, left_out: &[LeftOut]) -> StatusSource {
        let (pin, max_age) = (facts.pin.to_string(), facts.max_age);
        let omitted = Omitted::of(left_out, OMITTED_BYTES_MAX);
        StatusSource::new(move || {
            let status = self.status(&pin, max_age, &omitted);
            serde_json::to_string(&status).unwrap_or_default()
        })
    }

    fn status(&self, pin: &str, max_age: Duration, omitted: &Omitted) -> ViewStatus {
        let counts = self.reads.counts();
        let members = Members::of(self.reads.members(), MEMBER_BYTES_MAX);
        let (state, reason) = self.state(&members);
        let warnings = [self.age.warning(), members.warning()];
        let warnings: Vec<String> = warnings.into_iter().flatten().collect();
        let is_warned = state != "ended" && !warnings.is_empty();
        ViewStatus {
            state: state.to_owned(),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            reason: reason.map(cut),
            pin: pin.to_owned(),
            age_seconds: max_age.saturating_sub(self.age.left()).as_secs(),
            ends_in_seconds: self.age.left().as_secs(),
            warning: is_warned.then(|| cut(warnings.join("; "))),
            bytes_served: counts.served_bytes,
            live_pages: counts.live_pages,
            shadow_pages: counts.shadow_pages,
            failed_checks: counts.failed_checks,
            failed_read: self.reads.last_failure().map(cut),
            members,
            omitted: omitted.clone(),
        }
    }

    /// That a pin ended is told by a look; why, by the engine where there is one.
    fn state(&self, members: &Members) -> (&'static str, Option<String>) {
        let (seen, look) = (*self.seen.lock(), self.reads.look());
        let because = |error: String| ("ended", Some(members.end_reason().unwrap_or(error)));
        match (seen, look) {
            (LeaseView::Ended(reason), _) => ("ended", Some(reason.to_string())),
            (LeaseView::PassedOver, Err(error)) => {
                let reason = format!("the engine that started did not take the pin over: {error}");
                ("ended", Some(reason))
            }
            (_, Err(error)) => because(error.to_string()),
            (LeaseView::Lost, Ok(())) => because("its pin is lost".to_owned()),
            (LeaseView::NoEngine, Ok(())) => ("no engine", None),
            (LeaseView::EngineGone | LeaseView::PassedOver, Ok(())) => ("engine gone", None),
            (LeaseView::Held, Ok(())) => ("held", None),
        }
    }

    /// Why reads fail, by what is seen of the databases.
    pub(crate) fn end_reason(&self) -> Option<String> {
        Members::of(self.reads.members(), MEMBER_BYTES_MAX).end_reason()
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => text,
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
    }
}
