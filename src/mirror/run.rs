//! The mirror's thread: it asks, compares, and counts. Nothing waits for it.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::compare::Comparison;
use crate::compare::kind::MirrorResult;
use crate::compare::pair::{Outcome, Pair};
use crate::ids::Ids;
use crate::metrics::mirror::MirrorMetrics;
use crate::mirror::ask::{Answered, Asker};
use crate::mirror::breaker::{Breaker, Cause};
use crate::mirror::capture::{Account, Kept};
use crate::mirror::hub::Hub;
use crate::mirror::lane::Lanes;
use crate::mirror::order::Order;
use crate::mirror::watch::Watch;
use crate::publisher::Publisher;
use crate::vocab::{PerSide, Side, Weight};
use crate::wire::joined::scratch;
use crate::wire::trace::X_REQUEST_ID;

/// How often connections are swept and breakers looked at.
const BEAT: Duration = Duration::from_secs(1);
/// How long after a mismatch both paths are asked again: what was being written meanwhile is there then.
const CONFIRM_AFTER: Duration = Duration::from_millis(250);
/// Confirmations are at least so far apart: each is two requests more.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// What the mirror's thread is made of.
#[derive(Debug)]
pub struct Setup {
    /// What it shares with the workers.
    pub hub: Arc<Hub>,
    /// What they hand over.
    pub orders: mpsc::Receiver<Order>,
    /// Where snapshots come from.
    pub publisher: Arc<Publisher>,
    /// What is known of the paths' answers.
    pub comparison: Arc<Comparison>,
    /// The seed of its draws.
    pub seed: u64,
}

/// Runs the mirror on this thread until `stop` comes or is gone. What is in flight then is dropped: no
/// client waits for it.
///
/// # Errors
/// When the runtime can't start.
pub fn run(setup: Setup, stop: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        tokio::select! {
            () = serve(setup) => {}
            _ = stop => {}
        }
    });
    // A line on its way to a slow disk is not waited for.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(setup: Setup) {
    let Setup { hub, mut orders, publisher, comparison, seed } = setup;
    let metrics = publisher.metrics().mirror.clone();
    let ids = Rc::new(Ids::new(seed));
    let lanes = Lanes::new(metrics.clone(), scratch());
    let mirror = Mirror {
        asker: Asker::new(lanes, metrics.clone(), ids.clone()),
        hub,
        publisher,
        comparison,
        metrics,
        ids,
        breakers: RefCell::default(),
        confirmed_at: Cell::new(None),
        watch: RefCell::default(),
        origin: Instant::now(),
    };
    // Each has a place of `in_flight`. They are no tasks of the runtime, as a worker that tells one of an
    // answer would have to take the runtime's lock then.
    let mut followed = FuturesUnordered::new();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(order) = orders.recv() => {
                // A panic ends one comparison, and is logged where it happens.
                followed.push(AssertUnwindSafe(mirror.follow(order)).catch_unwind());
            }
            Some(ended) = followed.next() => {
                if ended.is_err() {
                    tracing::error!("a comparison panicked");
                }
            }
            _ = beat.tick() => {
                mirror.beat();
            }
        }
    }
}

struct Mirror {
    asker: Asker,
    hub: Arc<Hub>,
    publisher: Arc<Publisher>,
    comparison: Arc<Comparison>,
    metrics: Arc<MirrorMetrics>,
    ids: Rc<Ids>,
    breakers: RefCell<PerSide<Breaker>>,
    confirmed_at: Cell<Option<Instant>>,
    watch: RefCell<Watch>,
    origin: Instant,
}

impl Mirror {
    /// Follows one mirrored request to its end.
    async fn follow(&self, mut order: Order) {
        let snapshot = self.publisher.current();
        let side = order.primary_side.other();
        let shadow = self.asker.ask(&order, side, &snapshot);
        let again = self.asks_twice(&order).then(|| {
            // At the moment of the shadow, so that what changes by itself shows.
            self.asker.ask(&order, order.primary_side, &snapshot)
        });
        let (shadow, again) = join(shadow, OptionFuture::from(again)).await;
        if let Answered::Unsent | Answered::GivenUp = shadow {
            // There is nothing to compare with, so what it takes is not kept any longer.
            return self.left_out(&order, &shadow);
        }
        let until = order.at + order.plan.config.deadline;
        let told = timeout_at(until, &mut order.primary).await;
        order.primary.close();
        let (primary, primary_took) = match told {
            Ok(Ok(told)) => told.finish(),
            // Its client left, or it takes too long.
            Ok(Err(_)) | Err(_) => (None, None),
        };
        self.note(side, &order, &shadow, primary_took);
        let (shadow, primary) = match (shadow, primary) {
            (Answered::Kept(shadow, _), Some(primary)) => (shadow, primary),
            (shadow, _) => return self.left_out(&order, &shadow),
        };
        let again = match again {
            Some(Answered::Kept(again, _)) => Some(again),
            Some(Answered::Unsent | Answered::GivenUp) | None => None,
        };
        self.compare(&order, (primary, shadow, again)).await;
    }

