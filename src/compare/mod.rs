//! The comparison of the two paths: what differs in their answers, and what that says of the async one.
//!
//! It does no I/O and starts no task. The mirror feeds it with pairs of answers, on a thread of its own;
//! the admin API and the guard read what is known. Answers are compared outside of the lock, which is
//! held for counting only. No answer is kept: of each difference its spot is counted, and a few examples
//! stay, without what may not be shown.

pub mod answers;
pub mod body;
pub mod book;
pub mod gate;
pub mod headers;
pub mod json;
pub mod kind;
pub mod noise;
pub mod number;
pub mod pair;
pub mod redact;
pub mod rules;
pub mod samples;
pub mod tree;
pub mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compare::answers::{Findings, compare, outcomes};
use crate::compare::book::Book;
use crate::compare::gate::{Gate, ROUTE_COMPARED_MIN, RouteFacts};
use crate::compare::noise::Spot;
use crate::compare::pair::{Outcome, Pair};
use crate::compare::redact::{Place, Redactor};
use crate::compare::samples::Samples;
use crate::compare::tree::Difference;
use crate::compare::view::{DiffLine, Diffs, LISTED_MAX, RouteDiffs, RuleHits};
use crate::guard::evidence::Rate;
use crate::vocab::ROUTES_MAX;

pub use crate::compare::kind::{Kind, MirrorResult};

/// The spots that are counted, of all routes: at most 1 MiB. Which members an answer has is a
/// backend's choice.
const SPOTS_MAX: usize = 4_096;

/// What is known of the differences of the two paths. One per process.
#[derive(Debug)]
pub struct Comparison {
    redactor: Redactor,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    routes: BTreeMap<Arc<str>, Book>,
    samples: Samples,
    duplicates: u64,
    left_out: u64,
}

/// What a pair was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What became of it.
    pub result: MirrorResult,
    /// Whether both paths are to be asked again, if there is capacity.
    pub confirm: bool,
    /// In what the answers differ, beyond noise; each once.
    pub kinds: Vec<Kind>,
}

// === impl Comparison ===

