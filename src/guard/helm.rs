//! What bounds the weight beside the file: the position on the ramp, and the latch of a rollback.
//!
//! Pure. `effective = min(configured, position, latch)`: the file says where the operator wants to be,
//! the position how far evidence has carried, and a latch that nothing goes to the async path until a
//! person releases it by its id. Up goes step by step, down at once. Both survive a restart, so this
//! is written to `state_dir`, with the change that made it: a log that lacks it can be mended.

use serde::{Deserialize, Serialize};

use crate::record::Change;
use crate::vocab::Weight;

/// The ramp as configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Way {
    /// Steps, ascending; `None`: there is no ramp, the weight goes to the configured one at once.
    pub steps: Option<Vec<Weight>>,
    /// Steps that wait for an approval.
    pub approve: Vec<Weight>,
    /// The largest configured weight of any route: the ramp goes no further.
    pub goal: Weight,
    /// Whether the first step waits too: for what the comparison of answers says.
    pub is_gated: bool,
}

/// What bounds the weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Helm {
    /// The number of the last change; each has the next one.
    pub seq: u64,
    /// How far evidence has carried, where there is a ramp.
    pub position: Option<f64>,
    /// Whether the ramp stands still by order.
    pub is_paused: bool,
    /// The step that was approved.
    pub approved: Option<f64>,
    /// The rollback in force.
    pub latch: Option<Latch>,
    /// The change that made this.
    pub change: Option<Change>,
}

/// A rollback in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latch {
    /// By which it is released: `rb-20261124-021733`.
    pub id: String,
    /// The check that failed, or `operator`.
    pub check: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Why an order can't be carried out: the operator's mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no `[ramp]`.
    #[error("there is no [ramp] in the config")]
    NoRamp,
    /// Nothing is rolled back.
    #[error("no rollback is in force")]
    NotLatched,
    /// The rollback in force has another id.
    #[error("the rollback in force is {0}")]
    WrongId(String),
    /// A rollback is in force already.
    #[error("rolled back already: {0}")]
    Latched(String),
    /// The ramp waits for no approval.
    #[error("the next step needs no approval")]
    NothingToApprove,
    /// The ramp is paused, or waits for an approval.
    #[error("the ramp is paused, or waits for an approval")]
    Waits,
    /// The ramp is where it should be.
    #[error("the ramp is at its end")]
    AtGoal,
}

impl Helm {
    /// The bound: no route's weight goes beyond it.
    #[must_use]
    pub fn ceiling(&self) -> Weight {
        match (&self.latch, self.position) {
            (Some(_), _) => Weight::ZERO,
            (None, Some(position)) => Weight::from_share(position).unwrap_or(Weight::ZERO),
            (None, None) => Weight::ONE,
        }
    }

    /// Fits itself to a config: `present` is the largest weight in effect, where a ramp that is new
    /// begins; `acknowledged` is the id of a rollback that the file releases.
    pub fn adopt(&mut self, way: &Way, present: Weight, acknowledged: &str) {
        if self.latch.as_ref().is_some_and(|latch| latch.id == acknowledged) {
            self.release(way);
        }
        self.position = way.steps.as_ref().map(|steps| {
            let first = steps.first().copied().unwrap_or(Weight::ONE).min(way.goal);
            let position = self.position.map_or(present, share).min(way.goal);
            let waits = way.is_gated && position == Weight::ZERO;
            if waits { 0.0 } else { position.max(first).share() }
        });
        self.is_paused &= way.steps.is_some();
        // An approval is for one step, not for whichever comes next.
        self.approved = self.approved.filter(|step| self.next(way) == Some(share(*step)));
    }

    /// The next step, if there is one.
    #[must_use]
    pub fn next(&self, way: &Way) -> Option<Weight> {
        let position = share(self.position?);
        let step = way.steps.iter().flatten().copied().find(|step| *step > position)?;
        let next = step.min(way.goal);
        (next > position && self.latch.is_none()).then_some(next)
    }

    /// The step at which the ramp waits for an approval, if it does.
    #[must_use]
    pub fn awaits_approval(&self, way: &Way) -> Option<Weight> {
        let next = self.next(way)?;
        let step = way.approve.iter().find(|step| step.min(&&way.goal) == &&next);
        step.filter(|_| self.approved.map(share) != Some(next)).map(|_| next)
    }

    /// Goes on to the next step.
    ///
    /// # Errors
    /// When there is none.
    pub fn advance(&mut self, way: &Way) -> Result<Weight, OrderError> {
        let next = self.next(way).ok_or_else(|| self.why_not(way))?;
        if self.is_paused || self.awaits_approval(way).is_some() {
            return Err(OrderError::Waits);
        }
        self.position = Some(next.share());
        self.approved = None;
        Ok(next)
    }

