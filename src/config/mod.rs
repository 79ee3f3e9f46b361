//! The config as it is needed: read whole, checked whole, or refused with every fault named.
//!
//! Only this folder reads TOML. What a key means by itself is settled in `values` and `raw`; here
//! keys are checked against each other. Nothing here opens a socket or changes what runs.

pub mod edit;
mod raw;
mod section;
pub mod values;
pub mod watch;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use toml::Spanned;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::raw::Raw;
pub use crate::config::section::Fault;
use crate::config::section::Faults;
use crate::config::values::{AdminAddress, Endpoint, ForceFrom, HeaderCase, LogTarget, Share};
use crate::route::sticky::Key;
use crate::route::template::Pattern;
use crate::vocab::{DEFAULT_ROUTE, PerSide, ROUTES_MAX, Side, Weight};

/// The largest config file that is read.
const FILE_MAX: u64 = 1 << 20;
/// The most endpoints of one path.
const ENDPOINTS_MAX: usize = 64;

/// A config that holds together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The share that the operator wants on the async path, where a route names none.
    pub weight: Weight,
    /// Where the process keeps what must survive a restart.
    pub state_dir: PathBuf,
    /// What clients reach.
    pub listen: Listen,
    /// Where the admin API listens.
    pub admin: Admin,
    /// Both paths.
    pub paths: PerSide<PathConfig>,
    /// The split's rules.
    pub split: Split,
    /// Routes, first match wins.
    pub routes: Vec<RouteConfig>,
    /// How a drain goes.
    pub drain: Drain,
    /// Where access log lines go; always JSON.
    pub access_log: LogTarget,
    /// The file's text.
    pub text: String,
    /// A hash of the text: 16 hexadecimal digits.
    pub hash: String,
}

/// `[listen]`, as needed.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses to listen on; at least one.
    pub addresses: Vec<SocketAddr>,
    /// Number of workers; 0 is one a core.
    pub workers: usize,
    /// Open connections beyond which no more are accepted, over all workers.
    pub max_connections: usize,
    /// Peers whose Forwarded family is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// For a whole head.
    pub header_timeout: Duration,
    /// Between requests of a connection.
    pub idle_timeout: Duration,
    /// For the next piece of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// Largest head, in bytes.
    pub header_bytes: usize,
    /// Most fields of a head.
    pub header_count: usize,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
}

/// `[admin]`, as needed.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// The file with the token that changes need, if one is set.
    pub token_file: Option<PathBuf>,
}

/// `[legacy]` or `[async]`, as needed. Zero durations and counts mean "no limit" where allowed.
#[derive(Clone, Debug)]
pub struct PathConfig {
    /// Addresses of the path; at least one.
    pub endpoints: Vec<Endpoint>,
    /// How header names are written.
    pub header_case: HeaderCase,
    /// Connections kept warm for each worker and endpoint.
    pub min_idle: usize,
    /// Requests that the path may have at once; 0 is unlimited.
    pub max_in_flight: usize,
    /// Requests that may wait.
    pub queue_depth: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
    /// For a connection to come up.
    pub connect_timeout: Duration,
    /// Request sent to response head.
    pub response_timeout: Duration,
    /// For the next piece of a response body.
    pub idle_timeout: Duration,
    /// For the whole exchange; zero is no limit.
    pub request_deadline: Duration,
    /// Idle connections kept for each endpoint, over all workers.
    pub pool_idle: usize,
    /// How long one is kept.
    pub pool_idle_timeout: Duration,
    /// Requests on one connection; 0 is unlimited.
    pub requests_per_connection: u64,
}

/// `[split]`, as needed.
#[derive(Clone, Debug)]
pub struct Split {
    /// What makes the split sticky.
    pub key: Option<Key>,
    /// Draws the users anew when it changes.
    pub salt: String,
    /// The header that names the path.
    pub force_header: Option<HeaderName>,
    /// Who may use it.
    pub force_from: ForceFrom,
    /// Whether replies name the path.
    pub expose_path: bool,
}

