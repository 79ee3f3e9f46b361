//! From when until when a certificate is valid: the one field that webpki checks but does not tell.
//!
//! Reads the DER of RFC 5280 section 4.1 as far as its fifth field. No input panics; a certificate
//! that is not as it should be has no validity.

use jiff::Timestamp;

/// The tags of X.690 that are met on the way.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// Both ends belong to it (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Validity {
    /// That of a certificate in DER; `None` if it can't be read.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(certificate, SEQUENCE)?;
        let (fields, _) = expect(certificate, SEQUENCE)?;
        // Absent in version 1.
        let fields = expect(fields, VERSION).map_or(fields, |(_, rest)| rest);
        let (_serial, fields) = expect(fields, INTEGER)?;
        let (_signature, fields) = expect(fields, SEQUENCE)?;
        let (_issuer, fields) = expect(fields, SEQUENCE)?;
        let (validity, _) = expect(fields, SEQUENCE)?;
        let (tag, not_before, rest) = element(validity)?;
        let not_before = time(tag, not_before)?;
        let (tag, not_after, _) = element(rest)?;
        Some(Self { not_before, not_after: time(tag, not_after)? })
    }
}

/// The content of the element that `input` begins with, if it has this tag, and what follows.
fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(input)?;
    (found == tag).then_some((content, rest))
}

fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // The length of the length: no file that is read needs more than three.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |number, digit| number << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` after that.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (century, year_digits) = match tag {
        UTC_TIME => (if text < "5" { "20" } else { "19" }, 2),
        GENERALIZED_TIME => ("", 4),
        _ => return None,
    };
    let is_whole = text.len() == year_digits + 10 && text.bytes().all(|b| b.is_ascii_digit());
    if !is_whole {
        return None;
    }
    let (year, rest) = text.split_at(year_digits);
    // 9999 is how a certificate says that it never expires, and more than a timestamp can hold.
    if year == "9999" {
        return Some(Timestamp::MAX);
    }
    let part = |at: usize| &rest[at..at + 2];
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(part);
    format!("{century}{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_read_and_nothing_else() {
        let read = |tag, text: &str| time(tag, text.as_bytes()).map(|time| time.to_string());
        for (tag, text, shown) in [
            (UTC_TIME, "261125230308Z", "2026-11-25T23:03:08Z"),
            (UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z"),
            (UTC_TIME, "500101000000Z", "1950-01-01T00:00:00Z"),
            (GENERALIZED_TIME, "20500101000000Z", "2050-01-01T00:00:00Z"),
        ] {
            assert_eq!(read(tag, text).as_deref(), Some(shown), "{text}");
        }
        assert_eq!(time(GENERALIZED_TIME, b"99991231235959Z"), Some(Timestamp::MAX));
        for (tag, text) in [
            (UTC_TIME, "2611252303Z"),
            (UTC_TIME, "261125230308"),
            (UTC_TIME, "261325230308Z"),
            (UTC_TIME, "26112523030\u{e9}Z"),
            (UTC_TIME, ""),
            (GENERALIZED_TIME, "261125230308Z"),
            (INTEGER, "261125230308Z"),
        ] {
            assert_eq!(read(tag, text), None, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_or_not_der_has_no_validity() {
        let issued = crate::tls::tests::Authority::new().issue(&["a.test"]);
        let whole = &*issued.der;
        assert!(Validity::of(whole).is_some());
        // To the end of the validity it needs all, and beyond that nothing.
        let needed = (0..whole.len()).filter(|end| Validity::of(&whole[..*end]).is_some()).count();
        assert_eq!(needed, 0, "the outer length is that of the whole");
        for input in [&[][..], &[0x30], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0x83, 0xff, 0xff], b"no"]
        {
            assert_eq!(Validity::of(input), None, "{input:?}");
        }
    }
}
