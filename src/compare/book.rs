//! What was found on one route.
//!
//! A mismatch counts against async once it was confirmed: asked again, both paths still differed. Only
//! one a second is asked again, so of the others as large a part counts as was confirmed of those. A
//! mismatch is kept by the spots in which it differed, since these may turn out to be noise later, and
//! are forgiven then.

use std::collections::HashMap;
use std::sync::Arc;

use crate::compare::noise::{Finding, Spot, Spots, Trials};
use crate::compare::rules::CompareRules;

/// After so many comparisons all counts are halved: what async does today would else not be seen behind
/// weeks in which it did well.
const COMPARED_MAX: u64 = 20_000;
/// The groups of spots that are kept of one route; a mismatch beyond them is never forgiven.
const GROUPS_MAX: usize = 64;
/// The spots of a group. An answer that differs in more is no case of noise.
const GROUP_SPOTS_MAX: usize = 8;

/// What became of mismatches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not asked again.
    pub unconfirmed: u64,
    /// Asked again, and different again.
    pub confirmed: u64,
    /// Asked again, and equal then.
    pub transient: u64,
}

/// One route's book.
#[derive(Debug, Default)]
pub struct Book {
    /// Whether a regression here closes the gate.
    pub is_critical: bool,
    /// The rules in force.
    pub rules: Arc<CompareRules>,
    /// How often it was looked at.
    pub trials: Trials,
    /// Comparisons in which nothing differed.
    pub matched: u64,
    /// Comparisons in which only noise did.
    pub noise: u64,
    /// Times that async did not answer and legacy did.
    pub failures: u64,
    /// Mismatches that could not be asked again for want of capacity.
    pub unasked: u64,
    /// Where answers differed.
    pub spots: Spots,
    groups: HashMap<Vec<Arc<Spot>>, Tally>,
    others: Tally,
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, other: Self) {
        self.unconfirmed += other.unconfirmed;
        self.confirmed += other.confirmed;
        self.transient += other.transient;
    }

    fn age(&mut self) {
        self.unconfirmed /= 2;
        self.confirmed /= 2;
        self.transient /= 2;
    }

    /// The mismatches that count. Of those that were not asked again it is the part that would be
    /// confirmed if the next one asked were: all, where none was asked (methods that are not safe).
    #[must_use]
    pub fn counted(self) -> u64 {
        let asked = self.confirmed + self.transient + 1;
        self.confirmed + (self.unconfirmed * (self.confirmed + 1)).div_ceil(asked)
    }
}

// === impl Book ===

impl Book {
    /// Takes a comparison in; the spots of it that noise does not explain.
    pub fn compare(&mut self, spots: &[Arc<Spot>], room: usize) -> (Vec<Arc<Spot>>, u64) {
        self.trials.compared += 1;
        let left_out = self.spots.count(spots, room, |counts| &mut counts.paths);
        let real: Vec<_> =
            spots.iter().filter(|s| !self.spots.is_noise(s, self.trials)).cloned().collect();
        if spots.is_empty() {
            self.matched += 1;
        } else if real.is_empty() {
            self.noise += 1;
        } else {
            self.tally(spots).unconfirmed += 1;
        }
        if self.trials.compared >= COMPARED_MAX {
            self.age();
        }
        (real, left_out)
    }

    /// Takes in what one path said to the same question at the same moment.
    pub fn ask_twice(&mut self, spots: &[Arc<Spot>], room: usize) -> u64 {
        self.trials.asked_twice += 1;
        self.spots.count(spots, room, |counts| &mut counts.itself)
    }

    /// Both were asked again about a mismatch in these spots, and do or don't differ still.
    pub fn confirm(&mut self, spots: &[Arc<Spot>], differs: bool) {
        let tally = self.tally(spots);
        tally.unconfirmed = tally.unconfirmed.saturating_sub(1);
        if differs {
            tally.confirmed += 1;
        } else {
            tally.transient += 1;
        }
    }

    fn tally(&mut self, spots: &[Arc<Spot>]) -> &mut Tally {
        let has_room = self.groups.len() < GROUPS_MAX || self.groups.contains_key(spots);
        if spots.len() > GROUP_SPOTS_MAX || !has_room {
            return &mut self.others;
        }
        self.groups.entry(spots.to_vec()).or_default()
    }

    /// The mismatches of each group, without those that noise explains by now.
    fn tallies(&self) -> impl Iterator<Item = Tally> {
        let is_real =
            |spots: &[Arc<Spot>]| spots.iter().any(|spot| !self.spots.is_noise(spot, self.trials));
        let groups = self.groups.iter().filter(move |(spots, _)| is_real(spots));
        groups.map(|(_, tally)| *tally).chain([self.others])
    }

