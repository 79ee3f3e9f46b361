//! Two tests and one statistic: how strongly what was counted speaks against a path.
//!
//! Pure mathematics. Test A compares the paths with each other: given that an event happened, it hit
//! async with a probability that depends on the share and on how much worse async is, not on how many
//! events there are; so an incident that both paths share cancels. Test B compares one path with its
//! recorded rate. Both add up the logarithm of a likelihood ratio, floored at 0 and in nats (a CUSUM).
//! If the path is as good as allowed, the product of those ratios is a supermartingale, so by Ville's
//! inequality the chance that it ever climbs by 16 from where it stands is at most exp(-16), however
//! often it is looked at; the floor only adds starting points. That is why this may look at each
//! tick, which a test of two rates may not.
//!
//! How much worse a path got is not known, so each test climbs for several ratios at once: a small
//! one sees a small regression at last, a large one sees an outage at once.

use serde::{Deserialize, Serialize};

/// How many times legacy's rate test A looks for, where 1.10 times is allowed.
pub const CONTROL_RATIOS: [f64; 5] = [1.25, 1.5, 2.0, 4.0, 16.0];

/// How many times the allowed rate test B looks for. Rates are small, so it has further to look.
pub const NORM_RATIOS: [f64; 7] = [1.25, 1.5, 2.0, 4.0, 16.0, 64.0, 256.0];

/// The upper end of a two-sided interval of 95 %, in standard deviations.
pub const Z_95: f64 = 1.959_964;

/// A one-sided bound of 99 %, in standard deviations.
pub const Z_99: f64 = 2.326_348;

/// The ratio of allowed rates that [`CONTROL_RATIOS`] are written for.
pub const CONTROL_ALLOWED: f64 = 1.10;

// No rate that is looked for is above this: at 1 a single success would refute it for ever.
const RATE_MAX: f64 = 0.95;

// No regression larger than this is looked for when the smallest detectable one is sought.
const DETECTABLE_MAX: f64 = 10_000.0;

/// Events among attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many were such.
    pub events: u64,
    /// Of how many.
    pub n: u64,
}

/// Climbs of one test, one a ratio, each with what it was seen to climb on.
#[derive(Clone, Debug)]
pub struct Climbs<const J: usize, M> {
    levels: [f64; J],
    since: [Since<M>; J],
}

/// What happened since a climb was last at 0.
#[derive(Clone, Debug, Default)]
pub struct Since<M> {
    /// When that was, in milliseconds.
    pub at_ms: u64,
    /// What was seen after it.
    pub seen: M,
}

/// The limits of a climb.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The most that one tick may add, so that one burst trips nothing.
    pub cap: f64,
    /// The highest level. Evidence beyond what any rule asks for is not kept: after an incident that
    /// both paths shared it would hold the ramp for as long again.
    pub ceiling: f64,
}

// === impl Rate ===

impl Rate {
    /// The rate; 0 where there was no attempt.
    #[must_use]
    pub fn value(self) -> f64 {
        float(self.events) / float(self.n.max(1))
    }

    /// Its upper bound by Wilson's interval, `z` standard deviations out; 1 if nothing is known.
    #[must_use]
    pub fn upper(self, z: f64) -> f64 {
        self.bounds(z).1
    }

    /// Its lower bound; 0 if nothing is known.
    #[must_use]
    pub fn lower(self, z: f64) -> f64 {
        self.bounds(z).0
    }

    fn bounds(self, z: f64) -> (f64, f64) {
        if self.n == 0 {
            return (0.0, 1.0);
        }
        let (n, rate) = (float(self.n), self.value());
        let (middle, scale) = (rate + z * z / (2.0 * n), 1.0 + z * z / n);
        let spread = z * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
        (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
    }

    /// How strongly it speaks for more than `bound`, in nats: Chernoff's bound on the chance of so
    /// many events or more.
    #[must_use]
    pub fn above(self, bound: f64) -> f64 {
        if bound >= 1.0 || self.value() <= bound {
            return 0.0;
        }
        float(self.n) * divergence(self.value(), bound)
    }
}

// === impl Climbs ===

impl<const J: usize, M: Default> Climbs<J, M> {
    /// Climbs that begin at 0 at `at_ms`.
    #[must_use]
    pub fn new(at_ms: u64) -> Self {
        let since = std::array::from_fn(|_| Since { at_ms, seen: M::default() });
        Self { levels: [0.0; J], since }
    }

    /// Adds the increments of the tick that ended at `at_ms`; `note` tells each climb that is above 0
    /// what happened in it.
    pub fn add(&mut self, increments: [f64; J], limits: Limits, at_ms: u64, note: impl Fn(&mut M)) {
        for (j, increment) in increments.into_iter().enumerate() {
            let (level, since) = (&mut self.levels[j], &mut self.since[j]);
            let was_at_0 = *level == 0.0;
            *level = (*level + increment.min(limits.cap)).clamp(0.0, limits.ceiling);
            if *level > 0.0 {
                note(&mut since.seen);
            } else if was_at_0 {
                since.at_ms = at_ms;
            } else {
                *since = Since { at_ms, seen: M::default() };
            }
        }
    }

