//! Drains of one path at work: their orders, their certificates, and whether these still hold.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::durable;
use crate::guard::retire::{Certificate, Flow, Left, Retirement, Stage, Void};
use crate::metrics::Metrics;
use crate::record::now;
use crate::vocab::{PerSide, Side};

/// The largest certificate file, in bytes.
const CERTIFICATE_MAX: u64 = 64 << 10;
/// The states of a certificate in metrics.
const STATES: [&str; 3] = ["none", "valid", "void"];

/// What is known of the drains of both paths.
#[derive(Debug, Default)]
pub struct PathDrains(pub(super) PerSide<PathDrain>);

#[derive(Debug, Default)]
pub(super) struct PathDrain {
    pub(super) running: Option<Running>,
    // How the last one stands, or ended.
    pub(super) stage: Option<Stage>,
    pub(super) certificate: Option<Certificate>,
    // What the path had had when the certificate was issued, on the counters of this process.
    pub(super) certified: Option<Flow>,
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) retirement: Retirement,
    pub(super) began_at: String,
    pub(super) cut_before: (u64, u64),
    // Whether what is left at the timeout is cut off.
    pub(super) is_forced: bool,
}

/// Why a path can't be drained: the config can still route to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("requests can still go to {path}: {why}")]
pub struct Reachable {
    /// The path.
    pub path: Side,
    /// How.
    pub why: String,
}

impl PathDrains {
    /// The certificates in the state directory. One that can't be read is as good as none.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        Self(PerSide::from_fn(|side| {
            let read = durable::read(&dir.join(Certificate::file(side)), CERTIFICATE_MAX);
            let text = read.inspect_err(|error| tracing::error!(%error, %side, "certificate"));
            let certificate = text.ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
            PathDrain { certificate, certified: Some(Flow::default()), ..PathDrain::default() }
        }))
    }

    /// Whether a path is drained, or about to be: nothing may go back to it.
    #[must_use]
    pub fn is_retired(&self, side: Side) -> bool {
        let drain = self.0.get(side);
        let is_certified = drain.certificate.as_ref().is_some_and(Certificate::is_valid);
        drain.running.is_some() || is_certified
    }

    /// The certificate of a path.
    #[must_use]
    pub fn certificate(&self, side: Side) -> Option<&Certificate> {
        self.0.get(side).certificate.as_ref()
    }

    /// What the admin API says of it.
    #[must_use]
    pub fn status(&self, side: Side) -> Value {
        let PathDrain { running, stage, certificate, .. } = self.0.get(side);
        json!({ "running": running.is_some(), "stage": stage, "certificate": certificate })
    }

    /// Shows the certificates in the metrics.
    pub fn show(&self, metrics: &Metrics) {
        for (side, drain) in self.0.iter() {
            let state = match &drain.certificate {
                None => STATES[0],
                Some(certificate) if certificate.is_valid() => STATES[1],
                Some(_) => STATES[2],
            };
            metrics.guard.certificate(side, &STATES, state);
        }
    }
}

impl PathDrain {
    /// The certificate, if a request came after it: it is void from now on.
    pub(super) fn void(&mut self, flow: Flow) -> Option<Certificate> {
        let certificate = self.certificate.as_mut().filter(|certificate| certificate.is_valid())?;
        let requests = flow.started.saturating_sub(self.certified?.started);
        if requests == 0 {
            return None;
        }
        certificate.void = Some(Void { at: now(), requests });
        Some(certificate.clone())
    }

    /// Goes on; how it ended, if it did. Until that is told, it still counts as running.
    pub(super) fn step(
        &mut self,
        now: Duration,
        (left, flow): (Left, Flow),
        is_reachable: bool,
    ) -> Option<Stage> {
        let running = self.running.as_mut()?;
        let stage =
            if is_reachable { Stage::CalledOff } else { running.retirement.step(now, left, flow) };
        self.stage = Some(stage);
        match stage {
            Stage::Waiting { .. } | Stage::Quiet { .. } => None,
            Stage::Done { .. } | Stage::CalledOff | Stage::TimedOut { .. } => Some(stage),
        }
    }
}
