//! The last few examples of each difference, with nothing in them that may not be shown.
//!
//! A ring: it keeps the newest of each spot, and the spots that differed last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::compare::noise::Spot;
use crate::compare::pair::Pair;
use crate::compare::redact::is_name;
use crate::compare::tree::Difference;
use crate::compare::view::Sample;

/// Samples of one spot.
const OF_SPOT_MAX: usize = 5;
/// Spots that have samples.
const SPOTS_MAX: usize = 256;
/// Bytes of all samples.
const BYTES_MAX: usize = 4 << 20;
/// What a sample takes beside its texts: its place in the maps, and two values.
const BYTES_EACH: usize = 512;
/// The parameters of a query whose names are shown.
const PARAMETERS_MAX: usize = 16;
/// The characters of a request id that are shown.
const ID_MAX: usize = 64;

/// The ring.
#[derive(Debug, Default)]
pub struct Samples {
    spots: BTreeMap<SpotOf, VecDeque<Sample>>,
    bytes: usize,
    number: u64,
}

type SpotOf = (Arc<str>, Arc<Spot>);

// === impl Sample ===

impl Sample {
    fn new(number: u64, pair: &Pair, difference: Difference) -> Self {
        let request_id = pair.request_id.chars().take(ID_MAX).collect();
        let method = pair.method.as_str().chars().take(ID_MAX).collect();
        let Difference { legacy, async_, .. } = difference;
        let query = parameters(&pair.target);
        Self { number, request_id, method, query, legacy, async_, confirmed: false }
    }

    fn bytes(&self) -> usize {
        let shown = [&self.legacy, &self.async_].into_iter().flatten();
        let shown = shown.map(|shown| shown.value.as_ref().map_or(0, String::len));
        let query = self.query.iter().map(|name| name.len() + size_of::<String>());
        BYTES_EACH + self.request_id.len() + self.method.len() + shown.chain(query).sum::<usize>()
    }
}

/// The names of a query's parameters.
fn parameters(target: &str) -> Vec<String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter(|part| !part.is_empty()).map(|part| {
        // Without a value it may be one.
        match part.split_once('=') {
            Some((name, _)) if is_name(name) => name,
            Some(_) | None => "*",
        }
    });
    names.take(PARAMETERS_MAX).map(str::to_owned).collect()
}

// === impl Samples ===

impl Samples {
    /// Keeps a difference of a pair, in place of the oldest where there is no room.
    pub fn keep(&mut self, pair: &Pair, spot: &Arc<Spot>, difference: Difference) {
        self.number += 1;
        let sample = Sample::new(self.number, pair, difference);
        self.bytes += sample.bytes();
        let of_spot = self.spots.entry((pair.route.clone(), spot.clone())).or_default();
        of_spot.push_back(sample);
        let oldest = if of_spot.len() > OF_SPOT_MAX { of_spot.pop_front() } else { None };
        self.bytes -= oldest.map_or(0, |sample| sample.bytes());
        while self.spots.len() > SPOTS_MAX || self.bytes > BYTES_MAX {
            self.drop_stalest();
        }
    }

    /// Drops the spot whose last sample is the oldest.
    fn drop_stalest(&mut self) {
        let last = |samples: &VecDeque<Sample>| samples.back().map_or(0, |sample| sample.number);
        let stalest = self.spots.iter().min_by_key(|(_, samples)| last(samples));
        let Some(key) = stalest.map(|(key, _)| key.clone()) else {
            self.bytes = 0;
            return;
        };
        let dropped = self.spots.remove(&key).unwrap_or_default();
        self.bytes -= dropped.iter().map(Sample::bytes).sum::<usize>();
    }

    /// Both paths were asked again about this pair: what they still differ in is confirmed, what was
    /// transient is no sample.
    pub fn settle(&mut self, pair: &Pair, spots: &[Arc<Spot>], differs: bool) {
        let id: String = pair.request_id.chars().take(ID_MAX).collect();
        for spot in spots {
            let key = (pair.route.clone(), spot.clone());
            let Some(samples) = self.spots.get_mut(&key) else {
                continue;
            };
            if differs {
                let of_pair = samples.iter_mut().filter(|sample| sample.request_id == id);
                of_pair.for_each(|sample| sample.confirmed = true);
                continue;
            }
            samples.retain(|sample| {
                let stays = sample.request_id != id;
                self.bytes -= if stays { 0 } else { sample.bytes() };
                stays
            });
            if samples.is_empty() {
                self.spots.remove(&key);
            }
        }
    }