    /// Each level, and what it climbed on.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &Since<M>)> {
        self.levels.iter().copied().zip(&self.since)
    }
}

// === Test A ===

/// The probability that an event hits async, if async's rate is `ratio` times legacy's and it gets
/// the `share`.
#[must_use]
pub fn theta(ratio: f64, share: f64) -> f64 {
    ratio * share / (ratio * share + 1.0 - share)
}

/// The ratios that test A looks for where `allowed` is allowed: as far above it as those of
/// [`CONTROL_RATIOS`] are above 1.10.
#[must_use]
pub fn control_ratios(allowed: f64) -> [f64; 5] {
    CONTROL_RATIOS.map(|ratio| ratio * allowed / CONTROL_ALLOWED)
}

/// The increments of test A for events on both paths. At a share of 0 or 1 one path has no requests:
/// there is no control, and nothing is added.
#[must_use]
pub fn against_control(allowed: f64, share: f64, on_async: u64, on_legacy: u64) -> [f64; 5] {
    if on_async + on_legacy == 0 || !has_control(share) {
        return [0.0; 5];
    }
    let null = theta(allowed, share);
    control_ratios(allowed)
        .map(|ratio| log_ratio(theta(ratio, share), null, (float(on_async), float(on_legacy))))
}

/// Whether both paths get requests at this share.
#[must_use]
pub fn has_control(share: f64) -> bool {
    share > 0.0 && share < 1.0
}

/// The smallest ratio that `events` on both paths together would have told from `allowed` with
/// `needed` nats, had it been there. `None` if no ratio would.
#[must_use]
pub fn detectable(allowed: f64, share: f64, events: f64, needed: f64) -> Option<f64> {
    let null = theta(allowed, share);
    let is_enough = |ratio: f64| events * divergence(theta(ratio, share), null) >= needed;
    if !has_control(share) || !is_enough(DETECTABLE_MAX) {
        return None;
    }
    // The divergence grows with the ratio, so halving the span finds it; forty times is exact enough.
    let (mut below, mut above) = (allowed, DETECTABLE_MAX);
    for _ in 0..60 {
        let middle = f64::midpoint(below, above);
        if is_enough(middle) {
            above = middle;
        } else {
            below = middle;
        }
    }
    Some(above)
}

// === Test B ===

/// The increments of test B for what was counted, where the rate `allowed` is allowed.
#[must_use]
pub fn against_norm(allowed: f64, counted: Rate) -> [f64; 7] {
    let Rate { events, n } = counted;
    if n == 0 || allowed <= 0.0 {
        return [0.0; 7];
    }
    NORM_RATIOS.map(|ratio| {
        let sought = (ratio * allowed).min(RATE_MAX);
        // Where almost all may fail, nothing is worse.
        if sought <= allowed {
            return 0.0;
        }
        log_ratio(sought, allowed, (float(events), float(n.saturating_sub(events))))
    })
}

/// A count in a formula.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

// The log-likelihood ratio of `p` to `q` for so many hits and misses.
fn log_ratio(p: f64, q: f64, (hits, misses): (f64, f64)) -> f64 {
    hits * (p / q).ln() + misses * ((1.0 - p) / (1.0 - q)).ln()
}

