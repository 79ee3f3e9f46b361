//! One path as one worker sees it: its endpoints, whose turn it is, and what may be spent on retries.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::ids::Ids;
use crate::tick::Ticks;
use crate::upstream::balance::Roster;
use crate::upstream::endpoint::Member;
use crate::upstream::fleet::{Fleet, FleetRules};
use crate::upstream::gate::Gate;
use crate::upstream::plan::Plan;
use crate::upstream::pool::Pool;
pub use crate::upstream::pool::Supplies;
use crate::upstream::retry::Budget;
use crate::upstream::standing::Tried;
use crate::upstream::visit::Visit;
use crate::vocab::{Routed, Side};

/// One path as one worker sees it.
#[derive(Debug)]
pub struct Path {
    /// Which one.
    pub side: Side,
    /// Its limits.
    pub plan: Arc<Plan>,
    /// What may be spent on retries.
    pub retries: Rc<Budget>,
    /// What may be spent on failing over from it.
    pub failovers: Rc<Budget>,
    /// Its gate, shared with all workers.
    pub gate: Arc<Gate>,
    fleet: Arc<Fleet>,
    // One for each member of the plan, in its order.
    pools: Vec<Rc<Pool>>,
    roster: RefCell<Roster>,
    roster_of: Cell<RosterOf>,
    /// Its worker's clock.
    pub ticks: Rc<Ticks>,
    ids: Rc<Ids>,
}

/// What a roster was made of.
#[derive(Clone, Copy, Debug, Default)]
struct RosterOf {
    changes: u64,
    tick: u32,
    // Time alone changes it: an endpoint is starting slowly.
    is_warming: bool,
}

impl Path {
    /// The path under a new plan; pools of `old` that still fit go on.
    #[must_use]
    pub fn new(
        side: Side,
        plan: Arc<Plan>,
        (gate, fleet): (Arc<Gate>, Arc<Fleet>),
        old: Option<&Self>,
        supplies: &Supplies,
    ) -> Rc<Self> {
        let old_pools = old.map_or(&[][..], |old| &old.pools);
        let pools = plan.members.iter().map(|Member { endpoint, .. }| {
            if let Some(pool) = old_pools.iter().find(|pool| pool.fits(endpoint, &plan)) {
                pool.adopt(&plan);
                return pool.clone();
            }
            Pool::new(endpoint.clone(), &plan, (side, fleet.clone()), supplies)
        });
        let pools: Vec<_> = pools.collect();
        for gone in old_pools.iter().filter(|old| !pools.iter().any(|new| Rc::ptr_eq(old, new))) {
            gone.retire();
        }
        let path = Self {
            side,
            plan,
            failovers: old.map_or_else(Rc::default, |old| old.failovers.clone()),
            gate,
            fleet,
            pools,
            roster: RefCell::default(),
            roster_of: Cell::default(),
            retries: old.map_or_else(Rc::default, |old| old.retries.clone()),
            ticks: supplies.ticks.clone(),
            ids: supplies.ids.clone(),
        };
        path.make_roster();
        Rc::new(path)
    }

    /// Its pools, for their sweep.
    #[must_use]
    pub fn pools(&self) -> &[Rc<Pool>] {
        &self.pools
    }

    /// An endpoint that the request has not been to, and its place.
    #[must_use]
    pub fn pick(&self, tried: &Tried, routed: Routed) -> Option<(usize, Visit)> {
        if self.pools.len() == 1 {
            // Nothing to choose: no need to know what the other workers send there.
            return tried.is_empty().then(|| (0, Visit::new(&self.pools[0], routed, false)));
        }
        self.renew_roster();
        let load = |index: usize| self.pools[index].endpoint.load();
        let draw = self.ids.draw();
        let index = self.roster.borrow_mut().pick(self.plan.balance, draw, tried, load)?;
        Some((index, Visit::new(&self.pools[index], routed, true)))
    }

    /// Whether a request that failed has another endpoint to go to.
    #[must_use]
    pub fn has_other(&self, tried: &Tried) -> bool {
        // That very failure may have ejected the last one of a priority.
        self.renew_roster();
        self.pools.len() > 1 && self.roster.borrow().has_other(tried)
    }

    fn renew_roster(&self) {
        let RosterOf { changes, tick, is_warming } = self.roster_of.get();
        if changes != self.fleet.changes() || (is_warming && tick != self.ticks.now()) {
            self.make_roster();
        }
    }

    fn make_roster(&self) {
        let (changes, tick) = (self.fleet.changes(), self.ticks.now());
        let FleetRules { panic_below, slow_start, .. } = self.plan.fleet;
        let now = self.fleet.now();
        let candidates = self.plan.members.iter().map(|member| member.candidate(now, slow_start));
        let (candidates, warming): (Vec<_>, Vec<_>) = candidates.unzip();
        let mut roster = self.roster.borrow_mut();
        *roster = Roster::new(&candidates, panic_below, &roster);
        let is_warming = warming.contains(&true);
        self.roster_of.set(RosterOf { changes, tick, is_warming });
    }
}
