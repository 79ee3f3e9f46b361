//! JSON numbers, compared by value: `1`, `1.0` and `10e-1` are one number.
//!
//! Below 2^53 a number is what an IEEE double makes of it, as most readers do. From there on doubles
//! lose digits, so identifiers that differ would be equal: there the decimal digits count.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// From here on not each integer is a double.
const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// A number, so that two are equal if they have the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// The bits of a double; there is one zero.
    Double(u64),
    /// A sign, the significant digits, and the power of ten of the last one.
    Decimal(bool, String, i64),
}

/// Whether two numbers, as JSON writes them, have the same value.
#[must_use]
pub fn is_same(left: &str, right: &str) -> bool {
    left == right || value(left) == value(right)
}

/// Whether they differ by no more than `tolerance`, as a part of the larger one.
#[must_use]
pub fn is_within(left: &str, right: &str, tolerance: f64) -> bool {
    let (left, right) = (double(left), double(right));
    let largest = left.abs().max(right.abs());
    largest.is_finite() && (left - right).abs() <= tolerance * largest
}

/// Hashes a number so that equal ones have equal hashes.
pub fn hash(text: &str, state: &mut impl Hasher) {
    match value(text) {
        Value::Double(bits) => bits.hash(state),
        Value::Decimal(is_negative, digits, exponent) => {
            (is_negative, digits, exponent).hash(state);
        }
    }
}

/// By size, as doubles.
#[must_use]
pub fn order(left: &str, right: &str) -> Ordering {
    double(left).total_cmp(&double(right))
}

fn double(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

fn value(text: &str) -> Value {
    let double = double(text);
    if double.abs() < EXACT_BELOW && !is_underflow(text, double) {
        // Adding 0 makes one zero of two.
        return Value::Double((double + 0.0).to_bits());
    }
    decimal(text)
}

/// Whether a number that is not 0 is too small for a double.
fn is_underflow(text: &str, double: f64) -> bool {
    let digits = text.split(['e', 'E']).next().unwrap_or(text);
    double == 0.0 && digits.contains(|c: char| ('1'..='9').contains(&c))
}

fn decimal(text: &str) -> Value {
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // An exponent beyond 64 bits is as good as endless.
    let far = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
    let exponent = exponent
        .trim_start_matches('+')
        .parse()
        .map_or(far, |exponent: i64| exponent.clamp(i64::MIN / 2, i64::MAX / 2));
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX / 4);
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let exponent = exponent - length(fraction) + length(&all) - length(digits);
    Value::Decimal(is_negative, digits.trim_start_matches('0').to_owned(), exponent)
}

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use super::*;

    fn hashed(text: &str) -> u64 {
        let mut state = DefaultHasher::new();
        hash(text, &mut state);
        state.finish()
    }

    #[test]
    fn numbers_are_compared_by_value_and_large_ones_digit_by_digit() {
        for (left, right, expected) in [
            ("1", "1.0", true),
            ("1", "10e-1", true),
            ("0", "-0", true),
            ("0", "0e99999999999999999999", true),
            ("1", "2", false),
            ("1", "-1", false),
            ("0.1", "0.10000000000000000555", true),
            ("9007199254740993", "9007199254740992", false),
            ("9007199254740993", "9007199254740993.0", true),
            ("9007199254740993", "9.007199254740993e15", true),
            ("1e20", "100000000000000000000", true),
            ("1e400", "1e401", false),
            ("1e400", "10E+399", true),
            ("-1e400", "1e400", false),
            ("1e-400", "1e-401", false),
            ("1e-400", "0", false),
        ] {
            assert_eq!(is_same(left, right), expected, "{left} and {right}");
            assert_eq!(hashed(left) == hashed(right), expected, "{left} and {right}, hashed");
        }
    }

    #[test]
    fn a_tolerance_is_a_part_of_the_larger_number() {
        for (left, right, tolerance, expected) in [
            ("100", "101", 0.01, true),
            ("100", "102", 0.01, false),
            ("-100", "-101", 0.01, true),
            ("1", "-1", 0.01, false),
            ("0", "0.001", 0.01, false),
            ("0", "0", 0.0, true),
            ("1e400", "1e400", 0.5, false),
        ] {
            assert_eq!(is_within(left, right, tolerance), expected, "{left} and {right}");
        }
    }
}