/// `[[route]]`, as needed.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name, a label of metrics.
    pub name: String,
    /// What matches.
    pub pattern: Pattern,
    /// Its own weight, or the global one.
    pub weight: Weight,
    /// Never split.
    pub pin: Option<Side>,
}

/// `[drain]`, as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long to go on accepting after readiness went off.
    pub delay: Duration,
    /// For requests in flight.
    pub timeout: Duration,
    /// For tunnels.
    pub tunnels: Duration,
}

/// Why a config can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read: the operator's or the system's fault.
    #[error("can't read config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's text is faulty: the operator's fault.
    #[error("{}", listed(path, faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// Everything wrong with it.
        faults: Vec<Fault>,
    },
    /// The change asks for what can't change while the process runs.
    #[error("can't change while running: {}; restart to apply", keys.join(", "))]
    Fixed {
        /// The keys.
        keys: Vec<&'static str>,
    },
}

fn listed(path: &Path, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults
        .iter()
        .map(|fault| format!("{}:{fault}", path.display()))
        .collect();
    lines.join("\n")
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it can't be read, or for all that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages and the default `state_dir`.
    ///
    /// # Errors
    /// For all that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config = raw::read(text, build).map_err(|faults| ConfigError::Faults {
            path: path.to_owned(),
            faults,
        })?;
        let beside = path
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .join(&config.state_dir);
        config.state_dir = beside;
        config.hash = hash(text.as_bytes());
        text.clone_into(&mut config.text);
        Ok(config)
    }

    /// The keys in which `new` differs although they can't change while the process runs.
    #[must_use]
    pub fn fixed_changes(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            (
                "listen.address",
                self.listen.addresses == new.listen.addresses,
            ),
            ("listen.workers", self.listen.workers == new.listen.workers),
            ("admin.address", self.admin.address == new.admin.address),
            ("state_dir", self.state_dir == new.state_dir),
            ("access_log.path", self.access_log == new.access_log),
        ];
        fixed
            .into_iter()
            .filter(|(_, same)| !same)
            .map(|(key, _)| key)
            .collect()
    }
}

/// The hash by which a file's content is known: 16 hexadecimal digits.
#[must_use]
pub fn hash(content: &[u8]) -> String {
    format!("{:016x}", xxh3_64(content))
}

/// Reads a whole file of at most 1 MiB that is UTF-8.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let read = file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_MAX {
        return Err(std::io::Error::other("larger than the limit of 1 MiB"));
    }
    Ok(text)
}

fn build(raw: Raw, faults: &Faults<'_>) -> Option<Config> {
    check_admin(&raw, faults);
    check_endpoints(&raw, faults);
    let weight = raw.async_weight.0;
    let routes = routes(&raw, weight, faults);
    let split = split(raw.split, faults);
    let listen = raw.listen;
    Some(Config {
        weight,
        state_dir: raw.state_dir.unwrap_or_else(|| "cutover-state".into()),
        listen: Listen {
            addresses: listen.addresses,
            workers: listen.workers,
            max_connections: listen.max_connections,
            trusted_proxies: listen.trusted_proxies,
            header_timeout: listen.header_timeout,
            idle_timeout: listen.idle_timeout,
            body_idle_timeout: listen.body_idle_timeout,
            header_bytes: usize::try_from(listen.header_bytes).ok()?,
            header_count: listen.header_count,
            body_bytes: listen.body_bytes,
        },
        admin: Admin {
            address: raw.admin.address,
            token_file: raw.admin.token_file,
        },
        paths: PerSide {
            legacy: path(raw.legacy),
            async_: path(raw.async_),
        },
        split: split?,
        routes: routes?,
        drain: Drain {
            delay: raw.drain.delay,
            timeout: raw.drain.timeout,
            tunnels: raw.drain.tunnels,
        },
        access_log: match raw.access_log.format {
            values::LogFormat::Json => raw.access_log.path,
        },
        text: String::new(),
        hash: String::new(),
    })
}