impl Comparison {
    /// Nothing is known yet. Values are shown by hashes with this `key`, which is to be random.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self { redactor: Redactor::new(key), books: Mutex::default() }
    }

    /// Compares a pair and counts it.
    pub fn take(&self, pair: &Pair) -> Judged {
        let Some(findings) = self.compare(pair, &pair.primary, &pair.shadow) else {
            return self.take_failure(pair);
        };
        // The primary path's answers stand as legacy's and async's: which is which says nothing here.
        let noise = pair.again.as_ref().and_then(|again| {
            let (first, second) = (pair.primary.reply()?, again.reply()?);
            Some(spots(&compare(first, second, &pair.rules, &self.redactor).differences))
        });
        let spots = spots(&findings.differences);
        let mut books = self.books();
        books.duplicates += u64::from(findings.has_duplicates);
        let mut room = books.room();
        let Some(book) = books.book(pair) else {
            return Judged::new(MirrorResult::Uncompared, Vec::new());
        };
        let mut left_out = 0;
        if let Some(noise) = noise {
            left_out += book.ask_twice(&noise, room);
            room = room.saturating_sub(noise.len());
        }
        let (real, more) = book.compare(&spots, room);
        left_out += more;
        books.left_out += left_out;
        for (spot, difference) in spots.iter().zip(findings.differences) {
            if real.contains(spot) {
                books.samples.keep(pair, spot, difference);
            }
        }
        let result = match (spots.is_empty(), real.is_empty()) {
            (true, _) => MirrorResult::Match,
            (false, true) => MirrorResult::Noise,
            (false, false) => MirrorResult::Mismatch,
        };
        let confirm = result == MirrorResult::Mismatch && pair.is_safe();
        Judged { confirm, ..Judged::new(result, kinds(&real)) }
    }

    /// One path did not answer, or neither did. Only what async owes counts against it.
    fn take_failure(&self, pair: &Pair) -> Judged {
        let (legacy, async_) = pair.by_side(&pair.primary, &pair.shadow);
        let result = match (pair.primary.reply(), &pair.shadow) {
            (Some(_), Outcome::Timeout) => MirrorResult::ShadowTimeout,
            (Some(_), Outcome::Reset) => MirrorResult::ShadowError,
            (None, Outcome::Reply(_)) if legacy.reply().is_some() => MirrorResult::Mismatch,
            (None, Outcome::Timeout | Outcome::Reset) | (_, Outcome::Reply(_)) => {
                return Judged::new(MirrorResult::Uncompared, Vec::new());
            }
        };
        if legacy.reply().is_some() {
            let difference = outcomes(legacy, async_);
            let mut books = self.books();
            if let Some(book) = books.book(pair) {
                book.failures += 1;
                let spot = Arc::new(spot(&difference));
                books.samples.keep(pair, &spot, difference);
            }
        }
        Judged::new(result, vec![Kind::Outcome])
    }

    /// Both paths were asked again about a pair that differed. What they differ in now need not be what
    /// they differed in then.
    pub fn confirm(&self, pair: &Pair, primary: &Outcome, shadow: &Outcome) -> MirrorResult {
        let (then, now) =
            (self.compare(pair, &pair.primary, &pair.shadow), self.compare(pair, primary, shadow));
        let (Some(then), Some(now)) = (then, now) else {
            // Without two answers nothing is confirmed.
            return MirrorResult::Mismatch;
        };
        let (then, now) = (spots(&then.differences), spots(&now.differences));
        let mut books = self.books();
        let Some(book) = books.book(pair) else {
            return MirrorResult::Mismatch;
        };
        let differs = now.iter().any(|spot| !book.spots.is_noise(spot, book.trials));
        book.confirm(&then, differs);
        books.samples.settle(pair, &then, differs);
        if differs { MirrorResult::Mismatch } else { MirrorResult::Transient }
    }

    /// There was no capacity to ask again about a pair that differed: it stays unconfirmed.
    pub fn not_confirmed(&self, pair: &Pair) {
        if let Some(book) = self.books().book(pair) {
            book.unasked += 1;
        }
    }

    /// Forgets all that was compared: one path has become another.
    pub fn reset(&self) {
        *self.books() = Books::default();
    }

    /// What it says of the async path. `routes` are those that are to be compared.
    #[must_use]
    pub fn gate(&self, routes: &[&str]) -> Gate {
        self.books().gate(routes)
    }

    /// All that is known, but for what concerns the mirror: its share, and whether it is switched off. `routes` are those that are to be compared.
    #[must_use]
    pub fn diffs(&self, routes: &[&str]) -> Diffs {
        self.books().diffs(routes)
    }

    fn compare(&self, pair: &Pair, primary: &Outcome, shadow: &Outcome) -> Option<Findings> {
        let (legacy, async_) = pair.by_side(primary.reply()?, shadow.reply()?);
        Some(compare(legacy, async_, &pair.rules, &self.redactor))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spot(difference: &Difference) -> Spot {
    Spot { kind: difference.kind, place: difference.place.clone() }
}

fn spots(differences: &[Difference]) -> Vec<Arc<Spot>> {
    differences.iter().map(|difference| Arc::new(spot(difference))).collect()
}

fn kinds(spots: &[Arc<Spot>]) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| spots.iter().any(|spot| spot.kind == *kind)).collect()
}

// === impl Judged ===

impl Judged {
    fn new(result: MirrorResult, kinds: Vec<Kind>) -> Self {
        Self { result, confirm: false, kinds }
    }
}

// === impl Books ===

impl Books {
    /// The book of a pair's route, as the pair says what the route is now. `None` beyond as many routes
    /// as one process may see.
    fn book(&mut self, pair: &Pair) -> Option<&mut Book> {
        if self.routes.len() >= ROUTES_MAX && !self.routes.contains_key(&pair.route) {
            return None;
        }
        let book = self.routes.entry(pair.route.clone()).or_default();
        book.is_critical = pair.is_critical;
        if !Arc::ptr_eq(&book.rules, &pair.rules) {
            book.rules = pair.rules.clone();
        }
        Some(book)
    }

    /// How many spots there is room for; what differed only once makes room.
    fn room(&mut self) -> usize {
        let spots =
            |books: &Self| books.routes.values().map(|book| book.spots.number()).sum::<usize>();
        if spots(self) + tree::DIFFERENCES_MAX > SPOTS_MAX {
            let books = self.routes.values_mut();
            self.left_out += books.map(|book| book.spots.forget_rare()).sum::<u64>();
        }
        SPOTS_MAX.saturating_sub(spots(self))
    }

