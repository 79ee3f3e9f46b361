//! What the program tells of itself beside its metrics: its own log, and spans.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{read_text, url};

/// Where a collector takes spans (OTLP 1.x, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// `[log]`, as needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// What is logged.
    pub level: Directives,
    /// How.
    pub format: LogLayout,
}

/// How the program's own log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLayout {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A level, or several for parts of the program: `"info"`, `"info,cutover::mirror=warn"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives(String);

impl Default for Directives {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Directives {
    /// The filter that they make.
    #[must_use]
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for Directives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A word that is no level would be the name of a part of the program, and nothing else logged.
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        let text = trimmed(text);
        for part in text.split(',') {
            if !part.contains(['=', '[']) && !is_level(part) {
                let levels = "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\"";
                return Err(format!("`{part}` is not a level: {levels}"));
            }
        }
        match EnvFilter::builder().parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("`{text}`: {error}")),
        }
    }
}

/// Directives without spaces around their parts, which a filter takes for parts of names.
#[must_use]
pub fn trimmed(text: &str) -> String {
    let tidy = |part: &str| part.split('=').map(str::trim).collect::<Vec<_>>().join("=");
    text.split(',').map(tidy).collect::<Vec<_>>().join(",")
}

impl<'de> Deserialize<'de> for Directives {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[trace]`, as needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceConfig {
    /// Who gets spans; `None`: nobody, and nothing is recorded.
    pub otlp_endpoint: Option<Collector>,
    /// The share of requests that is recorded where the caller has not decided, 0 to 1.
    pub sample_ratio: f64,
    /// Header fields for the collector, which may be secret.
    pub headers_file: Option<PathBuf>,
    /// The name of the service in traces.
    pub service_name: String,
}

/// The `http://` or `https://` URL of a collector. Its path and query may be a secret, so it is shown
/// without them.
#[derive(Clone, PartialEq, Eq)]
pub struct Collector(Arc<str>);

impl Collector {
    /// Where it takes spans: what is configured, and `/v1/traces` unless it ends so already.
    #[must_use]
    pub fn traces_url(&self) -> String {
        let base = self.0.trim_end_matches('/');
        if base.ends_with(TRACES) { base.to_owned() } else { format!("{base}{TRACES}") }
    }
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        url::check(text, &["http", "https"])?;
        if text.contains(['?', '#']) {
            return Err("must have neither a query nor a fragment".to_owned());
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(url::origin(&self.0))
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collector({self})")
    }
}

/// The header fields in a file: a line each, `name: value`; empty lines and those that begin with `#`
/// are left out.
///
/// # Errors
/// What is wrong, and never what is in the file.
pub fn read_headers(file: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let text =
        read_text(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(index, line)| {
            header(line).ok_or_else(|| {
                format!("{}:{}: is not a header field: `name: value`", file.display(), index + 1)
            })
        })
        .collect()
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};

    const FILE: &str = "async_weight = 0.1\n[listen]\naddress = \"127.0.0.1:8080\"\n\
                        [legacy]\nendpoints = [\"http://127.0.0.1:9001\"]\n\
                        [async]\nendpoints = [\"http://127.0.0.1:9002\"]\n";

    fn parse(more: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{FILE}{more}\n"), "cutover.toml".as_ref())
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_is_off() {
        let config = parse("").unwrap();
        assert_eq!(config.log, LogConfig::default());
        assert_eq!(config.trace.otlp_endpoint, None);
        assert_eq!((config.trace.sample_ratio, &*config.trace.service_name), (0.01, "cutover"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "# ours\n\nAuthorization: Bearer secret\nx-tenant:a\n").unwrap();
        let config = parse(&format!(
            "[log]\nlevel = \"warn,cutover::mirror=info\"\nformat = \"json\"\n\
             [trace]\notlp_endpoint = \"http://127.0.0.1:4318/\"\nsample_ratio = 1\n\
             headers_file = {file:?}\nservice_name = \"edge\""
        ));
        let config = config.unwrap();
        let level = "warn,cutover::mirror=info".parse().unwrap();
        assert_eq!(config.log, LogConfig { level, format: LogLayout::Json });
        let trace = config.trace;
        assert_eq!(trace.otlp_endpoint.unwrap().traces_url(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!((trace.sample_ratio, &*trace.service_name), (1.0, "edge"));
        let headers = read_headers(&trace.headers_file.unwrap()).unwrap();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-tenant"]);
        assert!(!format!("{headers:?}").contains("secret"));
    }

    #[test]
    fn what_is_wrong_is_refused_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        std::fs::write(&file, "authorization: a\nBearer secret\n").unwrap();
        let broken = format!("headers_file = {file:?}");
        for (section, line, place) in [
            ("log", "level = \"inof\"", "9:9"),
            ("log", "level = \"\"", "9:9"),
            ("log", "level = \"info,cutover=loud\"", "9:9"),
            ("log", "level = \"info,cutover[=warn\"", "9:9"),
            ("log", "format = \"xml\"", "9:10"),
            ("log", "levels = \"info\"", "9:1"),
            ("trace", "otlp_endpoint = \"127.0.0.1:4318\"", "9:17"),
            ("trace", "otlp_endpoint = \"http://user:secret@a\"", "9:17"),
            ("trace", "otlp_endpoint = \"http://a/?secret\"", "9:17"),
            ("trace", "sample_ratio = 1.5", "9:16"),
            ("trace", "service_name = \"\"", "9:16"),
            ("trace", "headers_file = \"/nowhere/secret\"", "9:16"),
            ("trace", broken.as_str(), "9:16"),
        ] {
            let found = match parse(&format!("[{section}]\n{line}")) {
                Err(ConfigError::Faults { faults, .. }) => faults,
                other => panic!("{line}: {other:?}"),
            };
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            let key = line.split(' ').next().unwrap();
            let is_there = |fault: &String| {
                fault.starts_with(&format!("{place}: `{section}.{key}`"))
                    && !fault.contains("Bearer")
            };
            assert!(found.iter().any(is_there), "{line}: {found:?}");
            assert!(line.contains("nowhere") || !found.concat().contains("secret"), "{found:?}");
        }
    }

    #[test]
    fn spaces_between_levels_mean_nothing() {
        for (text, read) in [
            ("info ", "info"),
            (" info, cutover::mirror=warn", "info,cutover::mirror=warn"),
            ("off , cutover = warn", "off,cutover=warn"),
        ] {
            let level = text.parse::<Directives>();
            assert_eq!(level, Ok(Directives(read.to_owned())));
            assert_eq!(level.unwrap().filter().to_string(), filter(read), "{text}");
        }
        // What is not trimmed is the name of a part of the program, or nothing at all.
        assert_ne!(EnvFilter::new("info ").to_string(), filter("info"));
    }

    fn filter(text: &str) -> String {
        EnvFilter::new(text).to_string()
    }

    #[test]
    fn a_collector_is_shown_without_what_may_be_a_secret() {
        for (text, url) in [
            ("https://a:4318/key", "https://a:4318/key/v1/traces"),
            ("https://a:4318/key/v1/traces", "https://a:4318/key/v1/traces"),
        ] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!(collector.traces_url(), url);
            assert_eq!(
                format!("{collector} {collector:?}"),
                "https://a:4318 Collector(https://a:4318)"
            );
        }
    }
}
