//! Orders of the guard and of operators about what bounds the weight.

use std::collections::HashMap;
use std::fmt;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::guard::helm::{Helm, OrderError, Way};
use crate::handover::Return;
use crate::publisher::Publisher;
use crate::publisher::way::{reach, way};
use crate::record::Change;
use crate::route::pace::Pace;
use crate::snapshot::State;
use crate::vocab::{Side, Weight};

/// An order about what bounds the weight.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// What it is called in the change log.
    pub what: &'a str,
    /// Who gives it.
    pub who: &'a str,
    /// Whether it is in force at once even where returns are paced: a check has failed.
    pub is_urgent: bool,
    /// The numbers of that moment, given how long it took to be in force, where that was measured.
    pub numbers: &'a dyn Fn(Option<Duration>) -> serde_json::Value,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// It makes no sense now: the operator's mistake.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// It can't be kept in `state_dir`, so a restart would undo it.
    #[error("can't write to state_dir")]
    Disk,
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, who, .. } = self;
        f.debug_struct("Order").field("what", what).field("who", who).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Whether any share is on its way back.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.current().is_moving
    }

    /// The paced returns that are under way.
    #[must_use]
    pub fn returns(&self) -> Vec<Return> {
        let (state, now) = (self.lock(), self.origin.elapsed());
        let paces = state.paces.iter().filter_map(|(route, pace)| {
            let (from, to) = (pace.at(now)?.share(), pace.to.share());
            let seconds = (pace.began + pace.span).saturating_sub(now).as_secs_f64();
            Some(Return { route: route.clone(), from, to, seconds })
        });
        paces.collect()
    }

    /// Goes on with the paced returns of the process before. One whose end is elsewhere now is there at once.
    pub fn go_on(&self, returns: &[Return]) {
        let (mut state, began) = (self.lock(), self.origin.elapsed());
        let snapshot = self.current();
        let paces = returns.iter().filter_map(|way| {
            let (from, to) = (Weight::from_share(way.from)?, Weight::from_share(way.to)?);
            let span = Duration::try_from_secs_f64(way.seconds).ok()?;
            let target = snapshot.rules.targets().find(|target| target.name == way.route)?;
            let pace = Pace { from, to, began, span };
            (target.allowed == to).then(|| (way.route.clone(), pace))
        });
        state.paces.extend(paces);
        if !state.paces.is_empty() {
            self.republish(&state, &snapshot, true);
        }
    }

    /// Whether a path is drained, or about to be.
    #[must_use]
    pub fn is_retired(&self, side: Side) -> bool {
        *self.current().retired.get(side)
    }

    /// Lets a path keep no connections any more, or keep them again.
    pub fn retire(&self, side: Side, is_retired: bool) {
        let mut state = self.lock();
        *state.retired.get_mut(side) = is_retired;
        self.republish(&state, &self.current(), false);
    }

    /// Lets reloads wait for as long as this is held.
    pub fn hold_reloads(&self) -> MutexGuard<'_, ()> {
        self.reloading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends the measuring that a baseline needs; either begins an epoch.
    pub fn measure(&self, is_measuring: bool) {
        let mut state = self.lock();
        state.is_measuring = is_measuring;
        state.epoch += 1;
        self.republish(&state, &self.current(), false);
    }

    /// Writes what could not be written before. To be called a few times a second.
    pub fn save(&self) {
        let Ok(mut state) = self.state.try_lock() else {
            return;
        };
        if state.is_unsaved {
            state.is_unsaved = !self.ledger.keep(&state.helm);
        }
    }

    /// Carries out an order about what bounds the weight. What lowers it is in force first and on disk
    /// then, all else the other way round; either way it is on disk before anyone is told.
    ///
    /// # Errors
    /// When the order makes no sense now, or can't be kept; then nothing has changed.
    pub fn steer<T>(
        &self,
        order: &Order<'_>,
        change: impl FnOnce(&mut Helm, &Way) -> Result<T, OrderError>,
    ) -> Result<T, SteerError> {
        let mut state = self.lock();
        let old = self.current();
        let mut next = state.clone();
        let value = change(&mut next.helm, &way(&old.config))?;
        let (from, to) = (reach(&old, &state.helm), reach(&old, &next.helm));
        next.helm.seq += 1;
        // Evidence starts anew with what is compared, not with each word of an operator.
        let is_bound_same = next.helm.ceiling() == state.helm.ceiling();
        next.epoch += u64::from(!is_bound_same);
        next.paces = match order.is_urgent {
            true => HashMap::new(),
            false => self.paces(&old, &old.config, &next),
        };
        let mut noted = self.change(order.what, &from, &to);
        (noted.who, noted.seq) = (Some(order.who.to_owned()), Some(next.helm.seq));
        let keep = |next: &mut State, noted: &Change| {
            next.helm.change = Some(noted.clone());
            self.ledger.keep(&next.helm)
        };
        if next.helm.ceiling() >= state.helm.ceiling() {
            noted.numbers = (order.numbers)(None);
            if !keep(&mut next, &noted) {
                return Err(SteerError::Disk);
            }
            next.is_unsaved = false;
            self.republish(&next, &old, false);
        } else {
            let began = Instant::now();
            self.republish(&next, &old, false);
            noted.numbers = (order.numbers)(Some(began.elapsed()));
            // A full disk is no reason to stay on a failing path; it is tried again with each beat.
            next.is_unsaved = !keep(&mut next, &noted);
        }
        *state = next;
        // Under the lock: the log has the changes in the order of their numbers, or a restart could not
        // tell which one it lacks.
        self.ledger.note(&noted);
        drop(state);
        self.note_weights(&old, &self.current());
        Ok(value)
    }
}
