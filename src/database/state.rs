//! What the parts of an open database share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::database::SHADOW_DIR;
use crate::database::error::DatabaseError;
use crate::database::sink::ShadowSink;
use crate::engine::{Engine, EngineOptions};
use crate::id::PinId;
use crate::os::{FileIdentity, Host};
use crate::pin::{Name, WirePath};
use crate::shadow::Shadow;

/// What is known of a pin beside its state, for `status`.
#[derive(Clone, Debug)]
pub(super) struct PinNote {
    pub(super) holder: Name,
    pub(super) mount_point: WirePath,
    pub(super) peer_process_id: i32,
    pub(super) taken: Duration,
    pub(super) max_age: Duration,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) shadow: Arc<Shadow>,
    pub(super) live: FileIdentity,
    pub(super) opened: Duration,
    pub(super) notes: Mutex<HashMap<PinId, PinNote>>,
}

impl State {
    pub(super) fn open(
        host: &Host,
        dir: &Path,
        options: &EngineOptions,
    ) -> Result<Arc<Self>, DatabaseError> {
        let mut opened: Option<(Arc<Shadow>, FileIdentity)> = None;
        let mut prepare = |facts: &crate::engine::OpenFacts| {
            // D5: pins of earlier incarnations end here.
            let dir = dir.join(SHADOW_DIR);
            let shadow = Arc::new(Shadow::open(host.disk.clone(), &dir, facts.page_size)?);
            opened = Some((shadow.clone(), facts.live));
            let sink: Arc<dyn crate::engine::PreImageSink> = Arc::new(ShadowSink(shadow));
            Ok(sink)
        };
        let engine = Engine::open(host, dir, options, Some(&mut prepare))?;
        let (shadow, live) = opened.expect("an engine that opened has prepared its sink");
        Ok(Arc::new(Self {
            engine,
            shadow,
            live,
            opened: host.clock.monotonic(),
            notes: Mutex::default(),
        }))
    }
}
