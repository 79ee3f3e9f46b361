//! Watches whether being mirrored makes clients wait, switches the mirror off if it does, and says so.
//!
//! It stays off until `[mirror]` is another one, or until a restart: it is for a person to say what is to
//! be different.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::compare::view::SwitchedOff;
use crate::config::MirrorConfig;
use crate::guard::loglinear::Tally;
use crate::metrics::Metrics;
use crate::metrics::shard::{Latencies, Shard};
use crate::mirror::harm::{Arms, Harm, Seen};
use crate::mirror::hub::Hub;
use crate::publisher::Publisher;
use crate::record::{Change, now};

/// What is watched.
#[derive(Debug, Default)]
pub struct Watch {
    harm: Harm,
    // By what it was switched off.
    harmful: Option<MirrorConfig>,
}

impl Watch {
    /// Looks at what workers counted up to `at`, which no clock takes back.
    pub fn look(&mut self, at: Duration, publisher: &Arc<Publisher>, hub: &Hub) {
        let snapshot = publisher.current();
        let limits = &snapshot.config.mirror;
        if let Some(harmful) = &self.harmful {
            if harmful != limits {
                *self = Self::default();
                switch(publisher, hub, None);
            }
            return;
        }
        let counted = counted(publisher.metrics());
        if let Some(seen) = self.harm.step(at, (limits.share, limits.deadline), counted) {
            self.harmful = Some(limits.clone());
            let Seen { evidence, drawn: slow_drawn, plain: slow_plain } = seen;
            let off = SwitchedOff { since: now(), evidence, slow_drawn, slow_plain };
            switch(publisher, hub, Some(off));
        }
    }
}

fn counted(metrics: &Metrics) -> Arms<Tally> {
    let tally = |cells: fn(&Shard) -> &Latencies| {
        Tally::from_fn(|bucket| metrics.sum(|shard| cells(shard).bucket(bucket)))
    };
    Arms { drawn: tally(|shard| &shard.drawn.drawn), plain: tally(|shard| &shard.drawn.plain) }
}

/// Switches the mirror off, or on again, and tells the log, the change log and the status.
fn switch(publisher: &Arc<Publisher>, hub: &Hub, off: Option<SwitchedOff>) {
    hub.set_off(off.is_some());
    publisher.metrics().mirror.set_off(off.clone());
    let (from, to) = match &off {
        Some(SwitchedOff { evidence, slow_drawn, slow_plain, .. }) => {
            tracing::error!(
                evidence,
                slow_drawn,
                slow_plain,
                "the mirror is switched off: requests that it copies take longer"
            );
            ("on", "off")
        }
        None => {
            tracing::info!("the mirror is on again: its config has changed");
            ("off", "on")
        }
    };
    let numbers = off.and_then(|off| serde_json::to_value(off).ok()).unwrap_or(Value::Null);
    let who = Some("mirror".to_owned());
    let change = Change { who, numbers, ..publisher.change("mirror", from, to) };
    let publisher = publisher.clone();
    // The disk may be slow, and shadows are not to wait for it.
    spawn_blocking(move || publisher.ledger().note(&change));
}
