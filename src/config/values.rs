//! The kinds of value that a config has, each parsed once into a type that can't be wrong.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Deserializer, de};

/// The longest time span that a config may name: more is a mistake.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Deserializes through `FromStr`, so that serde reports the value's place with our message.
macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

from_text!(Time, Size, AdminAddress, LogTarget, Statuses);

/// A time span: `"250ms"`, `"10s"`, `"5m"`, `"1h"`. Zero where a key says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a time span such as \"250ms\", \"10s\" or \"5m\"");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let span = number.checked_mul(millis).map(Duration::from_millis);
        span.filter(|span| *span <= TIME_MAX)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is over the limit of 168h"))
    }
}

/// A number of bytes: `"512"`, `"64KiB"`, `"1MiB"`, `"2GiB"`, or `"unlimited"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self(u64::MAX));
        }
        let wrong =
            || format!("`{text}` is not a size such as \"64KiB\", \"1MiB\" or \"unlimited\"");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1_u64 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(bytes).map(Self).ok_or_else(wrong)
    }
}

/// A share, 0.0 to 1.0. A whole number is fine too: `1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub crate::vocab::Weight);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl de::Visitor<'_> for Number {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share from 0.0 to 1.0")
            }
            fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
                Ok(number)
            }
            #[expect(clippy::cast_precision_loss, reason = "only 0 and 1 pass anyway")]
            fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
                Ok(number as f64)
            }
        }
        let number = deserializer.deserialize_any(Number)?;
        crate::vocab::Weight::from_share(number)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{number} is not a share from 0.0 to 1.0")))
    }
}

/// Where the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket, made with mode 0600.
    Unix(PathBuf),
}

impl AdminAddress {
    /// Whether only this host, or only this user, can reach it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!("`{text}`: a unix socket needs an absolute path"));
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("`{text}` is not an address such as \"127.0.0.1:9900\" or \"unix:/run/x.sock\"")
        })
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            _ => Err(format!("`{text}` must be \"stdout\", \"\" or an absolute path")),
        }
    }
}

/// How header names are written towards HTTP/1 peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderCase {
    /// `Content-Type`.
    #[default]
    Title,
    /// As the other side wrote it, byte for byte.
    Preserve,
    /// `content-type`.
    Lower,
}

/// Which HTTP is spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Over TLS what the endpoint chooses by ALPN, HTTP/2 before HTTP/1.1; HTTP/1.1 without TLS.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113 section 3.3).
    Http2,
}

impl Protocol {
    /// Its name in the config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// How an endpoint is picked for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two random ones the one with fewer requests in flight.
    #[default]
    LeastRequest,
    /// Each in turn.
    RoundRobin,
}

/// The statuses that a probe accepts: `"200"`, `"200-399"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a status or a range such as \"200-399\"");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| match text.parse::<u16>() {
            Ok(status) if (200..=599).contains(&status) => Ok(status),
            Ok(_) | Err(_) => Err(wrong()),
        };
        let (first, last) = (status(first)?, status(last)?);
        if first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

/// The methods of requests that may be sent again although they may have been processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Vec<Method>);

impl Methods {
    /// Whether `method` is one of them.
    #[must_use]
    pub fn has(&self, method: &Method) -> bool {
        self.0.contains(method)
    }
}

impl Default for Methods {
    /// The safe ones of RFC 9110 section 9.2.1.
    fn default() -> Self {
        Self(vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE])
    }
}

impl<'de> Deserialize<'de> for Methods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let method = |name: String| {
            let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            let method = name.parse::<Method>().ok().filter(|_| is_name);
            method.ok_or_else(|| de::Error::custom(format!("`{name}` is not a method")))
        };
        names.into_iter().map(method).collect::<Result<_, _>>().map(Self)
    }
}

/// Who may use the force header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForceFrom {
    /// Peers in `listen.trusted_proxies`.
    #[default]
    TrustedProxies,
    /// Anyone.
    Anyone,
}

/// The format of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_have_a_limit() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("0s", 0), ("1h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(millis))), "{text}");
        }
        for text in ["10", "s", "-1s", "1.5s", "1d", "169h", "99999999999999999999s", ""] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("2GiB", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert_eq!("unlimited".parse(), Ok(Size(u64::MAX)));
        for text in ["64KB", "KiB", "-1", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn admin_addresses_know_whether_they_are_private() {
        let private = |text: &str| text.parse::<AdminAddress>().map(|a| a.is_private());
        assert_eq!(private("127.0.0.1:9900"), Ok(true));
        assert_eq!(private("unix:/run/a.sock"), Ok(true));
        assert_eq!(private("0.0.0.0:9900"), Ok(false));
        assert!(private("unix:a.sock").is_err() && private("9900").is_err());
    }
}
