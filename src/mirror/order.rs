//! A mirrored request as a worker hands it over, and what becomes known of the primary path's answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::compare::pair::Outcome;
use crate::mirror::capture::{Capture, Kept};
use crate::mirror::plan::{MirrorPlan, RoutePlan};
use crate::mirror::stock::{Holding, Place, Stock};
use crate::vocab::Side;

/// A mirrored request. It shares nothing with the primary one; dropped, it is not mirrored.
pub struct Order {
    /// Its head, as the primary path gets it.
    pub head: Request<()>,
    /// Its body.
    pub body: Bytes,
    /// When it was sent to the primary path.
    pub at: Instant,
    /// The path that the client is answered by.
    pub primary_side: Side,
    /// What that says; gone if the request did not end there.
    pub primary: oneshot::Receiver<Told>,
    /// The limits that it is under, whatever a reload changes.
    pub plan: Arc<MirrorPlan>,
    /// Its route.
    pub route: Arc<RoutePlan>,
    /// Whether the breaker lets it through to see how the path is.
    pub is_probe: bool,
    /// Its place.
    pub place: Place,
    /// The account of its head and its body.
    pub holding: Holding,
}

/// What the primary path said.
#[derive(Debug)]
pub enum Told {
    /// It answered; its head came after so long.
    Reply(Box<Capture>, Duration),
    /// It did not.
    Failed(Outcome),
}

/// The primary path's answer, as a worker sees it pass. Dropped without an end, there is nothing to
/// compare with.
#[derive(Debug)]
pub struct Primary {
    teller: oneshot::Sender<Told>,
    at: Instant,
    stock: Arc<Stock>,
    plan: Arc<MirrorPlan>,
    capture: Option<(Box<Capture>, Duration)>,
}

// What is printed of it may end up in a log: no header, no target and no body.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, primary_side, route, is_probe, .. } = self;
        let mut shown = f.debug_struct("Order");
        shown.field("route", &route.name).field("primary_side", primary_side);
        shown.field("at", at).field("is_probe", is_probe).finish_non_exhaustive()
    }
}

impl Told {
    /// What it comes to, unless there was no memory for it, and how long its head took.
    #[must_use]
    pub fn finish(self) -> (Option<Kept>, Option<Duration>) {
        match self {
            Self::Reply(capture, took) => (capture.finish(), Some(took)),
            Self::Failed(outcome) => (Some(Kept::failed(outcome)), None),
        }
    }
}

impl Primary {
    /// The answer to a request that is sent at `at`.
    #[must_use]
    pub fn new(
        teller: oneshot::Sender<Told>,
        at: Instant,
        stock: Arc<Stock>,
        plan: Arc<MirrorPlan>,
    ) -> Self {
        Self { teller, at, stock, plan, capture: None }
    }

    /// Its head came.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let took = self.at.elapsed();
        let capture = Capture::new(status, headers, &self.stock, &self.plan);
        self.capture = capture.map(|capture| (Box::new(capture), took));
    }

    /// Some of its body passed.
    pub fn passed(&mut self, data: &[u8]) {
        if self.teller.is_closed() {
            // Nobody waits for it any more: it took too long.
            self.capture = None;
        } else if let Some((capture, _)) = &mut self.capture {
            capture.push(data);
        }
    }

    /// It is whole.
    pub fn ended(self) {
        if let Some((capture, took)) = self.capture {
            // Whoever gave up waiting frees it.
            let _ = self.teller.send(Told::Reply(capture, took));
        }
    }

    /// The path failed.
    pub fn failed(self, outcome: Outcome) {
        let _ = self.teller.send(Told::Failed(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::plan::tests::plan;

    fn primary() -> (Primary, oneshot::Receiver<Told>, Arc<Stock>) {
        let (teller, told) = oneshot::channel();
        let stock = Arc::<Stock>::default();
        (Primary::new(teller, Instant::now(), stock.clone(), plan(|_| {})), told, stock)
    }

    fn answered() -> (Primary, oneshot::Receiver<Told>, Arc<Stock>) {
        let (mut primary, told, stock) = primary();
        primary.answered(StatusCode::OK, &HeaderMap::new());
        primary.passed(b"some");
        assert!(stock.bytes() > 0);
        (primary, told, stock)
    }

    #[test]
    fn a_whole_answer_is_told_and_held_until_it_is_compared() {
        let (mut primary, mut told, stock) = answered();
        primary.passed(b"thing");
        primary.ended();
        let (kept, took) = told.try_recv().unwrap().finish();
        let kept = kept.unwrap();
        assert_eq!(kept.outcome.reply().unwrap().body.kept.as_deref(), Some(&b"something"[..]));
        assert!(took.is_some() && stock.bytes() > 0);
        drop(kept);
        assert_eq!(stock.bytes(), 0);
    }

    #[test]
    fn whichever_way_it_ends_what_was_kept_of_it_is_given_back() {
        // Its client left.
        let (primary, mut told, stock) = answered();
        drop(primary);
        assert!(told.try_recv().is_err());
        assert_eq!(stock.bytes(), 0);
        // The path failed in its midst.
        let (primary, mut told, stock) = answered();
        primary.failed(Outcome::Reset);
        assert!(matches!(told.try_recv(), Ok(Told::Failed(Outcome::Reset))));
        assert_eq!(stock.bytes(), 0);
        // Nobody waits for it any more: what goes on is not kept.
        let (mut primary, told, stock) = answered();
        drop(told);
        primary.passed(b"more");
        assert_eq!(stock.bytes(), 0);
        primary.ended();
    }
}
