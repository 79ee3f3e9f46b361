//! Where a path's requests go, as configured: an address, a host name, or a service name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::url;

/// The largest weight of an endpoint.
const WEIGHT_MAX: u16 = 1_000;

/// The largest id that Linux gives a process.
const PID_MAX: u32 = 1 << 22;

/// One entry of `endpoints`: a URL, or a table of a URL and what else is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it is.
    pub origin: Origin,
    /// Whether it is spoken to over TLS.
    pub is_tls: bool,
    /// Its share of requests relative to the others', from 1.
    pub weight: u16,
    /// How its use of memory and threads is learned, if at all.
    pub usage: Option<Usage>,
}

/// How a backend's use of memory and threads is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// From `/proc`: the process of this id, on this host.
    Process(u32),
    /// From its own metrics page, at this URL.
    Metrics(String),
}

/// `http://host:port` or `https://host:port`, or `http+srv://_service._proto.name`.
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
        parse(text).map(|(origin, _is_tls)| origin)
    }
}

/// How an endpoint is spoken to, by the scheme of its URL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Service,
}

impl Scheme {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "http+srv" => Some(Self::Service),
            _ => None,
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http | Self::Service => 80,
            Self::Https => 443,
        }
    }
}

/// Where a URL leads, and whether over TLS.
fn parse(text: &str) -> Result<(Origin, bool), String> {
    let wrong = |why: &str| format!("`{text}` {why}");
    let uri: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    let authority = uri.authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        // Never repeated: it may be a password.
        return Err("an endpoint must not contain a user or password".to_owned());
    }
    let scheme = Scheme::parse(uri.scheme_str())
        .ok_or_else(|| wrong("must begin with http://, https:// or http+srv://"))?;
    let authority = authority.ok_or_else(|| wrong("has no host"))?;
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return Err(wrong("must have no path: requests keep their own"));
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none() {
        return Err(wrong("has no port from 0 to 65535"));
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if scheme == Scheme::Service {
        let is_name = name.starts_with('_') && name.split('.').count() > 2;
        return match has_port {
            false if is_name => Ok((Origin::Service { name }, false)),
            false => Err(wrong("is not a service name such as _http._tcp.example.org")),
            true => Err(wrong("must have no port: DNS gives it")),
        };
    }
    let port = authority.port_u16().unwrap_or_else(|| scheme.port());
    let origin = match name.parse::<IpAddr>() {
        Ok(ip) => Origin::Address(SocketAddr::new(ip, port)),
        Err(_) => Origin::Host { name, port },
    };
    Ok((origin, scheme == Scheme::Https))
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrTable;

        impl<'de> Visitor<'de> for UrlOrTable {
            type Value = EndpointConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or a table of `url`, `weight` and `process` or `metrics`")
            }

            fn visit_str<E: de::Error>(self, url: &str) -> Result<EndpointConfig, E> {
                let (origin, is_tls) = parse(url).map_err(E::custom)?;
                Ok(EndpointConfig { origin, is_tls, weight: 1, usage: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointConfig, A::Error> {
                table(map)
            }
        }

        deserializer.deserialize_any(UrlOrTable)
    }
}

fn table<'de, A: MapAccess<'de>>(mut map: A) -> Result<EndpointConfig, A::Error> {
    let (mut origin, mut weight) = (None, 1);
    let (mut process, mut metrics) = (None, None);
    while let Some(key) = map.next_key::<String>()? {
        match key.as_str() {
            "url" => {
                let url = map.next_value::<String>()?;
                origin = Some(parse(&url).map_err(de::Error::custom)?);
            }
            "weight" => weight = map.next_value()?,
            "process" => process = Some(Usage::Process(map.next_value::<Process>()?.pid)),
            "metrics" => {
                let page = map.next_value::<String>()?;
                url::check(&page, &["http"])
                    .map_err(|message| de::Error::custom(format!("`metrics` {message}")))?;
                metrics = Some(Usage::Metrics(page));
            }
            key => {
                map.next_value::<IgnoredAny>()?;
                let message = format!("`{key}` is not a known key of an endpoint");
                return Err(de::Error::custom(message));
            }
        }
    }
    if !(1..=WEIGHT_MAX).contains(&weight) {
        return Err(de::Error::custom(format!("the weight must be from 1 to {WEIGHT_MAX}")));
    }
    if process.is_some() && metrics.is_some() {
        return Err(de::Error::custom("give either `process` or `metrics`"));
    }
    let (origin, is_tls) = origin.ok_or_else(|| de::Error::custom("`url` is missing"))?;
    Ok(EndpointConfig { origin, is_tls, weight, usage: process.or(metrics) })
}

/// `process` of an endpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    #[serde(deserialize_with = "pid")]
    pid: u32,
}