    /// Counts what was not compared.
    fn left_out(&self, order: &Order, shadow: &Answered) {
        match shadow {
            Answered::Unsent => self.metrics.dropped(&order.route.name),
            Answered::Kept(..) | Answered::GivenUp => {
                self.metrics.judged(&order.route.name, MirrorResult::Uncompared, &[]);
            }
        }
    }

    async fn compare(&self, order: &Order, (primary, shadow, again): (Kept, Kept, Option<Kept>)) {
        let (pair, _accounts) = pair(order, primary, shadow, again);
        let judged = self.comparison.take(&pair);
        let mut result = judged.result;
        if judged.confirm {
            match self.ask_again(order).await {
                Some([primary, shadow]) => {
                    result = self.comparison.confirm(&pair, &primary.outcome, &shadow.outcome);
                }
                None => self.comparison.not_confirmed(&pair),
            }
        }
        let kinds = if result == judged.result { &judged.kinds[..] } else { &[] };
        self.metrics.judged(&order.route.name, result, kinds);
    }

    /// What the primary path says now, and the other one; `None` where that can't be asked.
    async fn ask_again(&self, order: &Order) -> Option<[Kept; 2]> {
        if !Side::ALL.iter().all(|side| self.hub.is_closed(*side)) || !self.may_confirm() {
            return None;
        }
        sleep(CONFIRM_AFTER).await;
        let snapshot = self.publisher.current();
        let primary = self.asker.ask(order, order.primary_side, &snapshot);
        let shadow = self.asker.ask(order, order.primary_side.other(), &snapshot);
        match join(primary, shadow).await {
            (Answered::Kept(primary, _), Answered::Kept(shadow, _)) => Some([primary, shadow]),
            _ => None,
        }
    }

    /// What safe methods ask for can be asked for twice, of a path that gets shadows.
    fn asks_twice(&self, order: &Order) -> bool {
        let share = Weight::from_share(order.plan.config.noise_share).unwrap_or_default();
        let bucket = (self.ids.draw() >> 32) as u32;
        let is_open_to = self.hub.is_closed(order.primary_side);
        order.head.method().is_safe() && is_open_to && share.takes(bucket)
    }

    fn may_confirm(&self) -> bool {
        let now = Instant::now();
        let may = self.confirmed_at.get().is_none_or(|at| now - at >= CONFIRM_EVERY);
        if may {
            self.confirmed_at.set(Some(now));
        }
        may
    }

    /// Tells the breaker how the path was.
    fn note(&self, side: Side, order: &Order, shadow: &Answered, primary: Option<Duration>) {
        let now = self.origin.elapsed();
        let mut breakers = self.breakers.borrow_mut();
        let breaker = breakers.get_mut(side);
        let before = breaker.gate();
        let cause = match shadow {
            Answered::Kept(Kept { outcome: Outcome::Timeout | Outcome::Reset, .. }, _) => {
                breaker.failed(now, order.is_probe)
            }
            Answered::Kept(_, Some(took)) => {
                breaker.answered(now, order.is_probe, (*took, primary))
            }
            Answered::Kept(_, None) | Answered::Unsent | Answered::GivenUp => None,
        };
        match cause {
            Some(Cause::Failures) => {
                tracing::warn!(path = %side, "the mirror pauses: its requests fail");
            }
            Some(Cause::Slow { shadow, primary }) => {
                tracing::warn!(path = %side, ?shadow, ?primary, "the mirror pauses: it is slow");
            }
            None => {}
        }
        if breaker.gate() != before {
            self.hub.set_gate(side, breaker.gate());
        }
    }

    fn beat(&self) {
        self.asker.sweep(&self.publisher.current());
        let now = self.origin.elapsed();
        self.watch.borrow_mut().look(now, &self.publisher, &self.hub);
        for side in Side::ALL {
            let mut breakers = self.breakers.borrow_mut();
            let breaker = breakers.get_mut(side);
            if breaker.step(now) {
                self.hub.set_gate(side, breaker.gate());
            }
        }
    }
}

/// The pair, and what accounts for it.
fn pair(
    order: &Order,
    primary: Kept,
    shadow: Kept,
    again: Option<Kept>,
) -> (Pair, [Option<Account>; 3]) {
    let (again, asked_twice) = again.map(|kept| (kept.outcome, kept.account)).unzip();
    let id = order.head.headers().get(X_REQUEST_ID);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let pair = Pair {
        route: order.route.name.clone(),
        is_critical: order.route.config.critical,
        rules: order.route.rules.clone(),
        method: order.head.method().clone(),
        target: order.head.uri().to_string(),
        request_id: id.to_owned(),
        primary_side: order.primary_side,
        primary: primary.outcome,
        shadow: shadow.outcome,
        again,
    };
    (pair, [Some(primary.account), Some(shadow.account), asked_twice])
}
