//! What is known of each spot in which the paths were seen to differ: is it noise, or a regression?
//!
//! A part of the requests asks the primary path twice at one moment. A spot in which one path differs
//! from itself says little about the other: a fresh id, a clock, an order that nobody promised. So both
//! shares have their bounds (Wilson's), and only what stands clear of the noise is called a regression.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compare::kind::Kind;
use crate::compare::redact::Place;
use crate::guard::evidence::{Rate, Z_95, Z_99};

/// How often one path must have differed from itself before that is noise.
const NOISE_MIN: u64 = 2;
/// The share of its answers of which that must be certain.
const NOISE_SHARE_MIN: f64 = 0.005;
/// How often the paths must have differed before that is a regression.
const REGRESSION_MIN: u64 = 3;
/// How often one path must have been asked twice before anything is.
const ASKED_TWICE_MIN: u64 = 100;

/// In what and where two answers differed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// In what.
    pub kind: Kind,
    /// Where.
    pub place: Place,
}

/// How often a route was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    /// Answers of both paths that were compared.
    pub compared: u64,
    /// Answers of one path that were compared with its own.
    pub asked_twice: u64,
}

/// How often a spot differed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Between the paths.
    pub paths: u64,
    /// Between two answers of one path.
    pub itself: u64,
}

/// What the counts of a spot say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The paths differ there more than one does from itself.
    Regression,
    /// They differ, and that is all that is known.
    Difference,
    /// One path's values differ from its own there.
    Noise,
}

/// The spots of one route.
#[derive(Debug, Default)]
pub struct Spots {
    counts: BTreeMap<Arc<Spot>, Counts>,
}

// === impl Spot ===

impl Spot {
    /// Whether noise may explain it. That a header is there is no value.
    #[must_use]
    pub fn is_of_values(&self) -> bool {
        self.kind.is_of_values() && !matches!(self.place, Place::Presence(_))
    }
}

// === impl Counts ===

impl Counts {
    fn is_noisy(self, trials: Trials) -> bool {
        let rate = Rate { events: self.itself, n: trials.asked_twice };
        self.itself >= NOISE_MIN && rate.lower(Z_95) >= NOISE_SHARE_MIN
    }

    fn is_regression(self, trials: Trials) -> bool {
        let paths = Rate { events: self.paths, n: trials.compared };
        let itself = Rate { events: self.itself, n: trials.asked_twice };
        self.paths >= REGRESSION_MIN
            && trials.asked_twice >= ASKED_TWICE_MIN
            && paths.lower(Z_99) > itself.upper(Z_99)
    }

    /// What they say of `spot`.
    #[must_use]
    pub fn finding(self, spot: &Spot, trials: Trials) -> Finding {
        if self.is_regression(trials) {
            Finding::Regression
        } else if spot.is_of_values() && self.is_noisy(trials) {
            Finding::Noise
        } else {
            Finding::Difference
        }
    }
}

// === impl Finding ===

impl Finding {
    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::Difference => "difference",
            Self::Noise => "noise",
        }
    }
}

// === impl Spots ===

impl Spots {
    /// How many there are.
    #[must_use]
    pub fn number(&self) -> usize {
        self.counts.len()
    }

