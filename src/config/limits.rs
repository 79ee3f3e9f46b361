//! Values of a config that have a range: read with their default, and a fault outside of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::section::Section;
use crate::config::values::{Share, Size, Time};
use crate::vocab::Weight;

/// Most connections, waiting requests or threads that a config may ask for: more is a mistake.
const COUNT_MAX: usize = 1_000_000;

/// A default share; it must lie in 0 to 1.
pub(crate) fn share(share: f64) -> Share {
    Share(Weight::from_share(share).unwrap_or(Weight::ZERO))
}

/// A time span that may be zero.
pub(crate) fn time(table: &mut Section<'_>, key: &str, default_seconds: u64) -> Duration {
    table.or(key, Time(Duration::from_secs(default_seconds))).0
}

/// A time span over zero.
pub(crate) fn positive(table: &mut Section<'_>, key: &str, default_seconds: u64) -> Duration {
    let default = Duration::from_secs(default_seconds);
    let Some(value) = table.optional::<Time>(key) else {
        return default;
    };
    if value.get_ref().0.is_zero() {
        table.fault(value.span(), key, "must be over zero: each wait has a limit");
    }
    value.into_inner().0
}

/// A time span within `range`.
pub(crate) fn time_within(
    table: &mut Section<'_>,
    key: &str,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Duration {
    let Some(value) = table.optional::<Time>(key) else {
        return default;
    };
    if !range.contains(&value.get_ref().0) {
        let (low, high) = (range.start(), range.end());
        table.fault(value.span(), key, format!("must be from {low:?} to {high:?}"));
    }
    value.into_inner().0
}

/// A number within `range`, which neither infinity nor NaN is; outside of it the default is taken, so
/// that what is compared with it is not faulty too.
pub(crate) fn number(
    table: &mut Section<'_>,
    key: &str,
    default: f64,
    range: RangeInclusive<f64>,
) -> f64 {
    let Some(value) = table.optional::<f64>(key) else {
        return default;
    };
    if range.contains(value.get_ref()) {
        return value.into_inner();
    }
    let (low, high) = (range.start(), range.end());
    table.fault(value.span(), key, format!("must be from {low} to {high}"));
    default
}

/// A count that may be zero.
pub(crate) fn count(table: &mut Section<'_>, key: &str, default: usize) -> usize {
    let Some(value) = table.optional::<usize>(key) else {
        return default;
    };
    if *value.get_ref() > COUNT_MAX {
        table.fault(value.span(), key, format!("is over the limit of {COUNT_MAX}"));
    }
    value.into_inner()
}

/// A count over zero.
pub(crate) fn at_least_one(table: &mut Section<'_>, key: &str, default: usize) -> usize {
    let span = table.span();
    let value = count(table, key, default);
    if value == 0 {
        table.fault(span, key, "must be at least 1");
    }
    value
}

/// A size within `range`, in bytes.
pub(crate) fn size(
    table: &mut Section<'_>,
    key: &str,
    default: u64,
    range: RangeInclusive<u64>,
) -> u64 {
    let Some(value) = table.optional::<Size>(key) else {
        return default;
    };
    if !range.contains(&value.get_ref().0) {
        let (low, high) = (range.start(), range.end());
        table.fault(value.span(), key, format!("must be from {low} to {high} bytes"));
    }
    value.into_inner().0
}
