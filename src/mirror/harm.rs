//! Whether being mirrored makes clients wait: then the mirror is switched off.
//!
//! Pure: time is an argument. Which requests are mirrored is drawn by chance, so those that were drawn
//! and those that were not are alike in all but that. A latency above the P95 of those that were not
//! drawn is an event of the guard's test A: if being drawn does no harm, each event is one of a drawn
//! request with the probability that the draw has, however events cluster. So what a backend does to
//! all of them cancels, and no baseline is needed. Drawn is not yet mirrored: what is left out after the
//! draw counts as drawn, as leaving it out depends on how busy it is here.
//!
//! The evidence is the mean over all ratios of the products of their likelihood ratios. That is a
//! supermartingale, so by Ville's inequality it reaches `exp(8)` in one window without any harm at most
//! three times in ten thousand.

use std::time::Duration;

use crate::guard::evidence::{CONTROL_ALLOWED, against_control, float};
use crate::guard::loglinear::{Tally, index};

/// The evidence that switches the mirror off, in nats.
const HARM_AT: f64 = 8.0;
/// How much longer a drawn request may take before it counts, as its copy is not made for nothing; the
/// client of a millisecond more notices nothing.
const GAIN_MIN: Duration = Duration::from_millis(1);
/// The latencies of which a threshold is made: 50 of them are above it.
const REFERENCE: u64 = 1_000;
/// Events after which the evidence starts anew. In so many a harm of 1.25 times shows, and one that
/// begins late is not weighed against days without it.
const WINDOW: u64 = 20_000;

/// Of which kind a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// It was drawn to be mirrored.
    Drawn,
    /// It was not.
    Plain,
}

/// The two kinds that are compared, each with something.
#[derive(Clone, Debug, Default)]
pub struct Arms<T> {
    /// Of those that were drawn.
    pub drawn: T,
    /// Of those that were not.
    pub plain: T,
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct Harm {
    share: f64,
    // Before that, what was drawn with another share may still end.
    begins: Duration,
    before: Arms<Tally>,
    reference: Tally,
    threshold: Option<Duration>,
    seen: Seen,
}

/// The evidence of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// In nats.
    pub evidence: f64,
    /// Slow requests that were drawn.
    pub drawn: u64,
    /// Slow requests that were not.
    pub plain: u64,
}

// === impl Arms ===

impl<T> Arms<T> {
    /// That of `arm`.
    pub fn get(&self, arm: Arm) -> &T {
        match arm {
            Arm::Drawn => &self.drawn,
            Arm::Plain => &self.plain,
        }
    }
}

// === impl Harm ===

impl Harm {
    /// Looks at the latencies counted up to `now`, of requests that are drawn with the probability
    /// `share`; what there is against the mirror, if that is enough. After a change of the share it begins
    /// anew once `settles` is over.
    pub fn step(
        &mut self,
        now: Duration,
        (share, settles): (f64, Duration),
        counted: Arms<Tally>,
    ) -> Option<Seen> {
        if self.share.total_cmp(&share).is_ne() {
            *self = Self { share, begins: now + settles, before: counted, ..Self::default() };
            return None;
        }
        let drawn = counted.drawn.since(&self.before.drawn);
        let plain = counted.plain.since(&self.before.plain);
        self.before = counted;
        if now < self.begins {
            return None;
        }
        // The threshold is older than what is held against it.
        if let Some(threshold) = self.threshold {
            self.seen.drawn += above(&drawn, threshold + GAIN_MIN);
            self.seen.plain += above(&plain, threshold);
            self.weigh();
        }
        self.reference.add(&plain);
        if self.reference.count() >= REFERENCE {
            self.threshold = std::mem::take(&mut self.reference).quantile(0.95);
        }
        let seen = self.seen;
        if seen.drawn + seen.plain >= WINDOW {
            self.seen = Seen::default();
        }
        (seen.evidence >= HARM_AT).then_some(seen)
    }

    /// The logarithm of the mean of all ratios' likelihood ratios; sums of a window, so that each event
    /// weighs the same whenever it came.
    fn weigh(&mut self) {
        let Seen { drawn, plain, .. } = self.seen;
        let levels = against_control(CONTROL_ALLOWED, self.share, drawn, plain);
        // Taken out first, as what is left can't be too large to be raised.
        let highest = levels.into_iter().fold(f64::MIN, f64::max);
        let sum: f64 = levels.iter().map(|level| (level - highest).exp()).sum();
        self.seen.evidence = highest + (sum / float(levels.len() as u64)).ln();
    }
}

