//! Which requests may be sent again, and how many in all.
//!
//! Pure: time is an argument, in ticks. A retry must not turn a backend's bad minute into an overload
//! of its own making, so retries are bounded by a share of the requests that come in: each request of
//! the last ten seconds deposits its share of a retry, and each retry takes a whole one. A floor lets
//! a path with little traffic retry at all.

use std::cell::Cell;

use http::Method;

use crate::config::values::Methods;
use crate::error::{PathFault, ProxyError};

/// How far a request had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No byte of it can have reached the backend's application.
    NotSent,
    /// It may have been processed.
    MayBeProcessed,
}

/// Whether a request that failed so may be sent again. `methods` are those that may be although
/// they may have been processed (RFC 9110 section 9.2.2: of itself a proxy must not repeat others).
#[must_use]
pub fn may_retry(
    error: ProxyError,
    progress: Progress,
    method: &Method,
    methods: &Methods,
) -> bool {
    let fault = match error {
        ProxyError::Client(..) | ProxyError::Resources => return false,
        ProxyError::Path(fault) => fault,
    };
    match fault {
        PathFault::Connect | PathFault::ConnectTimeout | PathFault::Tls => true,
        PathFault::Reset | PathFault::Protocol | PathFault::ResponseTimeout => {
            progress == Progress::NotSent || methods.has(method)
        }
        // The reply has begun, or there is nowhere to go on this path.
        PathFault::BodyTimeout
        | PathFault::Shed
        | PathFault::QueueTimeout
        | PathFault::NoEndpoint => false,
    }
}

/// Whether the other path may answer a request that failed so on its own.
#[must_use]
pub fn may_fail_over(
    error: ProxyError,
    progress: Progress,
    method: &Method,
    methods: &Methods,
) -> bool {
    match error {
        ProxyError::Path(PathFault::Shed | PathFault::QueueTimeout | PathFault::NoEndpoint) => true,
        ProxyError::Path(
            PathFault::Connect
            | PathFault::ConnectTimeout
            | PathFault::Tls
            | PathFault::Reset
            | PathFault::Protocol
            | PathFault::ResponseTimeout
            | PathFault::BodyTimeout,
        )
        | ProxyError::Client(..)
        | ProxyError::Resources => may_retry(error, progress, method, methods),
    }
}

/// Over how many seconds requests deposit.
const WINDOW: usize = 10;
/// Ticks in a second.
const TICKS: u32 = 10;
/// Retries a second that one worker may always make.
const FLOOR: f64 = 3.0;

/// What one worker may spend on one path.
#[derive(Debug, Default)]
pub struct Budget {
    // Deposits less withdrawals of each second of the window.
    seconds: [Cell<f64>; WINDOW],
    second: Cell<u32>,
    total: Cell<f64>,
}

impl Budget {
    /// A request came; `share` of it may be spent on retries.
    pub fn deposit(&self, share: f64, now: u32) {
        self.add(share, now);
    }

    /// Takes one retry, if there is one left.
    pub fn withdraw(&self, now: u32) -> bool {
        self.advance(now);
        #[expect(clippy::cast_precision_loss, reason = "ten")]
        let floor = FLOOR * WINDOW as f64;
        if self.total.get() + floor < 1.0 {
            return false;
        }
        self.add(-1.0, now);
        true
    }

    fn add(&self, amount: f64, now: u32) {
        self.advance(now);
        let cell = &self.seconds[self.second.get() as usize % WINDOW];
        cell.set(cell.get() + amount);
        self.total.set(self.total.get() + amount);
    }

    /// Forgets what is older than the window.
    fn advance(&self, now: u32) {
        let second = now / TICKS;
        let passed = second.saturating_sub(self.second.get());
        if passed == 0 {
            return;
        }
        for gone in 0..passed.min(WINDOW as u32) {
            let cell = &self.seconds[(second - gone) as usize % WINDOW];
            cell.set(0.0);
        }
        self.second.set(second);
        // Summed anew, so that rounding does not add up over days.
        self.total.set(self.seconds.iter().map(Cell::get).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ClientFault;

    #[test]
    fn only_what_is_safe_is_sent_again() {
        use PathFault::{
            BodyTimeout, Connect, ConnectTimeout, NoEndpoint, Protocol, QueueTimeout, Reset,
            ResponseTimeout, Shed,
        };
        use Progress::{MayBeProcessed, NotSent};
        let methods = Methods::default();
        let (get, post) = (Method::GET, Method::POST);
        for (fault, progress, method, retry, fail_over) in [
            (Connect, NotSent, &post, true, true),
            (ConnectTimeout, NotSent, &post, true, true),
            (Reset, NotSent, &post, true, true),
            (Reset, MayBeProcessed, &post, false, false),
            (Reset, MayBeProcessed, &get, true, true),
            (Protocol, MayBeProcessed, &post, false, false),
            (ResponseTimeout, MayBeProcessed, &get, true, true),
            (ResponseTimeout, MayBeProcessed, &post, false, false),
            (BodyTimeout, MayBeProcessed, &get, false, false),
            (Shed, NotSent, &post, false, true),
            (QueueTimeout, NotSent, &post, false, true),
            (NoEndpoint, NotSent, &post, false, true),
        ] {
            let error = ProxyError::Path(fault);
            let found = (
                may_retry(error, progress, method, &methods),
                may_fail_over(error, progress, method, &methods),
            );
            assert_eq!(found, (retry, fail_over), "{fault:?} {progress:?} {method}");
        }
        for error in [ProxyError::Client(ClientFault::BodyCut, ""), ProxyError::Resources] {
            assert!(!may_retry(error, NotSent, &get, &methods));
            assert!(!may_fail_over(error, NotSent, &get, &methods));
        }
    }

    /// How many retries are left at `now`.
    fn left(budget: &Budget, now: u32) -> usize {
        (0..100_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_requests_above_a_floor() {
        let budget = Budget::default();
        assert_eq!(left(&budget, 0), 30, "the floor of ten seconds");
        assert_eq!(left(&budget, 0), 0);
        let budget = Budget::default();
        (0..1_000).for_each(|_| budget.deposit(0.25, 0));
        assert_eq!(left(&budget, 0), 280);
    }

    #[test]
    fn what_is_older_than_ten_seconds_is_forgotten() {
        let budget = Budget::default();
        (0..400).for_each(|_| budget.deposit(0.25, 5));
        assert_eq!(left(&budget, 99), 130, "9.9 s later");
        let budget = Budget::default();
        (0..400).for_each(|_| budget.deposit(0.25, 5));
        assert_eq!(left(&budget, 100), 30, "10 s later");
        // Spent is spent, for as long as a deposit counts.
        assert_eq!(left(&budget, 199), 0);
        assert_eq!(left(&budget, 200), 30);
        assert_eq!(left(&budget, u32::MAX), 30);
    }
}
