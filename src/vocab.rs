//! The words that every other file speaks: the two paths, weights, route and request identities.
//!
//! Owns newtypes and nothing else: no clock, no socket, no log. A value of one of these types is
//! right by construction, so no file above needs to check it again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two ways a request can go. Outside the code it is always called "path".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The threaded backend that serves today.
    Legacy,
    /// Its successor on an event loop.
    Async,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Async,
            Self::Async => Self::Legacy,
        }
    }

    /// Both paths, in the order in which they are always shown.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::Async];

    /// The name used in config, metrics, logs and headers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Async => "async",
        }
    }

    /// Position in an array with one element a path.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Legacy => 0,
            Self::Async => 1,
        }
    }

    /// The path called `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value for each path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerSide<T> {
    /// The legacy path's value.
    pub legacy: T,
    /// The async path's value.
    #[serde(rename = "async")]
    pub async_: T,
}

impl<T> PerSide<T> {
    /// Makes both values with `make`.
    pub fn from_fn(mut make: impl FnMut(Side) -> T) -> Self {
        Self { legacy: make(Side::Legacy), async_: make(Side::Async) }
    }

    /// The value of `side`.
    #[must_use]
    pub fn get(&self, side: Side) -> &T {
        match side {
            Side::Legacy => &self.legacy,
            Side::Async => &self.async_,
        }
    }

    /// The value of `side`, to be changed.
    pub fn get_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Legacy => &mut self.legacy,
            Side::Async => &mut self.async_,
        }
    }

    /// Each path with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Side, &T)> {
        Side::ALL.into_iter().map(|side| (side, self.get(side)))
    }
}

/// The share of requests that the async path gets, as a threshold in a space of 2^32 buckets.
///
/// A bucket goes to async if it is below the threshold, so 0.0 and 1.0 are exact: no bucket is
/// below 0 and each of the 2^32 is below 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u64);

impl Default for Weight {
    /// Nothing goes to the async path.
    fn default() -> Self {
        Self::ZERO
    }
}

impl Weight {
    /// Nothing goes to the async path.
    pub const ZERO: Self = Self(0);
    /// Everything goes to the async path.
    pub const ONE: Self = Self(1 << 32);

    /// The weight for `share`, which must lie in 0.0 to 1.0 (NaN does not).
    #[must_use]
    pub fn from_share(share: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^32")]
        Some(Self((share * 4_294_967_296.0).round() as u64))
    }

    /// The share, 0.0 to 1.0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "at most 2^32: exact in an f64")]
    pub fn share(self) -> f64 {
        self.0 as f64 / 4_294_967_296.0
    }

    /// The share to six digits, as it was written: what people and documents are shown.
    #[must_use]
    pub fn rounded(self) -> f64 {
        (self.share() * 1e6).round() / 1e6
    }

    /// Whether this bucket belongs to the async path.
    #[must_use]
    pub const fn takes(self, bucket: u32) -> bool {
        (bucket as u64) < self.0
    }

    /// Whether this bucket lies in the first half of those of its path.
    #[must_use]
    pub const fn is_first_half(self, bucket: u32) -> bool {
        let middle = if self.takes(bucket) { self.0 / 2 } else { (self.0 + Self::ONE.0) / 2 };
        (bucket as u64) < middle
    }

    /// Whether the weight splits at all: neither 0 nor 1.
    #[must_use]
    pub fn is_split(self) -> bool {
        self != Self::ZERO && self != Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Six digits, without trailing zeros: 0.1 is shown as it was written.
        let text = format!("{:.6}", self.share());
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A route's place in the tables of metrics and split counters; stable for the process's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u16);

/// How many route names one process may ever see, reloads included: it bounds every table.
pub const ROUTES_MAX: usize = 256;

/// The name of what matches no configured route.
pub const DEFAULT_ROUTE: &str = "default";

/// Why a request went the way it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The route is pinned to a path.
    Pin,
    /// The force header named the path.
    Forced,
    /// The request's key fell into the path's buckets.
    Key,
    /// The even spread's turn.
    Spread,
    /// The other path could not answer.
    Failover,
}

impl Reason {
    /// All reasons, in the order of their precedence.
    pub const ALL: [Self; 5] = [Self::Pin, Self::Forced, Self::Key, Self::Spread, Self::Failover];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Forced => "forced",
            Self::Key => "key",
            Self::Spread => "spread",
            Self::Failover => "failover",
        }
    }
}

/// How a request was routed, as far as the guard has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Its path; `None` before that is decided.
    pub side: Option<Side>,
    /// Its route.
    pub route: RouteId,
    /// The epoch in which it was routed.
    pub epoch: u64,
    /// Whether the weight sent it where it went: not a pin, a force header or a failover.
    pub is_weighed: bool,
    /// Whether it is in the first half of its path's buckets: of two halves that are treated alike,
    /// the differences tell how much chance alone makes.
    pub is_first_half: bool,
}

/// How an attempt at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply other than 4xx and 5xx.
    Success,
    /// With a reply of 4xx.
    ClientError,
    /// With a reply of 5xx, with none, or with a broken one.
    Error,
    /// At a deadline.
    Timeout,
    /// The client left first.
    Left,
}

/// What became of a request that was to be sent again, to another endpoint or to the other path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// It was answered.
    Success,
    /// It failed there too.
    Failure,
    /// It was not sent: the budget was spent.
    OverBudget,
    /// It was not sent: its body had outgrown the buffer.
    TooLarge,
}

impl Resend {
    /// All of them, for tables of metrics.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::OverBudget, Self::TooLarge];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::OverBudget => "over_budget",
            Self::TooLarge => "too_large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_exact() {
        for bucket in [0, 1, u32::MAX / 2, u32::MAX] {
            assert!(!Weight::ZERO.takes(bucket));
            assert!(Weight::ONE.takes(bucket));
        }
        assert_eq!(Weight::from_share(0.0), Some(Weight::ZERO));
        assert_eq!(Weight::from_share(1.0), Some(Weight::ONE));
    }

    #[test]
    fn shares_outside_zero_to_one_are_refused() {
        for share in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
            assert_eq!(Weight::from_share(share), None, "{share}");
        }
    }

    #[test]
    fn a_weight_is_shown_as_it_was_written() {
        for (share, shown) in
            [(0.0, "0"), (0.1, "0.1"), (0.25, "0.25"), (0.001, "0.001"), (1.0, "1")]
        {
            assert_eq!(Weight::from_share(share).map(|w| w.to_string()).as_deref(), Some(shown));
        }
    }

    #[test]
    fn a_path_is_found_by_its_name_in_any_case() {
        assert_eq!(Side::from_name(b"Legacy"), Some(Side::Legacy));
        assert_eq!(Side::from_name(b"async"), Some(Side::Async));
        assert_eq!(Side::from_name(b"new"), None);
    }
}
