//! What the guard and operators order, carried out and told of, from one code path.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Config;
use crate::guard::decision::{self, Decision, Kind};
use crate::guard::desk::{DECISIONS_MAX, Guard, IDS_MAX, OUTBOX_MAX};
use crate::guard::helm::{Helm, Latch, OrderError, Way};
use crate::guard::verdict::Finding;
use crate::publisher::{Order, SteerError};
use crate::record::{Change, now};
use crate::route::Target;
use crate::vocab::Weight;

impl Guard {
    /// Rolls back, by what a check found or by an operator's order.
    ///
    /// # Errors
    /// When a rollback is in force already.
    pub fn roll_back(&self, finding: Option<Finding>, who: &str) -> Result<Decision, SteerError> {
        let (id, time) = self.name(Kind::Rollback);
        let check = finding.as_ref().map_or("operator", |finding| finding.check.name());
        let latch = Latch { id: id.clone(), check: check.to_owned(), at: time.clone() };
        let draft = self.draft(Kind::Rollback, (id, time), who, finding);
        let decision =
            self.steer(&draft, &[], |helm, way| helm.roll_back(latch, way).map(|()| Weight::ZERO))?;
        self.live().was_latched = true;
        self.publisher.metrics().guard.rolled_back(check);
        Ok(decision)
    }

    /// Releases the rollback `id`.
    ///
    /// # Errors
    /// When another one is in force, or none.
    pub fn resume(&self, id: &str) -> Result<Decision, SteerError> {
        let draft = self.draft(Kind::Resume, self.name(Kind::Resume), "operator", None);
        let remark = format!("released: {id}");
        self.steer(&draft, &[remark], |helm, way| {
            helm.resume(id, way).map(|()| helm.ceiling().min(way.goal))
        })
    }

    /// Lets the ramp stand still, or go on.
    ///
    /// # Errors
    /// When there is no ramp.
    pub fn pause(&self, is_paused: bool) -> Result<Decision, SteerError> {
        let kind = if is_paused { Kind::Pause } else { Kind::Continue };
        let draft = self.draft(kind, self.name(kind), "operator", None);
        self.steer(&draft, &[], |helm, way| {
            helm.pause(is_paused).map(|()| helm.ceiling().min(way.goal))
        })
    }

    /// Lets the next step be taken, which waits for that.
    ///
    /// # Errors
    /// When it does not.
    pub fn approve(&self) -> Result<Decision, SteerError> {
        let draft = self.draft(Kind::Approve, self.name(Kind::Approve), "operator", None);
        self.steer(&draft, &[], |helm, way| helm.approve(way).map(|_| helm.ceiling().min(way.goal)))
    }

    pub(super) fn advance(&self) -> Result<Decision, SteerError> {
        let draft = self.draft(Kind::Advance, self.name(Kind::Advance), "guard", None);
        self.steer(&draft, &[], Helm::advance)
    }

    /// Tells of something that moves nothing.
    pub(super) fn tell(&self, kind: Kind, finding: Option<Finding>, remarks: &[String]) {
        let who = "guard";
        let draft = self.draft(kind, self.name(kind), who, finding);
        let (to, since) = (draft.from, self.since_finding(draft.finding.as_ref()));
        let decision = draft.worded(&since, remarks);
        let change = self.publisher.change(kind.word(), &to.to_string(), &to.to_string());
        let numbers = serde_json::to_value(&decision).unwrap_or_default();
        self.publisher.ledger().note(&Change { who: Some(who.to_owned()), numbers, ..change });
        self.publish(decision);
    }

    fn draft(
        &self,
        kind: Kind,
        (id, time): (String, String),
        who: &str,
        finding: Option<Finding>,
    ) -> Decision {
        let snapshot = self.publisher.current();
        let from = snapshot.rules.largest(Target::effective).rounded();
        let mut decision = Decision::new(kind, id, time, who, (from, from));
        let live = self.live();
        decision.detectable = live.judge.detectable(&live.rules);
        decision.stalls = live.stalls.words(&snapshot);
        decision.finding = finding.map(|finding| with_patterns(finding, &snapshot.config));
        decision
    }

    fn name(&self, kind: Kind) -> (String, String) {
        let time = now();
        let mut live = self.live();
        let is_known = |id: &str| {
            let is_given = live.ids.iter().any(|given| given == id);
            is_given || live.decisions.iter().any(|decision| decision.id == id)
        };
        let id = decision::id(kind, &time, is_known);
        live.ids.push_back(id.clone());
        if live.ids.len() > IDS_MAX {
            live.ids.pop_front();
        }
        (id, time)
    }

    /// Carries a decision out, then tells of it.
    fn steer(
        &self,
        draft: &Decision,
        remarks: &[String],
        change: impl FnOnce(&mut Helm, &Way) -> Result<Weight, OrderError>,
    ) -> Result<Decision, SteerError> {
        let since = self.since_finding(draft.finding.as_ref());
        let to = RefCell::new(draft.from);
        let made = RefCell::new(None);
        let numbers = |took: Option<Duration>| {
            let draft = Decision { to: *to.borrow(), ..draft.clone() };
            let decision = draft.in_force_after(took).worded(&since, remarks);
            let value = serde_json::to_value(&decision).unwrap_or_default();
            *made.borrow_mut() = Some(decision);
            value
        };
        let is_urgent = draft.kind == Kind::Rollback && draft.finding.is_some();
        let (what, who) = (draft.kind.word(), draft.who.as_str());
        let order = Order { what, who, is_urgent, numbers: &numbers };
        self.publisher.steer(&order, |helm, way| {
            change(helm, way).map(|weight| *to.borrow_mut() = weight.rounded())
        })?;
        let decision = made.borrow_mut().take().unwrap_or_else(|| draft.clone());
        self.publish(decision.clone());
        Ok(decision)
    }

    /// The wall-clock time at which a finding's evidence began.
    fn since_finding(&self, finding: Option<&Finding>) -> String {
        let ago = finding.map_or(0, |finding| finding.at_ms.saturating_sub(finding.since_ms));
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_millis(ago.cast_signed());
        let text = since.to_string();
        text.get(11..19).unwrap_or(&text).to_owned()
    }

    fn publish(&self, decision: Decision) {
        match decision.kind {
            Kind::Rollback | Kind::NoSafePath | Kind::WouldRollBack => {
                tracing::error!(id = decision.id, text = decision.text, "decision");
            }
            Kind::Advance
            | Kind::Overdue
            | Kind::Resume
            | Kind::Pause
            | Kind::Continue
            | Kind::Approve
            | Kind::Drain
            | Kind::Baseline => tracing::info!(id = decision.id, text = decision.text, "decision"),
        }
        if self.publisher.current().config.webhook().is_some() {
            self.undelivered.fetch_add(1, Ordering::Relaxed);
            if self.outbox.try_send(decision.clone()).is_err() {
                self.undelivered.fetch_sub(1, Ordering::Relaxed);
                self.publisher.metrics().guard.webhook(false);
                tracing::error!("the webhook is {OUTBOX_MAX} events behind; this one is dropped");
            }
        }
        let mut live = self.live();
        live.decisions.push_back(decision);
        if live.decisions.len() > DECISIONS_MAX {
            live.decisions.pop_front();
        }
    }
}

/// Routes as an operator knows them: by method and template.
fn with_patterns(mut finding: Finding, config: &Config) -> Finding {
    for (name, _) in &mut finding.routes {
        if let Some(route) = config.routes.iter().find(|route| route.name == *name) {
            *name = route.pattern.to_string();
        }
    }
    finding
}