// Kullback and Leibler's divergence of two coins, in nats; `q` is neither 0 nor 1, or all is told.
fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p <= 0.0 { 0.0 } else { p * (p / q).ln() };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { cap: 4.0, ceiling: 24.0 };

    fn assert_near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 2e-6, "{value}, expected {expected}");
    }

    #[test]
    fn theta_is_the_share_weighted_by_the_ratio() {
        for (ratio, share, expected) in [
            (1.0, 0.1, 0.1),
            (1.1, 0.1, 0.108_911),
            (2.0, 0.1, 0.181_818),
            (16.0, 0.1, 0.64),
            (1.1, 0.5, 0.523_810),
            (16.0, 0.9, 0.993_103),
            (4.0, 0.0, 0.0),
            (4.0, 1.0, 1.0),
        ] {
            assert_near(theta(ratio, share), expected);
        }
    }

    #[test]
    fn increments_of_test_a_are_those_computed_by_hand() {
        // ln(0.64 / 0.108911) = 1.7709 and ln(0.36 / 0.891089) = -0.9063.
        for (share, on_async, on_legacy, ratio, expected) in [
            (0.1, 1, 0, 4, 1.770_938),
            (0.1, 0, 1, 4, -0.906_340),
            (0.1, 3, 2, 4, 3.500_134),
            (0.1, 1, 0, 0, 0.113_091),
            (0.1, 0, 1, 0, -0.014_742),
            (0.5, 2, 1, 2, 0.125_649),
            (0.1, 0, 0, 4, 0.0),
        ] {
            let increments = against_control(1.10, share, on_async, on_legacy);
            assert_near(increments[ratio], expected);
        }
    }

    #[test]
    fn a_path_without_requests_is_no_control() {
        for share in [0.0, 1.0] {
            assert!(against_control(1.10, share, 30, 30).iter().all(|added| *added == 0.0));
        }
    }

    #[test]
    fn another_tolerance_moves_all_ratios() {
        assert_near(control_ratios(1.10)[0], 1.25);
        assert_near(control_ratios(1.50)[0], 1.704_545);
        assert!(control_ratios(1.50).iter().all(|ratio| *ratio > 1.50));
        assert!(against_control(1.50, 0.5, 15, 10).iter().all(|added| *added <= 0.0));
    }

    #[test]
    fn increments_of_test_b_are_those_computed_by_hand() {
        // At 256 times 0.1 %: ln(256) = 5.5452 and ln(0.744 / 0.999) = -0.2947.
        for (allowed, events, n, ratio, expected) in [
            (0.001, 1, 1, 6, 5.545_177),
            (0.001, 0, 1, 6, -0.294_714),
            (0.001, 2, 10, 6, 8.732_645),
            (0.001, 0, 1000, 0, -0.250_282),
            (0.05, 1, 1, 4, 2.772_589),
            (0.05, 1, 1, 6, 2.944_439),
            (0.05, 1, 0, 6, 0.0),
        ] {
            assert_near(against_norm(allowed, Rate { events, n })[ratio], expected);
        }
        for allowed in [0.96, 1.0] {
            let increments = against_norm(allowed, Rate { events: 10, n: 10 });
            assert!(increments.iter().all(|added| *added == 0.0));
        }
    }

    #[test]
    fn a_climb_is_floored_capped_and_knows_since_when() {
        let mut climbs = Climbs::<2, u64>::new(0);
        let level = |climbs: &Climbs<2, u64>| {
            climbs.iter().map(|(s, since)| (s, since.at_ms, since.seen)).collect::<Vec<_>>()
        };
        for (added, at_ms, first, second) in [
            ([-1.0, 1.0], 250, (0.0, 250, 0), (1.0, 0, 1)),
            ([3.0, -0.5], 500, (3.0, 250, 1), (0.5, 0, 2)),
            ([90.0, -0.5], 750, (7.0, 250, 2), (0.0, 750, 0)),
            ([4.0, 0.0], 1000, (11.0, 250, 3), (0.0, 1000, 0)),
        ] {
            climbs.add(added, LIMITS, at_ms, |seen| *seen += 1);
            assert_eq!(level(&climbs), [first, second], "at {at_ms}");
        }
        for at_ms in 5..15 {
            climbs.add([4.0, 4.0], LIMITS, at_ms, |_| {});
        }
        assert!(climbs.iter().all(|(level, _)| level == LIMITS.ceiling));
    }

    #[test]
    fn wilson_bounds_are_those_of_the_tables() {
        for (events, n, z, expected) in [
            (0, 0, Z_95, 1.0),
            (0, 10, Z_95, 0.277_533),
            (1, 10, Z_95, 0.404_150),
            (10, 10, Z_95, 1.0),
            (473, 214_900, Z_95, 0.002_408),
            (0, 500, Z_99, 0.010_708),
            (5, 500, Z_99, 0.026_803),
        ] {
            assert_near(Rate { events, n }.upper(z), expected);
        }
    }

    #[test]
    fn what_could_have_been_seen_shrinks_with_the_events() {
        assert_eq!(detectable(1.1, 0.1, 5.0, 16.0), None);
        assert_eq!(detectable(1.1, 1.0, 1e6, 16.0), None);
        let found: Vec<f64> = [10.0, 100.0, 1000.0, 10_000.0]
            .iter()
            .filter_map(|events| detectable(1.1, 0.1, *events, 16.0))
            .collect();
        assert_eq!(found.len(), 4);
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{found:?}");
        let kl = divergence(theta(found[1], 0.1), theta(1.1, 0.1));
        assert_near(100.0 * kl, 16.0);
    }

    #[test]
    fn evidence_above_a_bound_is_chernoffs() {
        for (bound, events, n, expected) in [
            (0.1, 1, 10, 0.0),
            (1.0, 10, 10, 0.0),
            (0.1, 0, 0, 0.0),
            (0.1, 10, 10, 23.025_851),
            (0.1, 5, 10, 5.108_256),
        ] {
            assert_near(Rate { events, n }.above(bound), expected);
        }
    }
}