    /// Lets the next step, which needs it, be taken.
    ///
    /// # Errors
    /// When the ramp waits for no approval.
    pub fn approve(&mut self, way: &Way) -> Result<Weight, OrderError> {
        let next = self.next(way).ok_or_else(|| self.why_not(way))?;
        let next = self.awaits_approval(way).filter(|step| *step == next);
        let next = next.ok_or(OrderError::NothingToApprove)?;
        self.approved = Some(next.share());
        Ok(next)
    }

    /// Stands still, or goes on.
    ///
    /// # Errors
    /// When there is no ramp.
    pub fn pause(&mut self, is_paused: bool) -> Result<(), OrderError> {
        self.position.ok_or(OrderError::NoRamp)?;
        self.is_paused = is_paused;
        Ok(())
    }

    /// Rolls back. The ramp will begin anew.
    ///
    /// # Errors
    /// When a rollback is in force already: its id stays.
    pub fn roll_back(&mut self, latch: Latch, way: &Way) -> Result<(), OrderError> {
        if let Some(latch) = &self.latch {
            return Err(OrderError::Latched(latch.id.clone()));
        }
        self.restart(way);
        self.latch = Some(latch);
        Ok(())
    }

    /// Releases the rollback `id`.
    ///
    /// # Errors
    /// When another one is in force, or none.
    pub fn resume(&mut self, id: &str, way: &Way) -> Result<(), OrderError> {
        match &self.latch {
            None => Err(OrderError::NotLatched),
            Some(latch) if latch.id != id => Err(OrderError::WrongId(latch.id.clone())),
            Some(_) => {
                self.release(way);
                Ok(())
            }
        }
    }

    fn release(&mut self, way: &Way) {
        self.latch = None;
        self.restart(way);
    }

    fn restart(&mut self, way: &Way) {
        self.approved = None;
        if self.position.is_some() {
            let first = way.steps.iter().flatten().next().copied().unwrap_or(Weight::ONE);
            self.position = Some(if way.is_gated { 0.0 } else { first.min(way.goal).share() });
        }
    }

    fn why_not(&self, way: &Way) -> OrderError {
        match (&self.latch, &way.steps) {
            (Some(latch), _) => OrderError::Latched(latch.id.clone()),
            (None, None) => OrderError::NoRamp,
            (None, Some(_)) => OrderError::AtGoal,
        }
    }
}

