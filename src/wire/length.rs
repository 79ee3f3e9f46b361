//! What a Content-Length says (RFC 9110 section 8.6): one plain number, or several that agree.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};

/// What the Content-Length of a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// One plain number, or nothing.
    One,
    /// This many bytes, several times, or behind zeros that another recipient might read as octal.
    Agree(u64),
    /// Different numbers, or something that is none.
    Odd,
}

/// Reads all of its lines.
#[must_use]
pub fn settle(headers: &HeaderMap) -> Lengths {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else {
        return Lengths::One;
    };
    if lines.next().is_none() && decimal(first.as_bytes()).is_some() {
        return Lengths::One;
    }
    let lines = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let mut lengths = lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|length| decimal(without_zeros(length.trim_ascii())));
    match lengths.next().flatten() {
        Some(length) if lengths.all(|other| other == Some(length)) => Lengths::Agree(length),
        Some(_) | None => Lengths::Odd,
    }
}

/// Digits only, no sign, and no leading zero that another parser might read as octal.
#[must_use]
pub fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || (value.len() > 1 && value[0] == b'0') {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let last = digits.len().saturating_sub(1);
    let zeros = digits.iter().take(last).take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: Lengths) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_LENGTH, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(settle(&headers), expected, "{lines:?}");
    }

    #[test]
    fn lengths_that_agree_are_one_and_others_are_odd() {
        check(&[], Lengths::One);
        check(&["0"], Lengths::One);
        check(&["18446744073709551615"], Lengths::One);
        for lines in [&["2", "2"][..], &["2, 2"], &["002"], &["2,02", "2 , 2"]] {
            check(lines, Lengths::Agree(2));
        }
        check(&["00"], Lengths::Agree(0));
        let odd = ["", "x", "+2", "-2", "2,", ",2", "2, 3", "2 2", "0x2", "18446744073709551616"];
        for line in odd {
            check(&[line], Lengths::Odd);
            check(&["2", line], Lengths::Odd);
        }
    }
}
