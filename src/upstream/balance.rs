//! Which endpoint takes the next request: who may, and whose turn it is.
//!
//! Pure: standings, loads and draws are arguments. `least_request` compares two random endpoints and
//! takes the one with fewer requests in flight. That is nearly as even as asking all of them, and
//! unlike "the least loaded of all" it does not send a herd of requests to one endpoint that has just
//! come back (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 1996). An endpoint
//! that answers slowly has more in flight, so it gets less; one whose turn comes regardless does not.

use std::collections::BTreeSet;

use crate::config::values::Balance;
use crate::upstream::standing::{Candidate, Health, Tried};

/// The endpoints that take requests, as their standing is now.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Vec<Seat>,
    // Sound ones of lower priority, the next first: for retries that find no other seat.
    standby: Vec<usize>,
    weight: f64,
    is_even: bool,
    is_panic: bool,
}

#[derive(Debug)]
struct Seat {
    index: usize,
    weight: f64,
    // How much its turn has come near, for round robin.
    turn: f64,
}

impl Roster {
    /// Those of `candidates` that may take requests. When in no priority a share of at least
    /// `panic_below` is left, all are used: a few would only be overrun by what all of them carried,
    /// and what calls most endpoints dead is more likely wrong itself.
    ///
    /// `old` is the roster of the same candidates before: turns go on from there.
    #[must_use]
    pub fn new(candidates: &[Candidate], panic_below: f64, old: &Self) -> Self {
        let is_known =
            |candidate: &Candidate| candidate.health == Health::Up && !candidate.is_ejected;
        let any_up = candidates.iter().any(is_known);
        let may = |candidate: &Candidate| {
            let is_sound = match candidate.health {
                Health::Up => true,
                // Until the first probes are back, nobody is known to be better.
                Health::Unchecked => !any_up,
                Health::Down => false,
            };
            is_sound && !candidate.is_ejected
        };
        let priorities: BTreeSet<u16> = candidates.iter().map(|c| c.priority).collect();
        let enough = priorities.into_iter().find(|priority| {
            // One that appeared, and waits for its first probe, is neither left nor lost.
            let counts = |c: &&Candidate| !(any_up && c.health == Health::Unchecked);
            let group = || candidates.iter().filter(|c| c.priority == *priority).filter(counts);
            let left = group().filter(|c| may(c)).count();
            left > 0 && ratio(left, group().count()) >= panic_below
        });
        let seats = candidates.iter().enumerate().filter(|(_, candidate)| match enough {
            Some(priority) => candidate.priority == priority && may(candidate),
            None => true,
        });
        let seats: Vec<_> = seats
            .map(|(index, candidate)| Seat {
                index,
                weight: candidate.weight,
                turn: old.turn(index),
            })
            .collect();
        let mut standby: Vec<usize> = (0..candidates.len())
            .filter(|index| !seats.iter().any(|seat| seat.index == *index))
            .filter(|index| may(&candidates[*index]))
            .collect();
        standby.sort_by_key(|index| candidates[*index].priority);
        let first = seats.first().map_or(1.0, |seat| seat.weight);
        Self {
            weight: seats.iter().map(|seat| seat.weight).sum(),
            #[expect(clippy::float_cmp, reason = "equal configured weights are equal to the bit")]
            is_even: seats.iter().all(|seat| seat.weight == first),
            is_panic: enough.is_none() && !candidates.is_empty(),
            seats,
            standby,
        }
    }

    fn turn(&self, index: usize) -> f64 {
        self.seats.iter().find(|seat| seat.index == index).map_or(0.0, |seat| seat.turn)
    }

