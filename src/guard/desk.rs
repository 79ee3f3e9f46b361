//! The guard at work: what it knows, and what it does with it, four times a second.
//!
//! It may block on a disk, so it beats on a thread of its own and never under the runtime's. The lock
//! is held while something is looked at or noted, never while something is written.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::compare::Comparison;
use crate::compare::kind::Standing;
use crate::config::GuardMode;
use crate::guard::baseline::Baseline;
use crate::guard::counts::{Pending, Rules, Tick};
use crate::guard::decision::{Decision, Kind};
use crate::guard::helm::Helm;
use crate::guard::history::History;
use crate::guard::judge::State as Judge;
use crate::guard::path_drain::PathDrains;
use crate::guard::policy::{rules, set_thresholds, show_baseline};
use crate::guard::process::Reading;
use crate::guard::recording::Recording;
use crate::guard::sampler::Sampler;
use crate::guard::stalls::Stalls;
use crate::guard::verdict::{Finding, Verdict};
use crate::metrics::Metrics;
use crate::publisher::{Publisher, way};
use crate::record::ChangeLog;
use crate::route::Target;
use crate::snapshot::Snapshot;
use crate::vocab::{PerSide, Side};

/// Decisions that are kept at hand; the change log has them all.
pub(super) const DECISIONS_MAX: usize = 100;
/// Ids given last, of which more than one may be of the same second.
pub(super) const IDS_MAX: usize = 1_024;
/// Ticks that are kept, for whoever records them: five minutes.
const TICKS_MAX: usize = 1_200;
/// Decisions that wait for the webhook.
pub(super) const OUTBOX_MAX: usize = 64;

/// The guard.
#[derive(Debug)]
pub struct Guard {
    pub(super) publisher: Arc<Publisher>,
    comparison: Arc<Comparison>,
    origin: Instant,
    live: Mutex<Live>,
    // Held while the baseline's file is written, so that it and the one that is judged by are the same.
    pub(super) baseline_file: Mutex<()>,
    pub(super) outbox: mpsc::Sender<Decision>,
    inbox: Mutex<Option<mpsc::Receiver<Decision>>>,
    // Decisions that the webhook has not taken yet.
    pub(super) undelivered: AtomicUsize,
    // See `duty`.
    pub(super) is_relieved: RwLock<bool>,
}

/// What the guard knows.
#[derive(Debug, Default)]
pub struct Live {
    /// The judge.
    pub judge: Judge,
    /// What it judges by.
    pub rules: Rules,
    /// What it said last.
    pub verdict: Option<Verdict>,
    /// What it was told, oldest first.
    pub ticks: VecDeque<Tick>,
    /// What was decided, oldest first.
    pub decisions: VecDeque<Decision>,
    /// What was normal.
    pub baseline: Option<Baseline>,
    /// The recording that runs.
    pub recording: Option<Recording>,
    /// Why the last recording came to nothing.
    pub recording_failed: Option<String>,
    /// Who blocks an event loop.
    pub stalls: Stalls,
    /// Drains of one path, and what came of them.
    pub drains: PathDrains,
    /// The migration so far.
    pub history: History,
    /// What the backends take.
    pub usage: PerSide<Option<Reading>>,
    pub(super) ids: VecDeque<String>,
    pub(super) sampler: Sampler,
    ruled_by: String,
    told: (u64, Vec<Kind>),
    // Whether a rollback was in force; once it is released, what was mended is compared anew.
    pub(super) was_latched: bool,
    // The last epoch whose step had all the evidence that it needs.
    done: u64,
}

/// What follows from a tick.
enum Action {
    Nothing,
    RollBack(Box<Finding>),
    Tell(Kind, Option<Box<Finding>>),
    Advance,
}

