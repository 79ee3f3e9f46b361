//! Looks at threads become findings.
//!
//! Pure: one [`Look`] after another comes in, counted by what it saw, and the counts go out in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::audit::findings::{Finding, Site};
use crate::audit::wait::Group;

/// Distinct findings that are counted. A program that computes all over its code has hundreds.
const FINDINGS_MAX: usize = 4096;
/// Threads that are told apart at each, so that a thread for each request takes no memory without end.
const THREADS_MAX: usize = 4096;

/// What one look at a thread saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The thread's id.
    pub thread: u32,
    /// What it saw.
    pub seen: Seen,
    /// CPU time that the thread used since the look before.
    pub cpu: Duration,
}

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A thread that waited for work.
    Idle,
    /// A thread whose stack was not to be had, as it moved on.
    Torn,
    /// A busy thread that moved on meanwhile: its stack may be of another moment than its wait. It
    /// counts where the two have been seen together before, or else short waits would be left out.
    Moved(Spot),
    /// A busy thread.
    Busy(Spot),
}

/// Where and by what a thread is busy: looks that agree in all of this are one finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The call site.
    pub site: Option<Site>,
    /// The thread's name, where there is no site.
    pub name: Option<String>,
    /// The kind of wait.
    pub group: Group,
    /// By what it waits.
    pub primitive: &'static str,
    /// The library function that the site calls.
    pub through: Option<String>,
    /// Whether an event loop stands still.
    pub is_on_loop: bool,
}

/// The counts so far.
#[derive(Debug, Default)]
pub struct Tally {
    spots: HashMap<Spot, Count>,
    groups: BTreeMap<Group, u64>,
    idle: u64,
    torn: u64,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Count {
    samples: u64,
    threads: BTreeSet<u32>,
    cpu: Duration,
}

impl Tally {
    /// Counts a look.
    pub fn add(&mut self, look: Look) {
        let spot = match look.seen {
            Seen::Idle => return self.idle += 1,
            Seen::Torn => return self.torn += 1,
            Seen::Moved(spot) if !self.spots.contains_key(&spot) => return self.torn += 1,
            Seen::Moved(spot) | Seen::Busy(spot) => spot,
        };
        *self.groups.entry(spot.group).or_default() += 1;
        if self.spots.len() >= FINDINGS_MAX && !self.spots.contains_key(&spot) {
            self.left_out += 1;
            return;
        }
        let count = self.spots.entry(spot).or_default();
        count.samples += 1;
        count.cpu += look.cpu;
        if count.threads.len() < THREADS_MAX {
            count.threads.insert(look.thread);
        }
    }

    /// Looks at a thread that waited for work.
    #[must_use]
    pub fn idle(&self) -> u64 {
        self.idle
    }

    /// Looks during which a thread moved on.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Looks at a busy thread.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.groups.values().sum()
    }

    /// Busy looks that are in no finding, as there were too many of those already.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The busy looks by what the thread did.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<Group, u64> {
        &self.groups
    }

    /// What was found, most often first; of equals, in the order of their places.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let busy = self.busy() as f64;
        let mut all: Vec<_> = self.spots.iter().collect();
        all.sort_by(|(left, a), (right, b)| b.samples.cmp(&a.samples).then(left.cmp(right)));
        let finding = |(spot, count): (&Spot, &Count)| Finding {
            site: spot.site.clone(),
            name: spot.name.clone(),
            group: spot.group,
            primitive: spot.primitive.to_owned(),
            through: spot.through.clone(),
            samples: count.samples,
            share: count.samples as f64 / busy,
            threads: count.threads.len() as u64,
            cpu_seconds: count.cpu.as_secs_f64(),
            on_event_loop: spot.is_on_loop,
        };
        all.into_iter().map(finding).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, group: Group) -> Spot {
        let site = Site { file: "a.py".to_owned(), line, function: "f".to_owned() };
        Spot {
            site: Some(site),
            name: None,
            group,
            primitive: "p",
            through: None,
            is_on_loop: false,
        }
    }

    fn tally(looks: &[(u32, Seen)]) -> Tally {
        let mut tally = Tally::default();
        for (thread, seen) in looks {
            let cpu = Duration::from_millis(250);
            tally.add(Look { thread: *thread, seen: seen.clone(), cpu });
        }
        tally
    }

    #[test]
    fn looks_that_agree_are_one_finding_and_shares_are_of_the_busy_ones() {
        let (sleep, lock) = (at(1, Group::Sleep), at(1, Group::Lock));
        let tally = tally(&[
            (7, Seen::Moved(sleep.clone())),
            (7, Seen::Busy(sleep.clone())),
            (7, Seen::Moved(sleep.clone())),
            (7, Seen::Moved(sleep.clone())),
            (8, Seen::Busy(sleep)),
            (8, Seen::Busy(lock)),
            (9, Seen::Idle),
            (9, Seen::Torn),
        ]);
        assert_eq!((tally.busy(), tally.idle(), tally.torn(), tally.left_out()), (5, 1, 2, 0));
        let [first, second] = &tally.findings()[..] else { panic!("{tally:?}") };
        assert_eq!((first.samples, first.share, first.threads), (4, 0.8, 2));
        assert_eq!((first.group, first.cpu_seconds), (Group::Sleep, 1.0));
        assert_eq!((second.group, second.share, second.threads), (Group::Lock, 0.2, 1));
        assert_eq!(tally.groups(), &BTreeMap::from([(Group::Sleep, 4), (Group::Lock, 1)]));
    }

    #[test]
    fn equals_are_in_the_order_of_their_places() {
        let seen = |line| (1, Seen::Busy(at(line, Group::Disk)));
        let lines = |looks: &[_]| {
            let findings = tally(looks).findings().into_iter();
            findings.map(|finding| finding.site.unwrap().line).collect::<Vec<_>>()
        };
        assert_eq!(lines(&[seen(3), seen(1), seen(2), seen(2)]), [2, 1, 3]);
        assert_eq!(lines(&[]), [0; 0]);
    }

    #[test]
    fn there_is_a_limit_to_what_is_told_apart() {
        let limit = FINDINGS_MAX as u32;
        let looks: Vec<_> =
            (0..limit + 5).map(|line| (line, Seen::Busy(at(line, Group::Running)))).collect();
        let mut tally = tally(&looks);
        assert_eq!((tally.busy(), tally.left_out()), (u64::from(limit) + 5, 5));
        assert_eq!(tally.findings().len(), FINDINGS_MAX);
        // One that is known is counted still.
        tally.add(Look { thread: 1, seen: looks[0].1.clone(), cpu: Duration::ZERO });
        assert_eq!((tally.findings()[0].samples, tally.left_out()), (2, 5));
    }
}
