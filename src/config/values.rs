//! The kinds of value that a config has, each parsed once into a type that can't be wrong.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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

from_text!(Time, Size, AdminAddress, Endpoint, LogTarget);

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

/// One address of a path: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    /// The address, where the host is one; a name has to be resolved.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` {why}");
        let uri: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("is https, which this version does not speak")),
            Some(_) | None => return Err(wrong("must begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            // Never repeated: it may be a password.
            return Err("an endpoint must not contain a user or password".to_owned());
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(wrong("must have no path: requests keep their own"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: authority.port_u16().unwrap_or(80) })
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
    fn endpoints_are_plain_origins() {
        for (text, shown) in [
            ("http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("http://backend/", "backend:80"),
            ("http://[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(shown));
        }
        for text in
            ["127.0.0.1:9001", "http://a/x", "http://a?b", "https://a", "http://", "ftp://a"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let error = "http://user:secret@a".parse::<Endpoint>().unwrap_err();
        assert!(!error.contains("secret"), "{error}");
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