impl Guard {
    /// A guard that goes on from what lies in the state directory.
    ///
    /// # Errors
    /// When the baseline there can't be read: without it the guard would judge otherwise than before.
    pub fn new(
        publisher: Arc<Publisher>,
        comparison: Arc<Comparison>,
    ) -> anyhow::Result<Arc<Self>> {
        let dir = publisher.ledger().dir().to_owned();
        let baseline = match Baseline::load(&dir) {
            Ok(baseline) => baseline,
            Err(error) => anyhow::bail!("{error}"),
        };
        let known = ChangeLog::tail(&dir).into_iter();
        let known = known.filter_map(|change| serde_json::from_value(change.numbers).ok());
        let mut decisions: VecDeque<Decision> = known.collect();
        decisions.drain(..decisions.len().saturating_sub(DECISIONS_MAX));
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        let live = Live {
            baseline,
            decisions,
            drains: PathDrains::load(&dir),
            history: History::load(&dir),
            ..Live::default()
        };
        for side in Side::ALL.into_iter().filter(|side| live.drains.is_retired(*side)) {
            publisher.retire(side, true);
        }
        Ok(Arc::new(Self {
            publisher,
            comparison,
            origin: Instant::now(),
            live: Mutex::new(live),
            baseline_file: Mutex::new(()),
            outbox,
            inbox: Mutex::new(Some(inbox)),
            undelivered: AtomicUsize::new(0),
            is_relieved: RwLock::new(false),
        }))
    }

    /// The decisions for the webhook; once.
    pub(super) fn take_inbox(&self) -> Option<mpsc::Receiver<Decision>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What the guard knows now. Not to be held while anything is written or waited for.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guard's clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The publisher, whose snapshots it watches.
    #[must_use]
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    // === The beat ===

    /// Looks once, and acts. Blocks while something is written.
    pub fn beat(&self) {
        let Some(_at_work) = self.work() else {
            return;
        };
        let snapshot = self.publisher.current();
        let helm = self.publisher.helm();
        let action = self.look(&snapshot, &helm);
        match action {
            Action::Nothing => {}
            Action::RollBack(finding) => {
                if let Err(error) = self.roll_back(Some(*finding), "guard") {
                    tracing::error!(%error, "can't roll back");
                }
            }
            Action::Tell(kind, finding) => self.tell(kind, finding.map(|finding| *finding), &[]),
            Action::Advance => {
                if let Err(error) = self.advance() {
                    tracing::error!(%error, "can't advance");
                }
            }
        }
        self.publisher.save();
        // What was decided is in force by now.
        let snapshot = self.publisher.current();
        self.finish_recording(&snapshot);
        self.step_drains(&snapshot);
        self.keep_history();
    }

    fn look(&self, snapshot: &Snapshot, helm: &Helm) -> Action {
        let metrics = self.publisher.metrics();
        let now = self.now();
        let pending = self.pending(snapshot, helm);
        let mut live = self.live();
        let live = &mut *live;
        if live.ruled_by != snapshot.config.hash {
            live.ruled_by.clone_from(&snapshot.config.hash);
            live.rules = rules(&snapshot.config, live.baseline.as_ref());
            set_thresholds(metrics, &snapshot.config, live.baseline.as_ref());
            show_baseline(metrics, live.baseline.as_ref());
        }
        if live.told.0 != snapshot.epoch {
            live.told = (snapshot.epoch, Vec::new());
        }
        if std::mem::replace(&mut live.was_latched, helm.latch.is_some()) && helm.latch.is_none() {
            self.comparison.reset();
        }
        let sample = live.sampler.sample(snapshot, metrics, self.publisher.is_moving());
        live.stalls.look(now, snapshot, metrics);
        live.history.add(now, &sample, snapshot.rules.largest(Target::effective).rounded());
        if let Some(recording) = &mut live.recording
            && !recording.tick(&sample, snapshot.epoch)
        {
            live.recording = None;
            let why = "the weight, the routes or the rules changed meanwhile";
            live.recording_failed = Some(why.to_owned());
        }
        let tick = Tick {
            at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            epoch: snapshot.epoch,
            step: snapshot.rules.largest(Target::effective).rounded(),
            groups: sample.groups,
            routes: sample.routes,
            load: sample.load,
            rss: PerSide::from_fn(|side| {
                live.usage.get(side).as_ref().map(|reading| reading.rss_bytes)
            }),
            legacy_safe: self.is_legacy_safe(snapshot) && !live.drains.is_retired(Side::Legacy),
            pending,
            mirror: self.standing(snapshot),
        };
        let action = match snapshot.config.guard.mode {
            GuardMode::Off => {
                live.verdict = None;
                Action::Nothing
            }
            GuardMode::Observe | GuardMode::Enforce => judge(live, &tick, snapshot, helm),
        };
        show(live, metrics, &tick, helm);
        live.ticks.push_back(tick);
        if live.ticks.len() > TICKS_MAX {
            live.ticks.pop_front();
        }
        action
    }