fn pid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let pid = u32::deserialize(deserializer)?;
    let is_pid = (1..=PID_MAX).contains(&pid);
    is_pid
        .then_some(pid)
        .ok_or_else(|| de::Error::custom(format!("`process.pid` must be from 1 to {PID_MAX}")))
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
            ("https://backend", "backend:443"),
            ("https://[::1]", "[::1]:443"),
            ("https://10.0.0.1:8443/", "10.0.0.1:8443"),
            ("http+srv://_http._tcp.orders.internal", "_http._tcp.orders.internal"),
        ] {
            assert_eq!(text.parse::<Origin>().map(|o| o.to_string()).as_deref(), Ok(shown));
        }
        for text in [
            "127.0.0.1:9001",
            "http://a/x",
            "http://a?b",
            "https://a/x",
            "https+srv://_https._tcp.orders.internal",
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

    fn parse(text: &str) -> Result<EndpointConfig, String> {
        #[derive(Deserialize)]
        struct File {
            e: EndpointConfig,
        }
        let file = toml::from_str::<File>(&format!("e = {text}"));
        file.map(|file| file.e).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn an_endpoint_is_a_url_or_a_table() {
        let weight = |text: &str| parse(text).map(|endpoint| endpoint.weight);
        for (text, is_tls) in [("http://a:443", false), ("https://a:80", true)] {
            let is = |text: &str| parse(text).map(|endpoint| endpoint.is_tls);
            assert_eq!(is(&format!("\"{text}\"")), Ok(is_tls));
            assert_eq!(is(&format!("{{ url = \"{text}\" }}")), Ok(is_tls));
        }
        assert_eq!(weight(r#""http://a:1""#), Ok(1));
        assert_eq!(weight(r#"{ url = "http://a:1", weight = 3 }"#), Ok(3));
        for text in [
            r#"{ weight = 3 }"#,
            r#"{ url = "a" }"#,
            r#"{ url = "http://a", weight = 0 }"#,
            r#"{ url = "http://a", weight = 1001 }"#,
            r#"{ url = "http://a", wait = 1 }"#,
            "7",
        ] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_endpoint_tells_its_usage_by_its_process_or_by_its_metrics() {
        let usage = |more: &str| {
            parse(&format!("{{ url = \"http://a:1\"{more} }}")).map(|endpoint| endpoint.usage)
        };
        assert_eq!(usage(""), Ok(None));
        assert_eq!(usage(", process = { pid = 4194304 }"), Ok(Some(Usage::Process(PID_MAX))));
        let page = "http://a:9100/metrics?x=y";
        let metrics = Ok(Some(Usage::Metrics(page.to_owned())));
        assert_eq!(usage(&format!(", metrics = {page:?}")), metrics);
        for (more, part) in [
            (", process = { pid = 0 }", "from 1 to 4194304"),
            (", process = { pid = 4194305 }", "from 1 to 4194304"),
            (", process = { pid = -1 }", "-1"),
            (", process = {}", "pid"),
            (", process = { pid = 1, name = \"x\" }", "name"),
            (", process = 7", "7"),
            (", metrics = \"\"", "`metrics` must be an http:// URL"),
            (", metrics = \"https://a\"", "`metrics` must be an http:// URL"),
            (", metrics = \"http://u:secret@a\"", "user or password"),
            (", metrics = \"http://a\", process = { pid = 1 }", "either `process` or `metrics`"),
        ] {
            let message = usage(more).unwrap_err();
            assert!(message.contains(part) && !message.contains("secret"), "{more}: {message}");
        }
    }
}