fn share(share: f64) -> Weight {
    Weight::from_share(share).unwrap_or(Weight::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(share: f64) -> Weight {
        Weight::from_share(share).unwrap()
    }

    fn way(steps: &[f64], goal: f64) -> Way {
        let steps = steps.iter().copied().map(weight).collect();
        Way { steps: Some(steps), goal: weight(goal), ..Way::default() }
    }

    fn latch(id: &str) -> Latch {
        Latch { id: id.to_owned(), check: "error_rate".to_owned(), at: String::new() }
    }

    fn at(position: f64, way: &Way) -> Helm {
        let mut helm = Helm { position: Some(position), ..Helm::default() };
        helm.adopt(way, Weight::ZERO, "");
        helm
    }

    #[test]
    fn without_a_ramp_the_file_alone_decides() {
        let mut helm = Helm::default();
        let way = Way { goal: Weight::ONE, ..Way::default() };
        helm.adopt(&way, weight(0.3), "");
        assert_eq!(helm.ceiling(), Weight::ONE);
        assert_eq!(helm.next(&way), None);
        assert_eq!(helm.advance(&way), Err(OrderError::NoRamp));
        assert_eq!(helm.pause(true), Err(OrderError::NoRamp));
    }

    #[test]
    fn up_goes_step_by_step_and_down_at_once() {
        let steps = [0.1, 0.5, 1.0];
        let mut helm = Helm::default();
        // What is in effect as the ramp appears, the goal, and where that leaves it.
        helm.adopt(&way(&steps, 1.0), Weight::ZERO, "");
        for (goal, ceiling, next) in [
            (1.0, 0.1, Some(0.5)),
            (0.0, 0.0, None),
            (1.0, 0.1, Some(0.5)),
            (0.05, 0.05, None),
            (0.3, 0.1, Some(0.3)),
        ] {
            helm.adopt(&way(&steps, goal), Weight::ZERO, "");
            assert_eq!(helm.ceiling(), weight(ceiling), "goal {goal}");
            assert_eq!(helm.next(&way(&steps, goal)), next.map(weight), "goal {goal}");
        }
        assert_eq!(helm.advance(&way(&steps, 0.3)), Ok(weight(0.3)));
        assert_eq!(helm.advance(&way(&steps, 0.3)), Err(OrderError::AtGoal));
        // What is above the old goal has no evidence yet.
        helm.adopt(&way(&steps, 1.0), Weight::ZERO, "");
        assert_eq!(helm.ceiling(), weight(0.3));
        assert_eq!(helm.next(&way(&steps, 1.0)), Some(weight(0.5)));
    }

    #[test]
    fn a_ramp_that_is_new_begins_where_the_weight_is() {
        let way = way(&[0.1, 0.5, 1.0], 1.0);
        for (present, ceiling) in [(0.0, 0.1), (0.3, 0.3), (1.0, 1.0)] {
            let mut helm = Helm::default();
            helm.adopt(&way, weight(present), "");
            assert_eq!(helm.ceiling(), weight(ceiling), "{present}");
        }
    }

    #[test]
    fn a_gated_ramp_begins_below_its_first_step_and_no_lower_than_it_stands() {
        let gated = Way { is_gated: true, ..way(&[0.1, 0.5], 1.0) };
        for (position, present, ceiling, next) in [
            (None, 0.0, 0.0, Some(0.1)),
            (None, 0.3, 0.3, Some(0.5)),
            (Some(0.0), 0.0, 0.0, Some(0.1)),
            (Some(0.05), 0.05, 0.1, Some(0.5)),
            (Some(0.5), 0.5, 0.5, None),
        ] {
            let mut helm = Helm { position, ..Helm::default() };
            helm.adopt(&gated, weight(present), "");
            assert_eq!(helm.ceiling(), weight(ceiling), "{position:?} {present}");
            assert_eq!(helm.next(&gated), next.map(weight), "{position:?} {present}");
        }
        let mut helm = at(0.5, &gated);
        helm.roll_back(latch("rb-1"), &gated).unwrap();
        helm.resume("rb-1", &gated).unwrap();
        assert_eq!(helm.ceiling(), Weight::ZERO, "it is compared anew");
        assert_eq!(helm.advance(&gated), Ok(weight(0.1)));
        let mut helm = Helm { position: Some(0.0), ..Helm::default() };
        helm.adopt(&way(&[0.1, 0.5], 1.0), Weight::ZERO, "");
        assert_eq!(helm.ceiling(), weight(0.1), "without a mirror nothing is waited for");
    }

    #[test]
    fn a_rollback_holds_through_any_file_until_its_id_is_named() {
        let way = way(&[0.1, 0.5, 1.0], 1.0);
        let mut helm = at(0.5, &way);
        helm.roll_back(latch("rb-1"), &way).unwrap();
        let again = helm.roll_back(latch("rb-2"), &way);
        assert_eq!(again, Err(OrderError::Latched("rb-1".to_owned())));
        for acknowledged in ["", "rb-0", "rb-11"] {
            helm.adopt(&way, Weight::ONE, acknowledged);
            assert_eq!(helm.ceiling(), Weight::ZERO, "{acknowledged}");
        }
        assert_eq!(helm.advance(&way), Err(OrderError::Latched("rb-1".to_owned())));
        assert_eq!(helm.resume("rb-2", &way), Err(OrderError::WrongId("rb-1".to_owned())));
        helm.resume("rb-1", &way).unwrap();
        assert_eq!(helm.ceiling(), weight(0.1), "it begins anew");
        assert_eq!(helm.resume("rb-1", &way), Err(OrderError::NotLatched));
    }

    #[test]
    fn a_file_releases_the_rollback_that_it_names_and_no_later_one() {
        let way = way(&[0.1, 1.0], 1.0);
        let mut helm = at(1.0, &way);
        helm.roll_back(latch("rb-1"), &way).unwrap();
        helm.adopt(&way, Weight::ZERO, "rb-1");
        assert_eq!(helm.ceiling(), weight(0.1));
        helm.roll_back(latch("rb-2"), &way).unwrap();
        helm.adopt(&way, Weight::ZERO, "rb-1");
        assert_eq!(helm.ceiling(), Weight::ZERO);
    }

    #[test]
    fn a_step_that_needs_an_approval_waits_for_it_once() {
        let mut way = way(&[0.1, 0.5, 1.0], 1.0);
        way.approve = vec![weight(0.5)];
        let mut helm = at(0.1, &way);
        assert_eq!(helm.awaits_approval(&way), Some(weight(0.5)));
        assert_eq!(helm.approve(&way), Ok(weight(0.5)));
        assert_eq!(helm.awaits_approval(&way), None);
        assert_eq!(helm.approve(&way), Err(OrderError::NothingToApprove));
        helm.advance(&way).unwrap();
        assert_eq!(helm.awaits_approval(&way), None);
        // A goal below the step is reached in its place.
        let low = Way { goal: weight(0.3), ..way };
        let helm = at(0.1, &low);
        assert_eq!(helm.awaits_approval(&low), Some(weight(0.3)));
    }
}