    /// All of these together.
    #[must_use]
    pub fn mismatches(&self) -> Tally {
        let mut sum = Tally::default();
        self.tallies().for_each(|tally| sum.add(tally));
        sum
    }

    /// How often async was asked, as far as this is known here.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.trials.compared + self.failures
    }

    /// How often it counts as different.
    #[must_use]
    pub fn counted(&self) -> u64 {
        // Group by group: what is transient in one excuses nothing in another.
        self.failures + self.tallies().map(Tally::counted).sum::<u64>()
    }

    /// How often that is certain.
    #[must_use]
    pub fn proven(&self) -> u64 {
        self.failures + self.mismatches().confirmed
    }

    /// Spots in which async is worse.
    pub fn regressions(&self) -> impl Iterator<Item = &Arc<Spot>> {
        let of = |(spot, counts): &(&Arc<Spot>, crate::compare::noise::Counts)| {
            counts.finding(spot, self.trials) == Finding::Regression
        };
        self.spots.iter().filter(of).map(|(spot, _)| spot)
    }

    fn age(&mut self) {
        self.trials.compared /= 2;
        self.trials.asked_twice /= 2;
        self.matched /= 2;
        self.noise /= 2;
        self.failures /= 2;
        self.unasked /= 2;
        self.spots.age();
        self.others.age();
        self.groups.values_mut().for_each(Tally::age);
        self.groups.retain(|_, tally| *tally != Tally::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::kind::Kind;
    use crate::compare::redact::Place;

    fn spot(kind: Kind, at: usize) -> Arc<Spot> {
        Arc::new(Spot { kind, place: Place::Json(format!("/{at}")) })
    }

    #[test]
    fn of_mismatches_not_asked_again_about_as_many_count_as_of_the_others() {
        for (unconfirmed, confirmed, transient, expected) in [
            (0, 0, 0, 0),
            (7, 0, 0, 7),
            (8, 0, 3, 2),
            (100, 1, 1, 68),
            (100, 3, 0, 103),
            (1, 1, 99, 2),
            (3000, 0, 59, 50),
        ] {
            let tally = Tally { unconfirmed, confirmed, transient };
            assert_eq!(tally.counted(), expected, "{tally:?}");
        }
    }

    #[test]
    fn a_mismatch_is_forgiven_once_its_spot_is_known_as_noise() {
        let mut book = Book::default();
        let uuid = [spot(Kind::Value, 1)];
        for _ in 0..5 {
            assert_eq!(book.compare(&uuid, 9).0.len(), 1);
            book.confirm(&uuid, true);
        }
        let both = [spot(Kind::Value, 1), spot(Kind::Type, 1)];
        book.compare(&both, 9);
        book.confirm(&both, true);
        assert_eq!(book.mismatches(), Tally { confirmed: 6, ..Tally::default() });
        book.ask_twice(&uuid, 9);
        book.ask_twice(&uuid, 9);
        assert_eq!(book.mismatches(), Tally { confirmed: 1, ..Tally::default() });
        assert_eq!(book.compare(&uuid, 9).0, []);
        assert_eq!(book.compare(&both, 9).0, [spot(Kind::Type, 1)]);
    }

    #[test]
    fn what_is_transient_in_one_spot_excuses_nothing_in_another() {
        let mut book = Book::default();
        for _ in 0..50 {
            book.compare(&[spot(Kind::Value, 1)], 9);
            book.confirm(&[spot(Kind::Value, 1)], false);
            book.compare(&[spot(Kind::Type, 2)], 9);
        }
        assert_eq!(book.counted(), 50);
    }

    #[test]
    fn groups_are_bounded_and_what_is_beyond_them_counts() {
        let mut book = Book::default();
        for at in 0..200 {
            book.compare(&[spot(Kind::Value, at)], 0);
        }
        let many: Vec<_> = (0..9).map(|at| spot(Kind::Value, at)).collect();
        book.compare(&many, 0);
        assert_eq!((book.groups.len(), book.mismatches().unconfirmed), (GROUPS_MAX, 201));
        book.confirm(&many, false);
        assert_eq!(book.mismatches(), Tally { unconfirmed: 200, transient: 1, confirmed: 0 });
    }

    #[test]
    fn a_late_regression_is_seen_behind_much_that_was_well() {
        let mut book = Book::default();
        for _ in 0..1_000_000 {
            book.compare(&[], 9);
        }
        assert!(book.asked() < COMPARED_MAX);
        for _ in 0..COMPARED_MAX / 10 {
            book.compare(&[spot(Kind::Type, 1)], 9);
        }
        assert!(book.counted() * 20 > book.asked(), "{} of {}", book.counted(), book.asked());
    }
}
