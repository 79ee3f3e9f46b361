//! What the rules and the recorded baseline allow of each kind of outcome.
//!
//! Pure, and said here once: for the tests, for advances, and for the findings that cite it.

use crate::guard::counts::{Counts, DivergenceMode, Event, Rules};
use crate::guard::evidence::{CONTROL_ALLOWED, Limits, Rate, Z_95, float};
use crate::guard::verdict::NormRate;

// The thresholds are the baseline's quantiles, with tolerance: not more than this may be slower.
const SLOW95_ALLOWED: f64 = 0.05;
const SLOW99_ALLOWED: f64 = 0.01;

// === impl Event ===

impl Event {
    /// How many of `counts` are such, among all.
    #[must_use]
    pub fn rate(self, counts: &Counts) -> Rate {
        Rate { events: self.of(counts), n: counts.n }
    }
}

// === impl Rules ===

impl Rules {
    /// How many times legacy's rate is allowed in test A.
    #[must_use]
    pub fn ratio_allowed(&self, event: Event) -> f64 {
        match event {
            Event::ClientError => 1.0 + self.client_error_tolerance,
            Event::Error | Event::Timeout | Event::Failure | Event::Slow95 | Event::Slow99 => {
                match self.divergence_mode {
                    DivergenceMode::Relative => 1.0 + self.tolerance,
                    DivergenceMode::Absolute => CONTROL_ALLOWED,
                }
            }
        }
    }

    /// The rate that is allowed in test B; `None` where the baseline has none.
    #[must_use]
    pub fn norm_allowed(&self, event: Event) -> Option<f64> {
        if !self.baseline.as_ref()?.slow && event.is_slow() {
            return None;
        }
        match event {
            Event::Slow95 => Some(SLOW95_ALLOWED),
            Event::Slow99 => Some(SLOW99_ALLOWED),
            Event::Error | Event::Timeout | Event::Failure | Event::ClientError => {
                let recorded = self.recorded(event)?;
                // Of no event in n attempts, 3/n is the usual bound of 95 % ("rule of three").
                let none = (recorded.events == 0).then(|| 3.0 / float(recorded.n));
                let upper = none.unwrap_or_else(|| recorded.upper(Z_95));
                Some(self.tolerated(upper).max(self.rate_min).min(1.0))
            }
        }
    }

    /// The rate that is allowed of async before it advances: the baseline's, or where there is none
    /// that of legacy in this epoch, by its upper bound. With neither, only what never matters is.
    #[must_use]
    pub fn advance_allowed(&self, event: Event, legacy: Rate) -> f64 {
        self.norm_allowed(event).unwrap_or_else(|| {
            let upper = if legacy.n == 0 { 0.0 } else { self.tolerated(legacy.upper(Z_95)) };
            upper.max(self.rate_min)
        })
    }

    /// The rate that legacy had when the baseline was recorded, of those events that were recorded.
    #[must_use]
    pub fn recorded(&self, event: Event) -> Option<Rate> {
        let norm = self.baseline.as_ref().filter(|norm| norm.n > 0)?;
        let events = match event {
            Event::Error => norm.err,
            Event::Timeout => norm.tmo,
            Event::Failure => norm.err + norm.tmo,
            Event::ClientError | Event::Slow95 | Event::Slow99 => return None,
        };
        Some(Rate { events, n: norm.n })
    }

    /// The same, as a finding cites it.
    #[must_use]
    pub fn norm_rate(&self, event: Event) -> Option<NormRate> {
        let (rate, norm) = (self.recorded(event)?, self.baseline.as_ref()?);
        Some(NormRate { rate: rate.value(), n: rate.n, recorded_at: norm.recorded_at.clone() })
    }

    /// The overdispersion of an event: evidence of test A is divided by it.
    #[must_use]
    pub fn phi_of(&self, event: Event) -> f64 {
        let phi = if event == Event::ClientError { self.phi.c4 } else { self.phi.fail };
        phi.max(1.0)
    }

    /// The limits of each climb. Nothing asks for more than `fail_at`; two ticks more are kept, so
    /// that one good tick in an outage does not hide it.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { cap: self.cap, ceiling: self.fail_at + 2.0 * self.cap }
    }

    /// Whether a tolerance is read as points for this event.
    #[must_use]
    pub fn is_in_points(&self, event: Event) -> bool {
        let is_failure = !event.is_slow() && event != Event::ClientError;
        is_failure && self.divergence_mode == DivergenceMode::Absolute
    }

    /// `rate` with what is tolerated beyond it.
    #[must_use]
    pub fn tolerated(&self, rate: f64) -> f64 {
        match self.divergence_mode {
            DivergenceMode::Relative => rate * (1.0 + self.tolerance),
            DivergenceMode::Absolute => rate + self.tolerance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::counts::Norm;

    fn recorded(err: u64, tmo: u64, n: u64) -> Norm {
        Norm { n, err, tmo, mean_ms: 10.0, rss: None, recorded_at: String::new(), slow: true }
    }

    #[test]
    fn what_test_b_allows_comes_from_the_baselines_upper_bound() {
        for (err, n, expected) in [
            (0, 10_000, 0.001),
            (0, 1_000, 0.0033),
            (1, 10, 0.444_565),
            (10, 10, 1.0),
            (473, 214_900, 0.002_649),
        ] {
            let rules = Rules { baseline: Some(recorded(err, 0, n)), ..Rules::default() };
            let allowed = rules.norm_allowed(Event::Error).unwrap();
            assert!((allowed - expected).abs() < 1e-6, "{err} of {n}: {allowed}");
        }
    }

    #[test]
    fn without_a_baseline_or_its_thresholds_test_b_allows_nothing_and_asks_nothing() {
        let norms =
            [None, Some(recorded(0, 0, 0)), Some(Norm { slow: false, ..recorded(1, 1, 9) })];
        let asked = norms.map(|baseline| {
            let rules = Rules { baseline, ..Rules::default() };
            Event::ALL.map(|event| rules.norm_allowed(event).is_some())
        });
        assert_eq!(asked[0], [false; 6]);
        assert_eq!(asked[1], [false, false, false, false, true, true]);
        assert_eq!(asked[2], [true, true, true, false, false, false]);
    }

    #[test]
    fn an_advance_is_measured_by_the_baseline_or_by_legacy_or_by_what_never_matters() {
        let rules = Rules::default();
        let legacy = Rate { events: 50, n: 1000 };
        let expected = 1.10 * legacy.upper(Z_95);
        assert_eq!(rules.advance_allowed(Event::Error, legacy), expected);
        assert_eq!(rules.advance_allowed(Event::Error, Rate::default()), 0.001);
        let rules = Rules { baseline: Some(recorded(0, 0, 100_000)), ..rules };
        assert_eq!(rules.advance_allowed(Event::Error, legacy), 0.001);
    }

    #[test]
    fn points_are_added_and_parts_are_multiplied() {
        let absolute = Rules {
            divergence_mode: DivergenceMode::Absolute,
            tolerance: 0.05,
            ..Rules::default()
        };
        assert_eq!(absolute.tolerated(0.01), 0.060_000_000_000_000_005);
        assert_eq!(absolute.ratio_allowed(Event::Timeout), 1.10);
        assert_eq!(absolute.ratio_allowed(Event::ClientError), 1.5);
        let relative = Rules { tolerance: 0.5, ..Rules::default() };
        assert_eq!(relative.tolerated(0.01), 0.015);
        assert_eq!(relative.ratio_allowed(Event::Timeout), 1.5);
    }
}