    /// Each with its counts.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Spot>, Counts)> {
        self.counts.iter().map(|(spot, counts)| (spot, *counts))
    }

    /// Counts differences at `spots`, of which new ones are taken while there is `room` for them; those
    /// that were not taken, as a number.
    pub fn count(
        &mut self,
        spots: &[Arc<Spot>],
        room: usize,
        field: fn(&mut Counts) -> &mut u64,
    ) -> u64 {
        let (mut room, mut left_out) = (room, 0);
        for spot in spots {
            if let Some(counts) = self.counts.get_mut(spot) {
                *field(counts) += 1;
            } else if room > 0 {
                *field(self.counts.entry(spot.clone()).or_default()) += 1;
                room -= 1;
            } else {
                left_out += 1;
            }
        }
        left_out
    }

    /// Forgets spots that differed only once: names that are data come and go like that. How many.
    pub fn forget_rare(&mut self) -> u64 {
        let before = self.counts.len();
        self.counts.retain(|_, counts| counts.paths + counts.itself > 1);
        (before - self.counts.len()) as u64
    }

    /// Halves all counts, so that what is new weighs as much as what was.
    pub fn age(&mut self) {
        for counts in self.counts.values_mut() {
            (counts.paths, counts.itself) = (counts.paths / 2, counts.itself / 2);
        }
        self.counts.retain(|_, counts| counts.paths + counts.itself > 0);
    }

    /// Whether a difference at `spot` is explained by noise.
    #[must_use]
    pub fn is_noise(&self, spot: &Spot, trials: Trials) -> bool {
        let counts = self.counts.get(spot).copied().unwrap_or_default();
        spot.is_of_values() && counts.is_noisy(trials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, [a, m, b, k]: [u64; 4]) -> Finding {
        let spot = Spot { kind, place: Place::Json("/a".to_owned()) };
        let counts = Counts { paths: a, itself: b };
        counts.finding(&spot, Trials { compared: m, asked_twice: k })
    }

    #[test]
    fn noise_is_what_one_path_does_to_itself_for_certain() {
        for (counts, expected) in [
            ([50, 100, 1, 1], Finding::Difference),
            ([50, 100, 2, 2], Finding::Noise),
            ([5, 1000, 2, 100], Finding::Noise),
            ([5, 1000, 2, 120], Finding::Difference),
            ([900, 1000, 90, 100], Finding::Noise),
        ] {
            assert_eq!(check(Kind::Value, counts), expected, "{counts:?}");
        }
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_never_noise() {
        for kind in [Kind::Missing, Kind::Extra, Kind::Type, Kind::Status] {
            assert_eq!(check(kind, [900, 1000, 90, 100]), Finding::Difference);
        }
        let spot = |kind| [Arc::new(Spot { kind, place: Place::Json("/a".to_owned()) })];
        let mut spots = Spots::default();
        let trials = Trials { compared: 10, asked_twice: 10 };
        for (kind, expected) in [(Kind::Missing, false), (Kind::Value, true)] {
            (0..5).for_each(|_| _ = spots.count(&spot(kind), 1, |counts| &mut counts.itself));
            assert_eq!(spots.is_noise(&spot(kind)[0], trials), expected, "{kind:?}");
        }
        let presence = Spot { kind: Kind::Header, place: Place::Presence("vary".to_owned()) };
        assert!(!presence.is_of_values());
    }

    #[test]
    fn a_regression_stands_clear_of_the_noise() {
        for (counts, expected) in [
            ([1000, 1000, 0, 99], Finding::Difference),
            ([1000, 1000, 0, 100], Finding::Regression),
            ([2, 2, 0, 100], Finding::Difference),
            ([3, 1000, 0, 100], Finding::Difference),
            ([120, 1000, 0, 100], Finding::Regression),
            // Noisy, and yet worse than that.
            ([900, 1000, 30, 100], Finding::Regression),
            ([320, 1000, 30, 100], Finding::Noise),
        ] {
            assert_eq!(check(Kind::Value, counts), expected, "{counts:?}");
        }
    }

    #[test]
    fn spots_are_bounded_and_age() {
        let spot =
            |at: usize| Arc::new(Spot { kind: Kind::Value, place: Place::Json(format!("/{at}")) });
        let all: Vec<_> = (0..10).map(spot).collect();
        let mut spots = Spots::default();
        assert_eq!(spots.count(&all, 4, |counts| &mut counts.paths), 6);
        assert_eq!(spots.count(&all[..4], 0, |counts| &mut counts.itself), 0);
        assert_eq!(spots.number(), 4);
        spots.age();
        assert_eq!(spots.number(), 0);
        spots.count(&all, 4, |counts| &mut counts.paths);
        spots.count(&all[..1], 0, |counts| &mut counts.paths);
        assert_eq!((spots.forget_rare(), spots.number()), (3, 1));
    }
}