    fn pending(&self, snapshot: &Snapshot, helm: &Helm) -> Vec<Pending> {
        let is_awaited = helm.awaits_approval(&way(&snapshot.config)).is_some();
        let is_undelivered = self.undelivered.load(Ordering::Relaxed) > 0;
        let pending = [
            (is_awaited, Pending::Approval),
            (is_undelivered, Pending::Webhook),
            (helm.is_paused, Pending::Paused),
        ];
        pending.into_iter().filter(|(is, _)| *is).map(|(_, pending)| pending).collect()
    }

    /// What the comparison of answers says, where they are compared.
    fn standing(&self, snapshot: &Snapshot) -> Option<Standing> {
        (snapshot.config.mirror.share > 0.0).then(|| self.comparison.gate(&[]).standing())
    }

    /// Whether requests may go back, as far as probes say.
    fn is_legacy_safe(&self, snapshot: &Snapshot) -> bool {
        let is_probed = snapshot.config.paths.legacy.health.is_some();
        self.publisher.metrics().fleet(Side::Legacy).is_sound(is_probed)
    }
}

/// What follows from a tick.
fn judge(live: &mut Live, tick: &Tick, snapshot: &Snapshot, helm: &Helm) -> Action {
    let verdict = live.judge.step(tick, &live.rules);
    let is_enforced = snapshot.config.guard.mode == GuardMode::Enforce;
    let has_next = helm.next(&way(&snapshot.config)).is_some();
    // Where nothing is routed to async there is nothing to go back from.
    let is_idle = tick.step <= 0.0 || helm.latch.is_some();
    // There the comparison decides whether the ramp begins.
    let is_at_gate = tick.mirror.is_some() && helm.latch.is_none();
    let action = match &verdict {
        Verdict::Rollback(_) | Verdict::NoSafePath(_) if is_idle => Action::Nothing,
        Verdict::Advance if is_idle && !is_at_gate => Action::Nothing,
        Verdict::Rollback(finding) if is_enforced => Action::RollBack(Box::new(finding.clone())),
        Verdict::Rollback(finding) => {
            live.once(Kind::WouldRollBack, || Some(Box::new(finding.clone())))
        }
        Verdict::NoSafePath(finding) => {
            live.once(Kind::NoSafePath, || Some(Box::new(finding.clone())))
        }
        Verdict::Advance if has_next => Action::Advance,
        Verdict::Wait { overdue: true, .. } if has_next && !is_idle => {
            live.once(Kind::Overdue, || None)
        }
        Verdict::Advance | Verdict::Hold { .. } | Verdict::Wait { .. } => Action::Nothing,
    };
    if verdict == Verdict::Advance {
        live.done = tick.epoch;
    }
    live.verdict = Some(verdict);
    action
}

/// Shows it in the metrics.
fn show(live: &Live, metrics: &Metrics, tick: &Tick, helm: &Helm) {
    let guard = &metrics.guard;
    for (check, test, nats) in live.judge.evidence() {
        guard.evidence(check.name(), test.name(), nats);
    }
    let state = live.verdict.as_ref().map_or("", Verdict::name);
    guard.verdict(&Verdict::NAMES, state, live.rules.fail_at);
    guard.latched(helm.latch.is_some());
    for counts in tick.routes.values() {
        for (side, counts) in counts.iter() {
            guard.slow(side, counts.slow95, counts.slow99);
        }
    }
    live.drains.show(metrics);
}

impl Live {
    /// Whether the step of `epoch` had all the evidence that it needs, once. A path that is drained then
    /// is no reason to take that back.
    #[must_use]
    pub fn is_step_done(&self, epoch: u64) -> bool {
        self.done == epoch
    }

    /// Whether the last verdict is of `epoch`.
    #[must_use]
    pub fn is_judged(&self, epoch: u64) -> bool {
        self.ticks.back().is_some_and(|tick| tick.epoch == epoch)
    }

    /// Judges by this baseline from now on.
    pub(super) fn take_baseline(&mut self, baseline: Baseline) {
        self.baseline = Some(baseline);
        self.ruled_by.clear();
    }

    /// Tells of this kind once in an epoch.
    fn once(&mut self, kind: Kind, finding: impl FnOnce() -> Option<Box<Finding>>) -> Action {
        if self.told.1.contains(&kind) {
            return Action::Nothing;
        }
        self.told.1.push(kind);
        Action::Tell(kind, finding())
    }
}
