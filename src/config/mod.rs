//! The config as it is needed: read whole, checked whole, or refused with every fault named.
//!
//! Only this folder reads TOML. What a key means by itself is settled in `values` and `raw`, keys
//! are checked against each other in `build`. Nothing here opens a socket or changes what runs.

mod build;
pub mod edit;
pub mod endpoint;
mod guard;
mod limits;
mod look;
mod mirror;
mod model;
mod raw;
mod section;
mod shown;
mod telemetry;
mod tls;
mod url;
pub mod values;
pub mod watch;

use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::build::build;
pub use crate::config::guard::{GuardConfig, GuardMode, RampConfig, Webhook};
pub use crate::config::mirror::{MirrorConfig, OnMismatch, RouteMirror};
pub use crate::config::model::{
    Admin, Config, Dns, Drain, Failover, HealthConfig, Listen, LoopProbe, PathConfig, Retry,
    RouteConfig, Split,
};
use crate::config::raw::Raw;
pub use crate::config::section::Fault;
pub use crate::config::shown::shown;
pub use crate::config::telemetry::{
    Collector, LogConfig, LogLayout, TraceConfig, read_headers, trimmed,
};
use crate::config::tls::{Place, named_files};
use crate::error::is_out_of_resources;
use crate::tls::{Certificate, Stamp};

/// The largest config file that is read.
const FILE_MAX: u64 = 1 << 20;

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
    /// A name that the config brings has no answer: for a moment, or for good.
    #[error("`endpoints`: can't resolve {name}: {why}")]
    Unresolved {
        /// The name.
        name: String,
        /// What the resolver says.
        why: String,
    },
    /// The change asks for what can't change while the process runs.
    #[error("can't change while running: {}; restart to apply", keys.join(", "))]
    Fixed {
        /// The keys.
        keys: Vec<&'static str>,
    },
}

impl ConfigError {
    /// Whether the same file may be fine a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_out_of_resources(source),
            Self::Unresolved { .. } => true,
            Self::Faults { faults, .. } => faults.iter().all(|fault| fault.is_passing),
            Self::Fixed { .. } => false,
        }
    }
}

