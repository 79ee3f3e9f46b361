//! What the mirror is told to do, and how a route's answers are compared.

use std::time::Duration;

use serde::Deserialize;

use crate::compare::rules::Pointer;

/// `[mirror]`, as needed.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorConfig {
    /// The share of requests that the other path answers too, 0 to 1; 0 is none.
    pub share: f64,
    /// The most of them in one second, over all workers.
    pub rps_max: u32,
    /// The largest request body that is copied, in bytes.
    pub request_bytes: usize,
    /// How much of each answer is kept, in bytes; of more only length and hash are compared.
    pub response_bytes: usize,
    /// Mirrored requests at once.
    pub in_flight: usize,
    /// All copies and kept answers together, in bytes.
    pub memory: usize,
    /// The mirror's own connections, over both paths.
    pub connections: usize,
    /// For the whole answer of each path.
    pub deadline: Duration,
    /// The share of mirrored requests for which the primary path is asked a second time, 0 to 1.
    pub noise_share: f64,
    /// What comes of answers that differ, once the ramp has begun.
    pub on_mismatch: OnMismatch,
}

/// What comes of answers that differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// The ramp is held.
    #[default]
    Hold,
    /// Async is rolled back.
    Rollback,
}

/// What of a route concerns the mirror.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMirror {
    /// Whether it is mirrored at all; `None`: unless it is pinned.
    pub mirror: Option<bool>,
    /// Whether methods other than GET and HEAD are too.
    pub unsafe_methods_ok: bool,
    /// Whether a regression on it closes the gate.
    pub critical: bool,
    /// Where nothing is compared.
    pub ignore: Vec<Pointer>,
    /// Where types and names are compared, and values are not.
    pub shape_only: Vec<Pointer>,
    /// Arrays without an order.
    pub unordered: Vec<Pointer>,
    /// Values that may be shown.
    pub reveal: Vec<Pointer>,
    /// How far numbers may differ, as a part of the larger one; 0 to 1.
    pub tolerance: f64,
}

impl RouteMirror {
    /// Whether answers are compared in the same way.
    #[must_use]
    pub fn has_same_rules(&self, other: &Self) -> bool {
        let lists = |rules: &Self| {
            let Self { ignore, shape_only, unordered, reveal, .. } = rules.clone();
            [ignore, shape_only, unordered, reveal]
        };
        lists(self) == lists(other) && self.tolerance.total_cmp(&other.tolerance).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};

    const FILE: &str = "async_weight = 0.1\n[listen]\naddress = \"127.0.0.1:8080\"\n\
                        [legacy]\nendpoints = [\"http://127.0.0.1:9001\"]\n\
                        [async]\nendpoints = [\"http://127.0.0.1:9002\"]\n";
    const ROUTE: &str = "[[route]]\nname = \"a\"\nmatch = \"GET /\"\n";

    fn parse(more: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{FILE}{more}\n"), "cutover.toml".as_ref())
    }

    #[test]
    fn what_is_written_is_read() {
        let config = parse(&format!(
            "[mirror]\nshare = 0.25\nmax_rps = 5\nrequest_bytes = \"1KiB\"\nresponse_bytes = \"0B\"\n\
             in_flight = 3\nmemory = \"1MiB\"\nconnections = 4\ndeadline = \"2s\"\n\
             noise_share = 1\non_mismatch = \"rollback\"\n\
             {ROUTE}mirror = false\nunsafe_methods_ok = true\ncritical = true\n\
             ignore = [\"/a/*\"]\ntolerance = 0.5\n"
        ));
        let config = config.unwrap();
        let expected = MirrorConfig {
            share: 0.25,
            rps_max: 5,
            request_bytes: 1_024,
            response_bytes: 0,
            in_flight: 3,
            memory: 1 << 20,
            connections: 4,
            deadline: Duration::from_secs(2),
            noise_share: 1.0,
            on_mismatch: OnMismatch::Rollback,
        };
        assert_eq!(config.mirror, expected);
        let expected = RouteMirror {
            mirror: Some(false),
            unsafe_methods_ok: true,
            critical: true,
            ignore: vec![Pointer::parse("/a/*").unwrap()],
            tolerance: 0.5,
            ..RouteMirror::default()
        };
        assert_eq!(config.routes[0].mirror, expected);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_where_it_is() {
        let pointers = format!("ignore = {:?}", vec!["/a"; 65]);
        for (section, line, place) in [
            ("[mirror]", "share = 1.5", "9:9"),
            ("[mirror]", "max_rps = 0", "8:1"),
            ("[mirror]", "max_rps = 10001", "9:11"),
            ("[mirror]", "request_bytes = \"17MiB\"", "9:17"),
            ("[mirror]", "in_flight = 1025", "9:13"),
            ("[mirror]", "memory = \"1KiB\"", "9:10"),
            ("[mirror]", "memory = \"1MiB\"\nresponse_bytes = \"1MiB\"", "8:1"),
            ("[mirror]", "connections = 0", "8:1"),
            ("[mirror]", "deadline = \"0s\"", "9:12"),
            ("[mirror]", "deadline = \"301s\"", "9:12"),
            ("[mirror]", "noise_share = -0.1", "9:15"),
            ("[mirror]", "on_mismatch = \"panic\"", "9:15"),
            ("[mirror]", "shares = 0.1", "9:1"),
            (ROUTE, "tolerance = 1.5", "11:13"),
            (ROUTE, "ignore = [\"/a\", \"b\"]", "11:17"),
            (ROUTE, "unordered = [\"/~2\"]", "11:14"),
            (ROUTE, &pointers, "11:10"),
        ] {
            let key = line.rsplit('\n').next_back().and_then(|line| line.split(' ').next());
            let section = section.trim_end();
            let found = match parse(&format!("{section}\n{line}")) {
                Err(ConfigError::Faults { faults, .. }) => faults,
                other => panic!("{line}: {other:?}"),
            };
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            let is_there =
                |fault: &String| fault.starts_with(place) && fault.contains(key.unwrap());
            assert!(found.iter().any(is_there), "{line}: {found:?}");
        }
    }
}
