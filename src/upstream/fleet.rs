//! The endpoints of one path with their standing, shared by all workers and the control plane.
//!
//! The only place that changes a standing, and it tells each change once, with from, to and why.
//! Workers compare one number to learn that something changed. Nothing here is locked on a request's
//! way, but where the request failed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::histogram::nanos;
use crate::upstream::balance::Roster;
use crate::upstream::eject::EjectRules;
use crate::upstream::endpoint::{Endpoint, Member};
use crate::upstream::standing::Health;
use crate::vocab::Side;

/// The endpoints of one path.
#[derive(Debug)]
pub struct Fleet {
    side: Side,
    origin: Instant,
    changes: AtomicU64,
    is_panic: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    members: Arc<[Member]>,
    rules: Option<FleetRules>,
}

/// What a config says of a path's endpoints together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FleetRules {
    /// When endpoints are ejected.
    pub eject: EjectRules,
    /// The share that must be left, or all are used.
    pub panic_below: f64,
    /// How long one that comes back or appears takes to its full weight.
    pub slow_start: Duration,
    /// Whether endpoints are probed.
    pub is_probed: bool,
}

impl Fleet {
    /// A path without endpoints.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self {
            side,
            origin: Instant::now(),
            changes: AtomicU64::new(0),
            is_panic: AtomicBool::new(false),
            state: Mutex::new(State { members: Arc::new([]), rules: None }),
        }
    }

    /// The time as the fleet counts it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// `at` as the fleet counts it, in nanoseconds.
    #[must_use]
    pub fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.origin))
    }

    /// A number that is another one after each change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether a request would find an endpoint that is well: where endpoints are probed, one whose
    /// probes pass.
    #[must_use]
    pub fn is_sound(&self, is_probed: bool) -> bool {
        let is_sound = |endpoint: &Endpoint| {
            endpoint.is_up() && (!is_probed || endpoint.health() == Health::Up)
        };
        self.members().iter().any(|member| is_sound(&member.endpoint))
    }

    /// Whether too few endpoints are left, so that all are used.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.is_panic.load(Ordering::Relaxed)
    }

    /// The endpoints in force.
    #[must_use]
    pub fn members(&self) -> Arc<[Member]> {
        self.lock().members.clone()
    }

    /// The endpoint called `label` at `addresses`: the known one with its standing, or a new one.
    #[must_use]
    pub fn endpoint(
        &self,
        label: &str,
        addresses: &[SocketAddr],
        authority: &str,
        is_tls: bool,
    ) -> Arc<Endpoint> {
        let members = self.members();
        let known = members.iter().map(|member| &member.endpoint).find(|known| {
            (known.label == label && known.addresses == addresses)
                && (known.authority == authority && known.is_tls == is_tls)
        });
        known.cloned().unwrap_or_else(|| {
            let (label, authority) = (label.to_owned(), authority.to_owned());
            Arc::new(Endpoint::new(label, addresses.to_vec(), authority, is_tls))
        })
    }

    /// Puts endpoints in force. One that appears beside others starts slowly, but for those of the
    /// process's own start.
    pub fn set(&self, members: Arc<[Member]>, rules: FleetRules, is_start: bool) {
        let now = self.now();
        let mut state = self.lock();
        let old = std::mem::replace(&mut state.members, members);
        let has = |members: &[Member], wanted: &Arc<Endpoint>| {
            members.iter().any(|member| Arc::ptr_eq(&member.endpoint, wanted))
        };
        for Member { endpoint, .. } in state.members.iter() {
            if !rules.is_probed {
                endpoint.set_health(Health::Unchecked);
            }
            if !has(&old, endpoint) {
                if !old.is_empty() && !is_start {
                    endpoint.start_slowly(now);
                }
                tracing::info!(path = %self.side, endpoint = endpoint.label, "endpoint added");
            }
        }
        for Member { endpoint, .. } in old.iter().filter(|old| !has(&state.members, &old.endpoint))
        {
            tracing::info!(path = %self.side, endpoint = endpoint.label, "endpoint removed");
        }
        state.rules = Some(rules);
        self.changed(&state);
    }

    /// A request to `endpoint` failed.
    pub fn failed(&self, endpoint: &Endpoint) {
        let failures = endpoint.failed();
        let now = self.now();
        let state = self.lock();
        let Some(FleetRules { eject, .. }) = &state.rules else {
            return;
        };
        let is_due = eject.consecutive_failures != 0 && failures >= eject.consecutive_failures;
        if !is_due || endpoint.is_ejected() {
            return;
        }
        let out = state.members.iter().filter(|member| member.endpoint.is_ejected()).count();
        if !eject.allow(out, state.members.len()) {
            return;
        }
        let mut ejection = endpoint.ejection.lock().unwrap_or_else(PoisonError::into_inner);
        let span = ejection.begin(now, eject);
        endpoint.set_ejected(true);
        endpoint.counts.ejections.fetch_add(1, Ordering::Relaxed);
        let (path, endpoint) = (self.side, &endpoint.label);
        tracing::warn!(%path, endpoint, from = "in", to = "ejected", failures, ?span, "endpoint");
        self.changed(&state);
    }

    /// The probes of `endpoint` have come to another result.
    pub fn checked(&self, endpoint: &Endpoint, health: Health, why: &str) {
        let state = self.lock();
        let before = endpoint.health();
        // A probe that was under way when probing ended has nothing to say any more.
        if before == health || !state.rules.is_some_and(|rules| rules.is_probed) {
            return;
        }
        endpoint.set_health(health);
        if before == Health::Down {
            endpoint.start_slowly(self.now());
        }
        let (path, endpoint) = (self.side, &endpoint.label);
        let (from, to) = (before.name(), health.name());
        match health {
            Health::Down => tracing::warn!(%path, endpoint, from, to, why, "endpoint"),
            Health::Up | Health::Unchecked => tracing::info!(%path, endpoint, from, to, "endpoint"),
        }
        self.changed(&state);
    }

    /// Takes those back whose ejection has ended. To be called a few times a second.
    pub fn take_back(&self) {
        let now = self.now();
        let state = self.lock();
        let mut changed = false;
        for Member { endpoint, .. } in state.members.iter().filter(|m| m.endpoint.is_ejected()) {
            let ejection = endpoint.ejection.lock().unwrap_or_else(PoisonError::into_inner);
            if ejection.until <= now {
                endpoint.set_ejected(false);
                endpoint.start_slowly(now);
                let (path, endpoint) = (self.side, &endpoint.label);
                tracing::info!(%path, endpoint, from = "ejected", to = "in", "endpoint");
                changed = true;
            }
        }
        if changed {
            self.changed(&state);
        }
    }

    /// Whether any endpoint may take requests, as far as anyone knows.
    #[must_use]
    pub fn has_any_up(&self) -> bool {
        self.lock().members.iter().any(|member| member.endpoint.is_up())
    }

    fn changed(&self, state: &State) {
        let Some(rules) = &state.rules else {
            return;
        };
        let now = self.now();
        let candidates: Vec<_> =
            state.members.iter().map(|member| member.candidate(now, rules.slow_start).0).collect();
        let is_panic = Roster::new(&candidates, rules.panic_below, &Roster::default()).is_panic();
        if self.is_panic.swap(is_panic, Ordering::Relaxed) != is_panic {
            let path = self.side;
            // In a panic all endpoints are used, whatever is known of them.
            tracing::warn!(%path, from = !is_panic, to = is_panic, "panic");
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