fn listed(path: &Path, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(|fault| format!("{}:{fault}", path.display())).collect();
    lines.join("\n")
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it can't be read, or for all that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads and checks a file, but not the certificates and keys that it names: for commands that ask
    /// what it says, and that may not be allowed to read keys. Nothing may be served by it.
    ///
    /// # Errors
    /// When it can't be read, or for all that is wrong with it.
    pub fn load_outline(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse_outline(&text, path)
    }

    /// Checks the text of a file, but not the certificates and keys that it names.
    ///
    /// # Errors
    /// For all that is wrong with it.
    pub fn parse_outline(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::made_of(text, (path, &[]), Raw::without_files)
    }

    /// Checks the text of a file, and reads the certificates and keys that it names; `path` is for
    /// messages and for names that are relative to its directory.
    ///
    /// # Errors
    /// For all that is wrong with it or with what it names.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::made_of(text, (path, &[]), |raw| raw)
    }

    /// Reads and checks a file while `old` is in force, whose certificates may have expired since.
    ///
    /// # Errors
    /// When it can't be read, or for all that is wrong with it.
    pub fn load_after(old: &Self, path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let in_force: Vec<_> = old.tls_files().cloned().collect();
        Self::made_of(&text, (path, &in_force), |raw| raw)
    }

    fn made_of(
        text: &str,
        (path, in_force): (&Path, &[Stamp]),
        of: fn(Raw) -> Raw,
    ) -> Result<Self, ConfigError> {
        let place = Place { dir: directory(path), now: Timestamp::now(), in_force };
        let mut config = raw::read(text, |raw, faults| build(of(raw), place, faults))
            .map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })?;
        config.state_dir = place.dir.join(&config.state_dir);
        config.hash = hash(text.as_bytes());
        text.clone_into(&mut config.text);
        Ok(config)
    }

    /// Who is told of the guard's decisions. A secret may be in it: for the request alone.
    #[must_use]
    pub fn webhook(&self) -> Option<&str> {
        self.ramp.as_ref()?.webhook.as_ref().map(Webhook::url)
    }

    /// The files of TLS that it was made of, as they were then.
    pub fn tls_files(&self) -> impl Iterator<Item = &Stamp> {
        let listen = self.listen.tls.iter().flat_map(|tls| tls.files());
        listen.chain(self.paths.iter().flat_map(|(_, path)| path.tls.files()))
    }

    /// The certificates that it presents, each with the section that names it: to clients those of
    /// `listen`, to endpoints those of their path.
    pub fn certificates(&self) -> impl Iterator<Item = (&'static str, &Certificate)> {
        let listen = self.listen.tls.iter().flat_map(|tls| tls.certificates());
        let paths = self.paths.iter();
        let paths = paths.filter_map(|(side, path)| Some((side.name(), path.tls.certificate()?)));
        listen.map(|certificate| ("listen", certificate)).chain(paths)
    }

    /// Takes over from `old` what of TLS is the same, so that sessions that were begun under it can be
    /// resumed.
    pub fn keep_tls(&mut self, old: &Self) {
        if let (Some(new), Some(old)) = (&mut self.listen.tls, &old.listen.tls) {
            new.keep(old);
        }
        self.paths.legacy.tls.keep(&old.paths.legacy.tls);
        self.paths.async_.tls.keep(&old.paths.async_.tls);
    }

    /// The keys in which `new` differs although they can't change while the process runs.
    #[must_use]
    pub fn fixed_changes(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            ("listen.address", self.listen.addresses == new.listen.addresses),
            ("listen.workers", self.listen.workers == new.listen.workers),
            ("admin.address", self.admin.address == new.admin.address),
            ("state_dir", self.state_dir == new.state_dir),
            ("access_log.path", self.access_log == new.access_log),
        ];
        fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }
}

/// The directory that a config's relative names are relative to.
fn directory(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new(""))
}