    /// The samples of a spot, oldest first.
    pub fn of(&self, route: &Arc<str>, spot: &Arc<Spot>) -> impl Iterator<Item = &Sample> {
        self.spots.get(&(route.clone(), spot.clone())).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::compare::kind::Kind;
    use crate::compare::pair::Outcome;
    use crate::compare::redact::{Place, Shown};
    use crate::vocab::Side;

    fn pair(id: &str) -> Pair {
        Pair {
            route: "orders".into(),
            is_critical: false,
            rules: Arc::default(),
            method: Method::GET,
            target: "/orders/4711?page=2&s3cr3t99=1&bare".to_owned(),
            request_id: id.to_owned(),
            primary_side: Side::Legacy,
            primary: Outcome::Timeout,
            shadow: Outcome::Reset,
            again: None,
        }
    }

    fn spot(at: usize) -> Arc<Spot> {
        Arc::new(Spot { kind: Kind::Value, place: Place::Json(format!("/{at}")) })
    }

    fn difference(value: &str) -> Difference {
        let legacy = Some(Shown::plain("string", Some(value.to_owned())));
        Difference { kind: Kind::Value, place: Place::Whole, legacy, async_: None }
    }

    fn ids(samples: &Samples, at: usize) -> Vec<String> {
        samples.of(&"orders".into(), &spot(at)).map(|sample| sample.request_id.clone()).collect()
    }

    fn assert_counted(samples: &Samples) {
        let bytes: usize = samples.spots.values().flatten().map(Sample::bytes).sum();
        assert_eq!(samples.bytes, bytes);
    }

    #[test]
    fn the_newest_of_each_spot_stay() {
        let mut samples = Samples::default();
        for id in 0..8 {
            samples.keep(&pair(&id.to_string()), &spot(1), difference(""));
        }
        assert_eq!(ids(&samples, 1), ["3", "4", "5", "6", "7"]);
        assert_counted(&samples);
    }

    #[test]
    fn spots_and_bytes_are_bounded_and_the_stalest_go() {
        let mut samples = Samples::default();
        for at in 0..300 {
            samples.keep(&pair("a"), &spot(at), difference(""));
        }
        assert_eq!(samples.spots.len(), SPOTS_MAX);
        assert!(ids(&samples, 43).is_empty() && ids(&samples, 44).len() == 1);
        let large = "x".repeat(100_000);
        for at in 0..100 {
            samples.keep(&pair("b"), &spot(at), difference(&large));
        }
        assert!(samples.bytes <= BYTES_MAX && ids(&samples, 99) == ["b"]);
        assert_counted(&samples);
    }

    #[test]
    fn what_was_transient_is_no_sample() {
        let mut samples = Samples::default();
        for id in ["a", "b", "c"] {
            samples.keep(&pair(id), &spot(1), difference(""));
        }
        samples.settle(&pair("a"), &[spot(1), spot(2)], false);
        samples.settle(&pair("b"), &[spot(1)], true);
        let confirmed: Vec<bool> =
            samples.of(&"orders".into(), &spot(1)).map(|sample| sample.confirmed).collect();
        assert_eq!(
            (ids(&samples, 1), confirmed),
            (vec!["b".into(), "c".into()], vec![true, false])
        );
        assert_counted(&samples);
        samples.settle(&pair("b"), &[spot(1)], false);
        samples.settle(&pair("c"), &[spot(1)], false);
        assert_eq!((samples.spots.len(), samples.bytes), (0, 0));
    }

    #[test]
    fn of_a_target_only_names_are_kept() {
        let mut samples = Samples::default();
        samples.keep(&pair("a"), &spot(1), difference(""));
        let sample = samples.of(&"orders".into(), &spot(1)).next().unwrap().clone();
        assert_eq!(sample.query, ["page", "*", "*"]);
    }
}