/// A wider admin address hands changes to the network: it is refused without a token.
fn check_admin(raw: &Raw, faults: &Faults<'_>) {
    if !raw.admin.address.is_private() && raw.admin.token_file.is_none() {
        let message = format!(
            "{} is neither loopback nor a unix socket: set `token_file`",
            raw.admin.address
        );
        faults.add(raw.admin.span.clone(), "admin.address".to_owned(), message);
    }
}

/// An endpoint that is our own listener would serve itself for ever.
fn check_endpoints(raw: &Raw, faults: &Faults<'_>) {
    let mut own = raw.listen.addresses.clone();
    if let AdminAddress::Tcp(address) = raw.admin.address {
        own.push(address);
    }
    for (name, path) in [("legacy", &raw.legacy), ("async", &raw.async_)] {
        if path.endpoints.len() > ENDPOINTS_MAX {
            let span = path.endpoints[ENDPOINTS_MAX].span();
            let message = format!("more than {ENDPOINTS_MAX} endpoints");
            faults.add(span, format!("{name}.endpoints"), message);
        }
        for endpoint in &path.endpoints {
            let Some(address) = endpoint.get_ref().address() else {
                continue;
            };
            let is_own = own.iter().any(|own| {
                own.port() == address.port()
                    && (own.ip() == address.ip()
                        || (own.ip().is_unspecified() && address.ip().is_loopback()))
            });
            if is_own && address.port() != 0 {
                let message = format!("{address} is an address of this proxy itself");
                faults.add(endpoint.span(), format!("{name}.endpoints"), message);
            }
        }
    }
}

fn path(raw: raw::Path) -> PathConfig {
    PathConfig {
        endpoints: raw.endpoints.into_iter().map(Spanned::into_inner).collect(),
        header_case: raw.header_case,
        min_idle: raw.min_idle,
        max_in_flight: raw.max_in_flight,
        queue_depth: raw.queue_depth,
        queue_timeout: raw.queue_timeout,
        connect_timeout: raw.connect_timeout,
        response_timeout: raw.response_timeout,
        idle_timeout: raw.idle_timeout,
        request_deadline: raw.request_deadline,
        pool_idle: raw.pool_idle,
        pool_idle_timeout: raw.pool_idle_timeout,
        requests_per_connection: raw.requests_per_connection,
    }
}

fn split(raw: raw::Split, faults: &Faults<'_>) -> Option<Split> {
    let key = match raw.key {
        None => None,
        Some(text) => match Key::parse(text.get_ref()) {
            Ok(key) => key,
            Err(message) => {
                faults.add(text.span(), "split.key".to_owned(), message);
                return None;
            }
        },
    };
    let force_header = match raw.force_header.filter(|name| !name.get_ref().is_empty()) {
        None => None,
        Some(name) => match name.get_ref().parse::<HeaderName>() {
            Ok(header) => Some(header),
            Err(_) => {
                faults.add(
                    name.span(),
                    "split.force_header".to_owned(),
                    "is not a header name",
                );
                return None;
            }
        },
    };
    Some(Split {
        key,
        salt: raw.salt,
        force_header,
        force_from: raw.force_from,
        expose_path: raw.expose_path,
    })
}