/// The files of TLS that a config names, whatever else is wrong with its text.
fn tls_files_of(text: &str, path: &Path) -> Vec<PathBuf> {
    named_files(&raw::glance(text), directory(path))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::values::LogTarget;
    use crate::guard::counts::DivergenceMode;
    use crate::vocab::Weight;

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
        assert_eq!(config.paths.legacy.endpoints[0].origin.to_string(), "127.0.0.1:9001");
        assert_eq!(config.access_log, LogTarget::Off);
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        let reference = include_str!("../../config/reference.toml");
        let reference = parse(reference).unwrap();
        let smallest = parse(SMALLEST).unwrap();
        let shown = |config: &Config| {
            let Config { listen, paths, retry, failover, dns, mirror, guard, ramp, drain, .. } =
                config;
            let rest = format!("{mirror:?} {guard:?} {ramp:?} {drain:?}");
            format!("{listen:?} {paths:?} {retry:?} {failover:?} {dns:?} {rest}")
        };
        assert_eq!(shown(&reference), shown(&smallest));
    }

    #[test]
    fn the_reference_shows_the_defaults_of_what_is_absent() {
        let reference = include_str!("../../config/reference.toml");
        let commented = reference.lines().skip_while(|line| !line.starts_with("# [ramp]"));
        let ramp = commented.map_while(|line| line.trim_start().strip_prefix('#'));
        let ramp: String = ramp.map(|line| format!("{}\n", line.trim_start())).collect();
        assert!(ramp.contains("\nwebhook = "), "{ramp}");
        // What goes on from one line to the next is the reason, not a key.
        let is_key = |line: &&str| line.starts_with('[') || line.contains(" = ");
        let keys: Vec<_> = ramp.lines().filter(is_key).collect();
        let shown = parse(&format!("{SMALLEST}{}\n", keys.join("\n"))).unwrap();
        let absent = parse(&format!("{SMALLEST}[ramp]\n")).unwrap();
        assert_eq!(shown.ramp, absent.ramp);
        assert!(absent.ramp.is_some() && parse(SMALLEST).unwrap().ramp.is_none());
    }

    #[test]
    fn guard_and_ramp_are_read_as_they_are_written() {
        let config = parse(&format!(
            "{SMALLEST}loop_probe = {{ path = \"/ping\", interval = \"50ms\" }}\n\
             [guard]\nmode = \"enforce\"\ndivergence_mode = \"absolute\"\nfail_at = 20\n\
             memory_max = \"2GiB\"\nphi = 3.0\nacknowledge_rollback = \"rb-1\"\n\
             [ramp]\nsteps = [0.25, 1]\napprove = [1.0]\nsoak = \"1m\"\n\
             webhook = \"https://hooks.example/x\"\n"
        ))
        .unwrap();
        let guard = &config.guard;
        assert_eq!((guard.mode, guard.rules.fail_at, guard.phi), (GuardMode::Enforce, 20.0, 3.0));
        assert_eq!(guard.rules.divergence_mode, DivergenceMode::Absolute);
        assert_eq!(
            (guard.rules.memory_max, guard.acknowledge_rollback.as_str()),
            (Some(2 << 30), "rb-1")
        );
        assert_eq!(config.webhook(), Some("https://hooks.example/x"));
        let ramp = config.ramp.as_ref().unwrap();
        assert_eq!(ramp.steps, [0.25, 1.0].map(|share| Weight::from_share(share).unwrap()));
        assert_eq!((&ramp.approve[..], ramp.soak), (&[Weight::ONE][..], Duration::from_secs(60)));
        let probe = config.paths.async_.loop_probe.as_ref().unwrap();
        assert_eq!((probe.path.as_str(), probe.interval), ("/ping", Duration::from_millis(50)));
        assert_eq!(config.paths.legacy.loop_probe, None);
    }

    #[test]
    fn a_ramp_has_at_most_32_steps() {
        let ramp = |count: u32| {
            let steps: Vec<_> = (1..=count).map(|step| f64::from(step) / 100.0).collect();
            format!("{SMALLEST}[ramp]\nsteps = {steps:?}\n")
        };
        assert_eq!(parse(&ramp(32)).unwrap().ramp.unwrap().steps.len(), 32);
        assert_eq!(faults(&ramp(33)), ["10:9: `ramp.steps`: must be 1 to 32 shares"]);
    }

    #[test]
    fn all_faults_of_a_file_are_named_with_their_place() {
        let found = faults(
            "async_weight = 1.5\n[listen]\naddress = \"nowhere\"\nheader_timeout = \"0s\"\n\
             [legacy]\nendpoints = [\"ftp://a\"]\nqueue = 3\n[split]\nkey = \"sid\"\n",
        );
        for (line, part) in [
            ("1:16", "async_weight"),
            ("3:11", "listen.address"),
            ("4:18", "listen.header_timeout"),
            ("6:14", "https"),
            ("7:1", "legacy.queue"),
        ] {
            let hit = found.iter().any(|fault| fault.starts_with(line) && fault.contains(part));
            assert!(hit, "{line} {part} is not in {found:#?}");
        }
        assert!(found.iter().any(|fault| fault.contains("`async.endpoints`: is missing")));
    }

    #[test]
    fn keys_are_checked_against_each_other() {
        for (more, part) in [
            ("[admin]\naddress = \"0.0.0.0:9900\"", "set `token_file`"),
            ("[split]\nkey = \"sid\"", "split.key"),
            ("[split]\nforce_header = \"a b\"", "split.force_header"),
            ("[[route]]\nname = \"a\"\nmatch = \"GET a\"", "route.match"),
            ("[[route]]\nname = \"default\"\nmatch = \"GET /\"", "route.name"),
            ("[[route]]\nname = \"a\"\nmatch = \"GET /\"\npin = \"new\"", "route.pin"),
        ] {
            let found = faults(&format!("{SMALLEST}\n{more}\n"));
            assert!(found.iter().any(|fault| fault.contains(part)), "{part} not in {found:?}");
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
