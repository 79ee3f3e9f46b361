//! The split itself: buckets against a threshold, and the even spread that makes the buckets.
//!
//! A request's bucket is one of 2^32; it goes to the async path if the bucket is below the weight's
//! threshold. Requests without a key take turns: turn `n` has the bucket `n / golden ratio`, taken
//! modulo 1. That sequence is the evenest there is for a counter (its discrepancy is bounded by
//! 3 / N for any run of N turns: Niederreiter, Random Number Generation and Quasi-Monte Carlo
//! Methods, ch. 3), so 1 % of any 300 requests is 2 to 4, where a random draw gives 0 to 9. An
//! error-diffusing counter would be evener still, but it aliases with periodic traffic: at weight
//! 0.5 a client that alternates two kinds of request would send one kind to one path for ever.

use crate::vocab::{Side, Weight};

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The path of a bucket.
#[must_use]
pub fn side(weight: Weight, bucket: u32) -> Side {
    if weight.takes(bucket) { Side::Async } else { Side::Legacy }
}

/// The bucket of turn `turn` of the even spread.
#[must_use]
pub fn spread(turn: u64) -> u32 {
    // The upper half of 64 bits.
    (turn.wrapping_mul(GOLDEN) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(weight: f64, turns: std::ops::Range<u64>) -> i64 {
        let weight = Weight::from_share(weight).unwrap();
        let taken = turns.filter(|turn| side(weight, spread(*turn)) == Side::Async).count();
        i64::try_from(taken).unwrap()
    }

    #[test]
    fn one_percent_of_any_300_requests_is_three_plus_or_minus_one() {
        for start in (0..200_000).chain(u64::MAX / 2..u64::MAX / 2 + 1_000) {
            let taken = count(0.01, start..start + 300);
            assert!((2..=4).contains(&taken), "{taken} of 300 from turn {start}");
        }
    }

    #[test]
    fn zero_and_one_are_exact_over_100_000_turns() {
        assert_eq!(count(0.0, 0..100_000), 0);
        assert_eq!(count(1.0, 0..100_000), 100_000);
    }

    #[test]
    fn every_prefix_is_within_four_requests_of_its_share() {
        for weight in [0.001, 0.01, 0.1, 0.25, 0.5, 0.9] {
            let threshold = Weight::from_share(weight).unwrap();
            let mut taken = 0.0;
            for turn in 0..100_000_u32 {
                taken += f64::from(u8::from(threshold.takes(spread(u64::from(turn)))));
                let due = weight * f64::from(turn + 1);
                assert!((taken - due).abs() <= 4.0, "{taken} of {due} at {turn}, {weight}");
            }
        }
    }
}