fn routes(raw: &Raw, weight: Weight, faults: &Faults<'_>) -> Option<Vec<RouteConfig>> {
    let mut routes: Vec<RouteConfig> = Vec::new();
    let mut sound = true;
    for route in &raw.routes {
        let mut fault = |span, key: &str, message: &str| {
            faults.add(span, format!("route.{key}"), message);
            sound = false;
        };
        let name = route.name.get_ref();
        if name.is_empty() || name == DEFAULT_ROUTE || name == "none" {
            fault(
                route.name.span(),
                "name",
                "must be a name other than `default` and `none`",
            );
        }
        if routes.iter().any(|known| known.name == *name) {
            fault(
                route.name.span(),
                "name",
                "is the name of an earlier route too",
            );
        }
        if routes.len() + 1 >= ROUTES_MAX {
            fault(
                route.name.span(),
                "name",
                "is one route too many: the limit is 255",
            );
        }
        let pattern = match Pattern::parse(route.pattern.get_ref()) {
            Ok(pattern) => pattern,
            Err(message) => {
                fault(route.pattern.span(), "match", message);
                continue;
            }
        };
        let pin = match &route.pin {
            Some(pin) if !pin.get_ref().is_empty() => {
                let side = Side::from_name(pin.get_ref().as_bytes());
                if side.is_none() {
                    fault(pin.span(), "pin", "must be \"legacy\", \"async\" or \"\"");
                }
                side
            }
            Some(_) | None => None,
        };
        let weight = route.async_weight.map_or(weight, |Share(weight)| weight);
        routes.push(RouteConfig {
            name: name.clone(),
            pattern,
            weight,
            pin,
        });
    }
    sound.then_some(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
async_weight = 0.10
[listen]
address = "0.0.0.0:8080"
[legacy]
endpoints = ["http://127.0.0.1:9001"]
[async]
endpoints = ["http://127.0.0.1:9002"]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/cutover/cutover.toml"))
    }

    fn faults(text: &str) -> Vec<String> {
        match parse(text) {
            Err(ConfigError::Faults { faults, .. }) => {
                faults.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config = parse(SMALLEST).unwrap();
        assert_eq!(config.weight, Weight::from_share(0.1).unwrap());
        assert_eq!(config.state_dir, Path::new("/etc/cutover/cutover-state"));
        assert_eq!(
            config.paths.legacy.endpoints[0].to_string(),
            "127.0.0.1:9001"
        );
        assert_eq!(config.access_log, LogTarget::Off);
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        let reference = include_str!("../../config/reference.toml");
        let reference = parse(reference).unwrap();
        let smallest = parse(SMALLEST).unwrap();
        let shown =
            |config: &Config| format!("{:?} {:?} {:?}", config.listen, config.paths, config.drain);
        assert_eq!(shown(&reference), shown(&smallest));
    }

    #[test]
    fn all_faults_of_a_file_are_named_with_their_place() {
        let found = faults(
            "async_weight = 1.5\n[listen]\naddress = \"nowhere\"\nheader_timeout = \"0s\"\n\
             [legacy]\nendpoints = [\"https://a\"]\nqueue = 3\n[split]\nkey = \"sid\"\n",
        );
        for (line, part) in [
            ("1:16", "async_weight"),
            ("3:11", "listen.address"),
            ("4:18", "listen.header_timeout"),
            ("6:13", "https"),
            ("7:1", "legacy.queue"),
        ] {
            let hit = found
                .iter()
                .any(|fault| fault.starts_with(line) && fault.contains(part));
            assert!(hit, "{line} {part} is not in {found:#?}");
        }
        assert!(
            found
                .iter()
                .any(|fault| fault.contains("`async.endpoints`: is missing"))
        );
    }

    #[test]
    fn keys_are_checked_against_each_other() {
        for (more, part) in [
            ("[admin]\naddress = \"0.0.0.0:9900\"", "set `token_file`"),
            ("[split]\nkey = \"sid\"", "split.key"),
            ("[split]\nforce_header = \"a b\"", "split.force_header"),
            ("[[route]]\nname = \"a\"\nmatch = \"GET a\"", "route.match"),
            (
                "[[route]]\nname = \"default\"\nmatch = \"GET /\"",
                "route.name",
            ),
            (
                "[[route]]\nname = \"a\"\nmatch = \"GET /\"\npin = \"new\"",
                "route.pin",
            ),
        ] {
            let found = faults(&format!("{SMALLEST}\n{more}\n"));
            assert!(
                found.iter().any(|fault| fault.contains(part)),
                "{part} not in {found:?}"
            );
        }
        let own = SMALLEST.replace("9002", "8080");
        assert!(faults(&own)[0].contains("this proxy itself"));
    }

    #[test]
    fn what_is_fixed_is_named() {
        let old = parse(SMALLEST).unwrap();
        let new = parse(&SMALLEST.replace("8080", "8081")).unwrap();
        assert_eq!(old.fixed_changes(&new), ["listen.address"]);
        assert!(old.fixed_changes(&old.clone()).is_empty());
    }
}