    /// Each route's name and book; those of `routes` that have none yet have an empty one.
    fn named<'a>(
        &'a self,
        routes: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, Option<&'a Book>)> {
        let known = self.routes.iter().map(|(route, book)| (route.as_ref(), Some(book)));
        let others = routes.iter().filter(|route| !self.routes.contains_key(**route));
        known.chain(others.map(|route| (*route, None)))
    }

    fn gate(&self, routes: &[&str]) -> Gate {
        let facts = |(route, book): (&str, Option<&Book>)| {
            let of = |number: fn(&Book) -> u64| book.map_or(0, number);
            let regressions = book.into_iter().filter(|book| book.is_critical);
            let n = of(Book::asked);
            RouteFacts {
                route: route.to_owned(),
                rate: Rate { events: of(Book::counted).min(n), n },
                proven: of(Book::proven),
                regressions: regressions
                    .flat_map(Book::regressions)
                    .map(|spot| (spot.kind, spot.place.to_string()))
                    .collect(),
            }
        };
        gate::judge(&self.named(routes).map(facts).collect::<Vec<_>>())
    }

    fn diffs(&self, routes: &[&str]) -> Diffs {
        let mut differences: Vec<_> =
            self.routes.iter().flat_map(|(route, book)| self.lines(route, book)).collect();
        differences.sort_by_key(|(finding, line)| (*finding, std::cmp::Reverse(line.differed)));
        let beyond = differences.len().saturating_sub(LISTED_MAX) as u64;
        let listed = differences.into_iter().take(LISTED_MAX);
        let rules = self.routes.iter().flat_map(|(route, book)| {
            book.rules.hits().map(|(rule, text, hits)| RuleHits {
                route: route.to_string(),
                rule: rule.to_owned(),
                text,
                hits,
            })
        });
        Diffs {
            share: 0.0,
            switched_off: None,
            gate: self.gate(routes),
            routes: self.named(routes).map(|(route, book)| route_diffs(route, book)).collect(),
            differences: listed.map(|(_, line)| line).collect(),
            left_out: self.left_out + beyond,
            duplicate_names: self.duplicates,
            rules: rules.collect(),
        }
    }

    fn lines(&self, route: &Arc<str>, book: &Book) -> Vec<(noise::Finding, DiffLine)> {
        let line = |spot: &Arc<Spot>, counts: noise::Counts, trials: noise::Trials| {
            let finding = counts.finding(spot, trials);
            let line = DiffLine {
                finding: finding.name().to_owned(),
                route: route.to_string(),
                kind: spot.kind,
                place: spot.place.to_string(),
                differed: counts.paths,
                compared: trials.compared,
                noise: counts.itself,
                asked_twice: trials.asked_twice,
                samples: self.samples.of(route, spot).cloned().collect(),
            };
            (finding, line)
        };
        let mut lines: Vec<_> =
            book.spots.iter().map(|(spot, counts)| line(spot, counts, book.trials)).collect();
        if book.failures > 0 {
            let failed = Arc::new(Spot { kind: Kind::Outcome, place: Place::Whole });
            let counts = noise::Counts { paths: book.failures, itself: 0 };
            let trials = noise::Trials { compared: book.asked(), ..book.trials };
            lines.push(line(&failed, counts, trials));
        }
        lines
    }
}

fn route_diffs(route: &str, book: Option<&Book>) -> RouteDiffs {
    let Some(book) = book else {
        return RouteDiffs { route: route.to_owned(), ..RouteDiffs::default() };
    };
    let tally = book.mismatches();
    RouteDiffs {
        route: route.to_owned(),
        critical: book.is_critical,
        compared: book.trials.compared,
        matched: book.matched,
        noise: book.noise,
        unconfirmed: tally.unconfirmed,
        unasked: book.unasked,
        confirmed: tally.confirmed,
        transient: tally.transient,
        failures: book.failures,
        asked_twice: book.trials.asked_twice,
        verified: book.asked() >= ROUTE_COMPARED_MIN,
    }
}
