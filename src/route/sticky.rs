//! The sticky key: where it comes from, and its bucket.
//!
//! `bucket = upper 32 bits of xxh3_64(salt, 0x00, key)`: stateless, the same on every replica and
//! after a restart. As the bucket of a key never changes and a weight takes all buckets below its
//! threshold, a key moves at most once while the weight grows, and never back.

use std::io::Write;
use std::net::IpAddr;

use http::header::{COOKIE, HeaderName};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::route::head::Head;

/// What makes the split sticky.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The client's address.
    ClientAddress,
}

/// The salt, with its separator.
#[derive(Clone, Debug)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// A salt from the config's text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        Self(bytes)
    }
}

impl Key {
    /// Parses `header:NAME`, `cookie:NAME`, `client_address`, or nothing for an even spread.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        if text.is_empty() {
            return Ok(None);
        }
        if text == "client_address" {
            return Ok(Some(Self::ClientAddress));
        }
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.parse().map_err(|_| "not a header name after `header:`")?;
            return Ok(Some(Self::Header(name)));
        }
        match text.strip_prefix("cookie:") {
            Some(name) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Some(Self::Cookie(name.to_owned())))
            }
            Some(_) => Err("not a cookie name after `cookie:`"),
            None => Err("must be \"header:NAME\", \"cookie:NAME\", \"client_address\" or \"\""),
        }
    }

    /// The bucket of a request, if it has the key. An empty value is no key.
    #[must_use]
    pub fn bucket(&self, salt: &Salt, head: &Head<'_>) -> Option<u32> {
        match self {
            Self::Header(name) => {
                let value = head.headers.get(name)?.as_bytes();
                (!value.is_empty()).then(|| bucket(salt, value))
            }
            Self::Cookie(name) => {
                let mut lines = head.headers.get_all(COOKIE).iter();
                let value = lines.find_map(|line| cookie(line.as_bytes(), name.as_bytes()))?;
                (!value.is_empty()).then(|| bucket(salt, value))
            }
            Self::ClientAddress => Some(address_bucket(salt, head.client)),
        }
    }
}

/// The bucket of `key` under `salt`.
#[must_use]
pub fn bucket(salt: &Salt, key: &[u8]) -> u32 {
    let length = salt.0.len() + key.len();
    let mut joined = [0_u8; 256];
    let hash = if let Some(joined) = joined.get_mut(..length) {
        let (front, back) = joined.split_at_mut(salt.0.len());
        front.copy_from_slice(&salt.0);
        back.copy_from_slice(key);
        xxh3_64(joined)
    } else {
        // The same hash without the joined copy; its state is large, hence for long keys only.
        let mut hasher = Xxh3Default::new();
        hasher.update(&salt.0);
        hasher.update(key);
        hasher.digest()
    };
    // The upper half of 64 bits.
    (hash >> 32) as u32
}

/// An address is hashed as its text, so that `explain --key 192.0.2.7` finds the same bucket.
fn address_bucket(salt: &Salt, address: IpAddr) -> u32 {
    let mut text = [0_u8; 64];
    let mut rest = &mut text[..];
    // The longest address has 45 characters, so the buffer can't be too short.
    let _ = write!(rest, "{}", address.to_canonical());
    let unused = rest.len();
    bucket(salt, &text[..text.len() - unused])
}

/// The value of the cookie `name` in one `Cookie` line (RFC 6265 section 4.2.1).
fn cookie<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::vocab::Weight;

    fn bucket_of(key: &str, headers: &[(&'static str, &'static str)]) -> Option<u32> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let head = Head {
            method: &Method::GET,
            path: "/",
            headers: &map,
            client: Ipv4Addr::new(192, 0, 2, 7).into(),
            trusted: false,
        };
        Key::parse(key).unwrap().unwrap().bucket(&Salt::new("s"), &head)
    }

    #[test]
    fn a_key_is_read_from_where_the_config_says() {
        let expected = Some(bucket(&Salt::new("s"), b"u1"));
        assert_eq!(bucket_of("header:x-user", &[("x-user", "u1")]), expected);
        assert_eq!(bucket_of("cookie:sid", &[("cookie", "a=b; sid=u1; c=d")]), expected);
        assert_eq!(bucket_of("cookie:sid", &[("cookie", "a=b"), ("cookie", "sid=u1")]), expected);
        let address = Some(bucket(&Salt::new("s"), b"192.0.2.7"));
        assert_eq!(bucket_of("client_address", &[]), address);
    }

    #[test]
    fn an_absent_or_empty_key_is_none() {
        assert_eq!(bucket_of("header:x-user", &[]), None);
        assert_eq!(bucket_of("header:x-user", &[("x-user", "")]), None);
        assert_eq!(bucket_of("cookie:sid", &[("cookie", "sid=; xsid=1; sid2=u")]), None);
    }

    #[test]
    fn the_hash_never_changes_between_releases() {
        // Fixed values: another result would move users in the middle of a ramp.
        assert_eq!(bucket(&Salt::new("cutover"), b"user-1"), 1_606_737_621);
        let long = [b'k'; 300];
        assert_eq!(bucket(&Salt::new("cutover"), &long), 997_629_654);
    }

    #[test]
    fn long_keys_hash_as_if_joined() {
        let key = [b'x'; 400];
        let mut joined = b"s\0".to_vec();
        joined.extend_from_slice(&key);
        assert_eq!(u64::from(bucket(&Salt::new("s"), &key)), xxh3_64(&joined) >> 32);
    }

    #[test]
    fn no_key_ever_moves_back_as_the_weight_grows() {
        let salt = Salt::new("cutover");
        for key in 0..10_000 {
            let bucket = bucket(&salt, format!("user-{key}").as_bytes());
            let mut was_async = false;
            for percent in 0..=100 {
                let weight = Weight::from_share(f64::from(percent) / 100.0).unwrap();
                let is_async = weight.takes(bucket);
                assert!(is_async || !was_async, "key {key} moved back at {percent} %");
                was_async = is_async;
            }
            assert!(was_async);
        }
    }

    #[test]
    fn keys_spread_over_the_buckets() {
        let salt = Salt::new("cutover");
        let weight = Weight::from_share(0.1).unwrap();
        let taken = (0..10_000)
            .filter(|key| weight.takes(bucket(&salt, format!("user-{key}").as_bytes())))
            .count();
        // Binomial with n = 10,000 and p = 0.1: sigma is 30.
        assert!((880..=1_120).contains(&taken), "{taken}");
    }
}
