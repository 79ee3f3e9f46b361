//! When an endpoint to which requests fail is left out, and for how long.
//!
//! Pure: time is an argument, as the span since an origin. Each time out is twice as long as the one
//! before, up to a limit, and time spent well is forgiven at the same pace, so that an endpoint that
//! is broken for good costs few requests, and one that had a bad minute is soon back.

use std::time::Duration;

/// When and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectRules {
    /// Failures in a row; 0 never ejects.
    pub consecutive_failures: u32,
    /// For how long the first time.
    pub first: Duration,
    /// For how long at the most.
    pub longest: Duration,
    /// The share of a path's endpoints that may be out at once, 0 to 1.
    pub share_max: f64,
}

impl EjectRules {
    /// Whether one more of `all` endpoints may be out, of which `out` are.
    #[must_use]
    pub fn allow(&self, out: usize, all: usize) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a path has few endpoints")]
        let (out, all) = ((out + 1) as f64, all as f64);
        out <= self.share_max * all
    }
}

/// An endpoint's times out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    // How many in short succession.
    times: u32,
    /// When the last one ends, or has ended.
    pub until: Duration,
}

impl Ejection {
    /// Out from `now`; for how long.
    pub fn begin(&mut self, now: Duration, rules: &EjectRules) -> Duration {
        let quiet = now.saturating_sub(self.until).as_secs_f64();
        let forgiven = quiet / rules.first.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let forgiven = forgiven as u32;
        self.times = self.times.saturating_sub(forgiven).saturating_add(1);
        let doubled = 2_u32.saturating_pow(self.times - 1);
        let span = rules.first.saturating_mul(doubled).min(rules.longest);
        self.until = now + span;
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: EjectRules = EjectRules {
        consecutive_failures: 5,
        first: Duration::from_secs(10),
        longest: Duration::from_secs(60),
        share_max: 0.5,
    };

    #[test]
    fn each_time_is_longer_up_to_a_limit() {
        let mut ejection = Ejection::default();
        let mut now = Duration::from_secs(1_000);
        let spans = [10, 20, 40, 60, 60].map(Duration::from_secs);
        for span in spans {
            assert_eq!(ejection.begin(now, &RULES), span);
            now += span;
        }
    }

    #[test]
    fn good_conduct_is_forgiven() {
        for (quiet, then) in [(0, 40), (9, 40), (10, 20), (20, 10), (1_000_000, 10)] {
            let mut ejection = Ejection { times: 2, until: Duration::from_secs(100) };
            let now = Duration::from_secs(100 + quiet);
            let span = ejection.begin(now, &RULES);
            assert_eq!(span, Duration::from_secs(then), "after {quiet} s");
        }
    }

    #[test]
    fn never_more_than_the_share_is_out() {
        for (out, all, allowed) in
            [(0, 1, false), (0, 2, true), (1, 2, false), (0, 3, true), (1, 3, false), (1, 4, true)]
        {
            assert_eq!(RULES.allow(out, all), allowed, "{out} of {all} out");
        }
        let all_may = EjectRules { share_max: 1.0, ..RULES };
        assert!(all_may.allow(0, 1) && all_may.allow(3, 4));
        let none_may = EjectRules { share_max: 0.0, ..RULES };
        assert!(!none_may.allow(0, 100));
    }
}
