//! What keeps a native pin: the connection to the engine while there is one, and the lock on the index
//! while there is none.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::database::{SOCKET_FILE, clean_up_pin};
use crate::os::Host;
use crate::os::readiness::StopSignal;
use crate::pin::{
    ClientLease, LeaseState, Name, PinClient, PinError, PinFacts, ReclaimRequest, RefusalKind,
    WirePath,
};
use crate::source::{LeaseView, SourceError, SourceLease, rest};
use crate::view::PinnedFile;

/// How long the first pause between two tries at the socket is.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// How long such a pause becomes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a pin is asked back, which, and for whom.
#[derive(Debug)]
pub(super) struct Reclaim {
    pub(super) dir: PathBuf,
    pub(super) facts: PinFacts,
    pub(super) holder: Name,
    pub(super) mount_point: WirePath,
}

/// A pin's life, as its holder sees it. It goes on without the engine, and finds the next one by itself.
#[derive(Debug)]
pub(super) struct NativeLease {
    host: Host,
    ours: Reclaim,
    view: Arc<PinnedFile>,
    line: Line,
    pause: Duration,
    reconnects: u64,
    /// How the lease is while no engine has it.
    alone: LeaseView,
}

#[derive(Debug)]
enum Line {
    Open(ClientLease),
    /// The engine is gone, or there was none.
    Gone,
    /// The engine that is there did not take the pin over, or ended it.
    Lost(LeaseView),
}

impl NativeLease {
    /// `line` is the connection over which the pin was granted; `None` if no engine granted it.
    pub(super) fn new(
        host: &Host,
        ours: Reclaim,
        view: Arc<PinnedFile>,
        line: Option<ClientLease>,
    ) -> Self {
        Self {
            host: host.clone(),
            ours,
            view,
            alone: match line {
                Some(_) => LeaseView::EngineGone,
                None => LeaseView::NoEngine,
            },
            line: line.map_or(Line::Gone, Line::Open),
            pause: PAUSE_MIN,
            reconnects: 0,
        }
    }

    /// Asks the engine that may have started for the pin.
    fn reconnect(&mut self) -> LeaseView {
        match self.reclaim() {
            Ok(lease) => {
                self.line = Line::Open(lease);
                self.alone = LeaseView::EngineGone;
                self.pause = PAUSE_MIN;
                self.reconnects += 1;
                LeaseView::Held
            }
            Err(PinError::Refused {
                kind: RefusalKind::UnknownPin,
                message,
            }) => {
                tracing::error!(reason = %message, "the engine that started did not take the pin over");
                self.line = Line::Lost(LeaseView::PassedOver);
                LeaseView::PassedOver
            }
            Err(error) => {
                tracing::debug!(%error, "no engine to reclaim the pin from");
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.alone
            }
        }
    }

    /// Nothing is said of the token to the engine of another database.
    fn reclaim(&self) -> Result<ClientLease, PinError> {
        let client =
            PinClient::connect(&self.ours.dir.join(SOCKET_FILE), self.ours.holder.as_str())?;
        let welcome = client.welcome();
        let facts = &self.ours.facts;
        let ours = (facts.database_id, facts.history_id);
        if (welcome.database_id, welcome.history_id) != ours {
            return Err(PinError::Refused {
                kind: RefusalKind::UnknownPin,
                message: crate::pin::Sentence::cut("it is of another database or history"),
            });
        }
        let request = ReclaimRequest {
            database_id: facts.database_id,
            pin_id: facts.pin_id,
            token: facts.token,
            holder: self.ours.holder.clone(),
            mount_point: self.ours.mount_point.clone(),
        };
        client.reclaim(&request).map(|(_, lease)| lease)
    }
}

impl SourceLease for NativeLease {
    fn watch(&mut self, timeout: Duration, stop: Option<&StopSignal>) -> LeaseView {
        match &mut self.line {
            Line::Lost(view) => {
                rest(&*self.host.clock, timeout, stop);
                *view
            }
            Line::Open(lease) => match lease.wait_end_or(timeout, stop) {
                Ok(LeaseState::Held) => LeaseView::Held,
                Ok(LeaseState::Ended(reason)) => {
                    let view = LeaseView::Ended(reason);
                    self.line = Line::Lost(view);
                    view
                }
                Ok(LeaseState::EngineGone) | Err(_) => {
                    self.line = Line::Gone;
                    LeaseView::EngineGone
                }
            },
            Line::Gone => match rest(&*self.host.clock, self.pause.min(timeout), stop) {
                true => self.alone,
                false => self.reconnect(),
            },
        }
    }

    fn reconnects(&self) -> u64 {
        self.reconnects
    }

    fn release(mut self: Box<Self>) -> Result<(), SourceError> {
        if matches!(self.line, Line::Gone) && self.reconnect() == self.alone {
            // Nobody is there to do it. If an engine starts at this moment, it finds the index let go.
            let (pin, index) = (self.ours.facts.pin_id, self.view.index_identity());
            if let Err(error) =
                index.and_then(|index| clean_up_pin(&self.host, &self.ours.dir, pin, index))
            {
                tracing::info!(%error, "the next engine cleans up after the pin");
            }
            return Ok(());
        }
        let Line::Open(lease) = self.line else {
            return Ok(());
        };
        match lease.release() {
            // With the engine gone there is nobody left to tell.
            Err(PinError::Closed { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
