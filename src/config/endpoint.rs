//! Where a path's requests go, as configured: an address, a host name, or a service name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The largest weight of an endpoint.
const WEIGHT_MAX: u16 = 1_000;

/// One entry of `endpoints`: a URL, or a table of a URL and a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it is.
    pub origin: Origin,
    /// Its share of requests relative to the others', from 1.
    pub weight: u16,
}

/// `http://host:port`, or `http+srv://_service._proto.name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An address.
    Address(SocketAddr),
    /// A host name: each of its addresses is an endpoint.
    Host {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// A service name (RFC 2782): each target that DNS has for it is an endpoint.
    Service {
        /// The name, with its `_service._proto` labels.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service { name } => f.write_str(name),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{text}` {why}");
        let uri: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        let authority = uri.authority();
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            // Never repeated: it may be a password.
            return Err("an endpoint must not contain a user or password".to_owned());
        }
        let is_service = match uri.scheme_str() {
            Some("http") => false,
            Some("http+srv") => true,
            Some("https") => return Err(wrong("is https, which this version does not speak")),
            Some(_) | None => return Err(wrong("must begin with http:// or http+srv://")),
        };
        let authority = authority.ok_or_else(|| wrong("has no host"))?;
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(wrong("must have no path: requests keep their own"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        if has_port && authority.port_u16().is_none() {
            return Err(wrong("has no port from 0 to 65535"));
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if is_service {
            let is_name = name.starts_with('_') && name.split('.').count() > 2;
            return match has_port {
                false if is_name => Ok(Self::Service { name }),
                false => Err(wrong("is not a service name such as _http._tcp.example.org")),
                true => Err(wrong("must have no port: DNS gives it")),
            };
        }
        let port = authority.port_u16().unwrap_or(80);
        let address = name.parse::<IpAddr>().map(|ip| Self::Address(SocketAddr::new(ip, port)));
        Ok(address.unwrap_or(Self::Host { name, port }))
    }
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrTable;

        impl<'de> Visitor<'de> for UrlOrTable {
            type Value = EndpointConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or a table of `url` and `weight`")
            }

            fn visit_str<E: de::Error>(self, url: &str) -> Result<EndpointConfig, E> {
                let origin = url.parse().map_err(E::custom)?;
                Ok(EndpointConfig { origin, weight: 1 })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EndpointConfig, A::Error> {
                let (mut origin, mut weight) = (None, 1);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "url" => {
                            let url = map.next_value::<String>()?;
                            origin = Some(url.parse().map_err(de::Error::custom)?);
                        }
                        "weight" => weight = map.next_value()?,
                        key => {
                            map.next_value::<IgnoredAny>()?;
                            let message = format!("`{key}` is not a known key of an endpoint");
                            return Err(de::Error::custom(message));
                        }
                    }
                }
                if !(1..=WEIGHT_MAX).contains(&weight) {
                    let message = format!("the weight must be from 1 to {WEIGHT_MAX}");
                    return Err(de::Error::custom(message));
                }
                let origin = origin.ok_or_else(|| de::Error::custom("`url` is missing"))?;
                Ok(EndpointConfig { origin, weight })
            }
        }

        deserializer.deserialize_any(UrlOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_origins() {
        for (text, shown) in [
            ("http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("http://backend/", "backend:80"),
            ("http://[::1]:80", "[::1]:80"),
            ("http+srv://_http._tcp.orders.internal", "_http._tcp.orders.internal"),
        ] {
            assert_eq!(text.parse::<Origin>().map(|o| o.to_string()).as_deref(), Ok(shown));
        }
        for text in [
            "127.0.0.1:9001",
            "http://a/x",
            "http://a?b",
            "https://a",
            "http://",
            "ftp://a",
            "http+srv://orders.internal",
            "http+srv://_http._tcp.orders:80",
            "http://a:99999",
            "http://a:",
            "http+srv://_http._tcp.orders:99999",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
        for text in ["http://user:secret@a", "ftp://user:secret@a", "http+srv://u:secret@_a._b.c"] {
            let error = text.parse::<Origin>().unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_or_a_table() {
        let parse = |text: &str| {
            #[derive(Deserialize)]
            struct File {
                e: EndpointConfig,
            }
            toml::from_str::<File>(&format!("e = {text}")).map(|file| file.e.weight)
        };
        assert_eq!(parse(r#""http://a:1""#), Ok(1));
        assert_eq!(parse(r#"{ url = "http://a:1", weight = 3 }"#), Ok(3));
        for text in [
            r#"{ weight = 3 }"#,
            r#"{ url = "a" }"#,
            r#"{ url = "http://a", weight = 0 }"#,
            r#"{ url = "http://a", weight = 1001 }"#,
            r#"{ url = "http://a", wait = 1 }"#,
            "7",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