/// How many latencies are in buckets above that of `threshold`.
fn above(tally: &Tally, threshold: Duration) -> u64 {
    let bucket = index(u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX));
    tally.filled().filter(|(at, _)| *at > bucket).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;

    const SECOND: Duration = Duration::from_secs(1);

    /// Latencies of both kinds, as they add up.
    #[derive(Default)]
    struct Traffic {
        harm: Harm,
        now: Duration,
        counted: Arms<Tally>,
    }

    impl Traffic {
        /// A second of it, with `slow` of the thousand that are drawn and of the thousand that are not.
        fn second(&mut self, share: f64, slow: [u64; 2], slow_ms: u64) -> Option<Seen> {
            self.now += SECOND;
            let Arms { drawn, plain } = &mut self.counted;
            for (tally, slow) in [(drawn, slow[0]), (plain, slow[1])] {
                for n in 0..1_000 {
                    tally.record(if n < slow { slow_ms } else { 10 } * 1_000_000);
                }
            }
            self.harm.step(self.now, (share, SECOND * 2), self.counted.clone())
        }
    }

    #[test]
    fn slow_requests_that_were_drawn_are_held_against_the_mirror() {
        let mut traffic = Traffic::default();
        let found = (0..20).find_map(|_| traffic.second(0.5, [40, 10], 50));
        let found = found.unwrap();
        assert!(found.evidence >= HARM_AT && found.drawn == 4 * found.plain, "{found:?}");
    }

    #[test]
    fn what_is_slow_for_both_is_not_nor_what_is_better_nor_a_millisecond() {
        for (slow, slow_ms) in [([40, 40], 50), ([10, 40], 50), ([43, 40], 50), ([900, 10], 11)] {
            let mut traffic = Traffic::default();
            assert!((0..2_000).all(|_| traffic.second(0.5, slow, slow_ms).is_none()), "{slow:?}");
        }
    }

    #[test]
    fn a_small_harm_shows_in_time_also_after_a_long_time_without_any() {
        let mut traffic = Traffic::default();
        assert!((0..1_000).all(|_| traffic.second(0.5, [40, 40], 50).is_none()));
        assert!((0..600).any(|_| traffic.second(0.5, [56, 40], 50).is_some()));
    }

    #[test]
    fn another_share_begins_anew_and_what_is_in_flight_then_does_not_count() {
        let mut traffic = Traffic::default();
        assert!((0..5).all(|_| traffic.second(0.9, [45, 5], 50).is_none()), "as it is drawn");
        // The first of these are of the old share.
        assert!((0..2).all(|_| traffic.second(0.1, [45, 5], 50).is_none()));
        assert!((0..50).all(|_| traffic.second(0.1, [5, 45], 50).is_none()));
        // All or none: there is nothing to compare with.
        for share in [1.0, 0.0] {
            assert!((0..50).all(|_| traffic.second(share, [900, 0], 50).is_none()));
        }
    }

    /// After how many seconds of a thousand requests it trips, if three in a hundred are slow, and of those
    /// that are drawn so many times as many.
    fn by_chance(seed: u64, seconds: u32, times: f64) -> Option<u32> {
        let ids = Ids::new(seed);
        let draw = || float(ids.draw() >> 32) / float(1 << 32);
        let mut counted = Arms::<Tally>::default();
        let mut harm = Harm::default();
        (1..=seconds).find(|second| {
            for _ in 0..1_000 {
                let is_drawn = draw() < 0.1;
                let is_slow = draw() < if is_drawn { 0.03 * times } else { 0.03 };
                let took = if is_slow { 50_000_000 } else { 10_000_000 };
                let arm = if is_drawn { &mut counted.drawn } else { &mut counted.plain };
                arm.record(took);
            }
            harm.step(SECOND * *second, (0.1, SECOND), counted.clone()).is_some()
        })
    }

    #[test]
    fn chance_alone_does_not_switch_it_off_and_real_harm_does_soon() {
        for seed in 1..=4 {
            assert_eq!(by_chance(seed, 2_000, 1.0), None, "{seed}");
            assert_eq!(by_chance(seed, 2_000, 1.1), None, "{seed}: as much as is allowed");
            let found = by_chance(seed, 100, 2.0);
            assert!(found.is_some_and(|second| second < 30), "{seed}: {found:?}");
        }
    }

    #[test]
    fn a_few_requests_say_nothing() {
        let mut harm = Harm::default();
        let mut counted = Arms::<Tally>::default();
        (0..900).for_each(|_| counted.drawn.record(50_000_000));
        (0..900).for_each(|_| counted.plain.record(10_000_000));
        for second in 0..10 {
            assert_eq!(harm.step(SECOND * second, (0.5, SECOND), counted.clone()), None);
        }
    }
}