    /// Whether too few are left, so that all are used.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.is_panic
    }

    /// Whether there is an endpoint for a request that has been to those in `tried`.
    #[must_use]
    pub fn has_other(&self, tried: &Tried) -> bool {
        let mut all = self.seats.iter().map(|seat| &seat.index).chain(&self.standby);
        all.any(|index| !tried.has(*index))
    }

    /// The endpoint for a request that has been to those in `tried`: none if there is no other.
    /// `draw` is uniform over its range, `load` the number of requests that an endpoint has.
    pub fn pick(
        &mut self,
        balance: Balance,
        draw: u64,
        tried: &Tried,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        if !tried.is_empty() {
            return self.pick_again(balance, draw, tried, load);
        }
        match balance {
            Balance::LeastRequest => self.least_request(draw, load),
            Balance::RoundRobin => self.round_robin(),
        }
    }

    /// The same among those that are left. Only a retry comes here.
    fn pick_again(
        &self,
        balance: Balance,
        draw: u64,
        tried: &Tried,
        load: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        let left: Vec<_> = self.seats.iter().filter(|seat| !tried.has(seat.index)).collect();
        if left.is_empty() {
            return self.standby.iter().copied().find(|index| !tried.has(*index));
        }
        let seats = left.iter().map(|seat| Seat { index: seat.index, ..**seat });
        let mut rest = Self {
            seats: seats.collect(),
            weight: left.iter().map(|seat| seat.weight).sum(),
            standby: Vec::new(),
            is_even: self.is_even,
            is_panic: self.is_panic,
        };
        rest.pick(balance, draw, &Tried::default(), load)
    }

    fn least_request(&self, draw: u64, load: impl Fn(usize) -> usize) -> Option<usize> {
        let [first, second] = match &self.seats[..] {
            [] => return None,
            [only] => return Some(only.index),
            many => {
                let first = self.draw(draw >> 32, None);
                [&many[first], &many[self.draw(draw & 0xFFFF_FFFF, Some(first))]]
            }
        };
        // Requests for each unit of weight. Equal ones go to the first, which was drawn by weight: so a
        // light one gets its share also while all are idle.
        #[expect(clippy::cast_precision_loss, reason = "requests in flight are far below 2^53")]
        let cost = |seat: &Seat| load(seat.index) as f64 / seat.weight;
        Some(if cost(second) < cost(first) { second.index } else { first.index })
    }

    /// A seat by its weight, other than `not`; `draw` is below 2^32.
    fn draw(&self, draw: u64, not: Option<usize>) -> usize {
        let others = self.seats.len() - usize::from(not.is_some());
        if self.is_even {
            let place = ((draw * others as u64) >> 32) as usize;
            return place + usize::from(not.is_some_and(|not| place >= not));
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^32")]
        let share = draw as f64 / 4_294_967_296.0;
        let mut left = share * (self.weight - not.map_or(0.0, |not| self.seats[not].weight));
        let mut last = 0;
        for (place, seat) in self.seats.iter().enumerate().filter(|(place, _)| not != Some(*place))
        {
            last = place;
            left -= seat.weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// Weighted and smooth: of weights 2 and 1 the turns are a b a, not a a b.
    fn round_robin(&mut self) -> Option<usize> {
        for seat in &mut self.seats {
            seat.turn += seat.weight;
        }
        let next = self.seats.iter_mut().reduce(
            |best, seat| {
                if seat.turn > best.turn { seat } else { best }
            },
        )?;
        next.turn -= self.weight;
        Some(next.index)
    }
}

/// `part` of `all`, which is not zero.
fn ratio(part: usize, all: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a path has few endpoints")]
    let ratio = part as f64 / all as f64;
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Candidate =
        Candidate { health: Health::Up, is_ejected: false, weight: 1.0, priority: 0 };
    const DOWN: Candidate = Candidate { health: Health::Down, ..UP };
    const OUT: Candidate = Candidate { is_ejected: true, ..UP };
    const NEW: Candidate = Candidate { health: Health::Unchecked, ..UP };

    fn roster(candidates: &[Candidate]) -> Roster {
        Roster::new(candidates, 0.25, &Roster::default())
    }

    /// Uniform enough, and the same in each run.
    fn draws() -> impl Iterator<Item = u64> {
        (1_u64..).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ n)
    }

    /// How often each of `number` endpoints is picked in 10,000 requests that all have ended.
    fn shares(candidates: &[Candidate], balance: Balance) -> Vec<u32> {
        let mut roster = roster(candidates);
        let mut counts = vec![0; candidates.len()];
        for draw in draws().take(10_000) {
            let index = roster.pick(balance, draw, &Tried::default(), |_| 0).unwrap();
            counts[index] += 1;
        }
        counts
    }

    fn seats(candidates: &[Candidate]) -> (Vec<usize>, bool) {
        let roster = roster(candidates);
        (roster.seats.iter().map(|seat| seat.index).collect(), roster.is_panic)
    }

    #[test]
    fn who_takes_requests() {
        let standby = Candidate { priority: 1, ..UP };
        for (candidates, expected, is_panic) in [
            (&[][..], &[][..], false),
            (&[UP, UP, UP], &[0, 1, 2], false),
            (&[UP, DOWN, OUT], &[0], false),
            // Nobody was asked yet, or nobody asks.
            (&[NEW, NEW], &[0, 1], false),
            (&[NEW, OUT], &[0], false),
            // One that appeared waits for its first probe while others are known to be up.
            (&[UP, NEW], &[0], false),
            (&[DOWN, NEW], &[1], false),
            (&[UP, NEW, NEW, NEW, NEW, NEW], &[0], false),
            // Fewer than a quarter: all.
            (&[UP, DOWN, DOWN, DOWN], &[0], false),
            (&[UP, DOWN, DOWN, DOWN, DOWN], &[0, 1, 2, 3, 4], true),
            (&[DOWN], &[0], true),
            (&[OUT, DOWN], &[0, 1], true),
            // The next priority steps in when too few of the first are left.
            (&[UP, standby], &[0], false),
            (&[DOWN, standby], &[1], false),
            (&[DOWN, Candidate { priority: 1, ..DOWN }], &[0, 1], true),
        ] {
            assert_eq!(seats(candidates), (expected.to_vec(), is_panic), "{candidates:?}");
        }
    }

    #[test]
    fn requests_go_by_weight() {
        let weights = [1.0, 2.0, 5.0].map(|weight| Candidate { weight, ..UP });
        let counts = shares(&weights, Balance::RoundRobin);
        assert_eq!(counts, [1_250, 2_500, 6_250]);
        let even = shares(&[UP; 4], Balance::LeastRequest);
        assert!(even.iter().all(|count| (2_300..2_700).contains(count)), "{even:?}");
        let two = [1.0, 3.0].map(|weight| Candidate { weight, ..UP });
        // With two endpoints both are always compared: load decides, which the loads below show.
        let mut roster = roster(&two);
        let mut load = [0, 0];
        for draw in draws().take(400) {
            let tried = Tried::default();
            load[roster.pick(Balance::LeastRequest, draw, &tried, |i| load[i]).unwrap()] += 1;
        }
        assert!((98..=102).contains(&load[0]), "{load:?}");
    }

    #[test]
    fn a_light_endpoint_gets_its_share_also_while_all_are_idle() {
        let warming = [1.0, 1.0, 1.0, 0.1].map(|weight| Candidate { weight, ..UP });
        let counts = shares(&warming, Balance::LeastRequest);
        // Its weight is 1 in 31.
        assert!((250..=400).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn turns_outlive_a_new_roster() {
        let three = [UP; 3];
        let mut roster = roster(&three);
        let mut counts = [0; 3];
        for _ in 0..99 {
            counts[roster.round_robin().unwrap()] += 1;
            roster = Roster::new(&three, 0.25, &roster);
        }
        assert_eq!(counts, [33; 3]);
    }

    #[test]
    fn round_robin_is_smooth() {
        let two = [2.0, 1.0].map(|weight| Candidate { weight, ..UP });
        let mut roster = roster(&two);
        let turns: Vec<_> = (0..6).filter_map(|_| roster.round_robin()).collect();
        assert_eq!(turns, [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn of_two_the_one_with_fewer_in_flight_is_taken() {
        let mut roster = roster(&[UP, UP]);
        for draw in draws().take(100) {
            let tried = Tried::default();
            let pick = roster.pick(Balance::LeastRequest, draw, &tried, |index| [5, 4][index]);
            assert_eq!(pick, Some(1));
        }
    }

    #[test]
    fn two_different_ones_are_always_compared() {
        let uneven = [1.0, 100.0, 1.0].map(|weight| Candidate { weight, ..UP });
        for candidates in [&[UP; 3][..], &uneven] {
            let roster = roster(candidates);
            for draw in draws().take(10_000) {
                let first = roster.draw(draw >> 32, None);
                assert_ne!(first, roster.draw(draw & 0xFFFF_FFFF, Some(first)));
            }
        }
        let ends = roster(&uneven);
        assert_eq!((ends.draw(0, None), ends.draw(u64::from(u32::MAX), None)), (0, 2));
        assert_eq!((ends.draw(0, Some(0)), ends.draw(u64::from(u32::MAX), Some(2))), (1, 1));
    }

    #[test]
    fn a_retry_goes_elsewhere_or_nowhere() {
        for balance in [Balance::LeastRequest, Balance::RoundRobin] {
            let mut roster = roster(&[UP; 3]);
            let mut tried = Tried::default();
            for _ in 0..3 {
                let index = roster.pick(balance, 7 << 40, &tried, |_| 0).unwrap();
                assert!(!tried.has(index));
                tried.add(index);
            }
            assert_eq!(roster.pick(balance, 7 << 40, &tried, |_| 0), None);
        }
    }

    #[test]
    fn a_retry_that_finds_no_other_goes_to_the_next_priority() {
        let of = |priority| Candidate { priority, ..UP };
        let candidates = [of(2), of(0), Candidate { priority: 1, ..DOWN }, of(1)];
        let mut roster = roster(&candidates);
        let mut tried = Tried::default();
        for expected in [Some(1), Some(3), Some(0), None] {
            assert_eq!(roster.has_other(&tried), expected.is_some());
            let pick = roster.pick(Balance::LeastRequest, 0, &tried, |_| 0);
            assert_eq!(pick, expected);
            tried.add(pick.unwrap_or_default());
        }
    }
}
