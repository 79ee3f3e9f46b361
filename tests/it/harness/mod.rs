//! The proxy under test, in this process or as the real program, between scripted peers.
//!
//! [`Setup`] writes a config into a directory of its own, with the ports of backends that listen
//! already, and starts it. When a proxy is dropped, nothing may be in flight any more.

pub(crate) mod backend;
pub(crate) mod both;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod dns;
pub(crate) mod guard;
pub(crate) mod h2;
pub(crate) mod h2_backend;
pub(crate) mod h2_client;
pub(crate) mod h2_frames;
pub(crate) mod h2_play;
pub(crate) mod h2_server;
pub(crate) mod hpack;
pub(crate) mod latch;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod raw_backend;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cutover::app::{App, Outcome};
use cutover::config::Config;
use cutover::config::values::AdminAddress;
use tempfile::TempDir;

pub(crate) use self::backend::{Backend, Reply, Seen};
pub(crate) use self::client::{Client, Ended, Response};
pub(crate) use self::dns::{DnsServer, Mood};
pub(crate) use self::h2_play::Play;
pub(crate) use self::h2_server::{Fate, H2Backend};
pub(crate) use self::latch::Latch;
pub(crate) use self::load::under_load;
pub(crate) use self::process::{PROGRAM, Process};

/// How long [`eventually!`] waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until a condition holds, and fails with the message if it does not come to hold.
macro_rules! eventually {
    ($condition:expr $(,)?) => {
        $crate::harness::eventually!($condition, "it never came to hold: {}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if $crate::harness::within($crate::harness::PATIENCE, || $condition).is_none() {
            panic!($($message)+);
        }
    };
}
pub(crate) use eventually;

/// Waits until `holds`, for at most `limit`; how long it took.
pub(crate) fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    loop {
        if holds() {
            return Some(began.elapsed());
        }
        if began.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keeps tests that measure time, or load both cores, from running at once.
pub(crate) fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Setup ===

/// A config in the making. Texts are lines of TOML for their section.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) weight: f64,
    pub(crate) address: SocketAddr,
    pub(crate) legacy_endpoint: SocketAddr,
    pub(crate) async_endpoint: SocketAddr,
    /// Entries of the legacy path's `endpoints`, as TOML, instead of the one address.
    pub(crate) legacy_entries: Option<String>,
    pub(crate) workers: usize,
    pub(crate) listen: String,
    pub(crate) admin: String,
    pub(crate) legacy: String,
    pub(crate) async_: String,
    pub(crate) drain: String,
    /// Whole sections.
    pub(crate) tail: String,
}

impl Setup {
    /// All to `legacy`, with two workers.
    pub(crate) fn new(legacy: SocketAddr, async_: SocketAddr) -> Self {
        Self {
            weight: 0.0,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            legacy_endpoint: legacy,
            async_endpoint: async_,
            legacy_entries: None,
            workers: 2,
            listen: String::new(),
            admin: String::new(),
            legacy: String::new(),
            async_: String::new(),
            drain: "timeout = \"5s\"".to_owned(),
            tail: String::new(),
        }
    }

    /// Several endpoints of the legacy path, as they stand in the file.
    pub(crate) fn legacy_endpoints(mut self, list: &str) -> Self {
        self.legacy_entries = Some(format!("[{list}]"));
        self
    }

    /// Several endpoints of the legacy path.
    pub(crate) fn legacy_at(self, backends: &[&Backend]) -> Self {
        let list: Vec<_> = backends.iter().map(|b| format!("\"http://{}\"", b.address)).collect();
        self.legacy_endpoints(&list.join(", "))
    }

    pub(crate) fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Several endpoints, or names, for the legacy path.
    pub(crate) fn legacy_urls(mut self, urls: &[&str]) -> Self {
        self.legacy_entries = Some(format!("{urls:?}"));
        self
    }

    /// Instead of a port that the system chooses.
    pub(crate) fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub(crate) fn listen(mut self, lines: &str) -> Self {
        self.listen = lines.to_owned();
        self
    }

    pub(crate) fn admin(mut self, lines: &str) -> Self {
        self.admin = lines.to_owned();
        self
    }

    pub(crate) fn legacy(mut self, lines: &str) -> Self {
        self.legacy = lines.to_owned();
        self
    }

    pub(crate) fn async_(mut self, lines: &str) -> Self {
        self.async_ = lines.to_owned();
        self
    }

    /// Replaces the default of `timeout = "5s"`.
    pub(crate) fn drain(mut self, lines: &str) -> Self {
        self.drain = lines.to_owned();
        self
    }

    pub(crate) fn tail(mut self, sections: &str) -> Self {
        self.tail = sections.to_owned();
        self
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let Self {
            weight,
            address,
            legacy_endpoint,
            async_endpoint,
            legacy_entries,
            workers,
            listen,
            admin,
            legacy,
            async_,
            drain,
            tail,
        } = self;
        let legacy_endpoint = format!("[\"http://{legacy_endpoint}\"]");
        let legacy_entries = legacy_entries.as_ref().unwrap_or(&legacy_endpoint);
        format!(
            "async_weight = {weight:?}\n\
             [listen]\naddress = \"{address}\"\nworkers = {workers}\n{listen}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n{admin}\n\
             [legacy]\nendpoints = {legacy_entries}\n{legacy}\n\
             [async]\nendpoints = [\"http://{async_endpoint}\"]\n{async_}\n\
             [drain]\n{drain}\n{tail}\n"
        )
    }

    /// Starts it in this process.
    pub(crate) fn start(&self) -> Proxy {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("cutover.toml");
        std::fs::write(&file, self.text()).unwrap();
        Proxy::start(dir, file)
    }

    /// Starts the real program.
    pub(crate) fn spawn(&self) -> Process {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("cutover.toml");
        std::fs::write(&file, self.text()).unwrap();
        Process::start(dir, file)
    }
}

// === impl Proxy ===

/// A proxy in this process.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) file: PathBuf,
    app: Option<App>,
    _dir: TempDir,
}

impl Proxy {
    /// Starts what `file` says; `dir` is kept as long as the proxy.
    pub(crate) fn start(dir: TempDir, file: PathBuf) -> Self {
        let config = Config::load(&file).expect("a sound config");
        let app = App::start(config, file.clone()).expect("a proxy that starts");
        let admin = match &app.admin {
            AdminAddress::Tcp(address) => *address,
            AdminAddress::Unix(path) => panic!("a unix socket: {}", path.display()),
        };
        Self { address: app.addresses[0], admin, file, app: Some(app), _dir: dir }
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("taken only by a drain")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub(crate) fn scrape(&self) -> Scrape {
        let text = self.app().metrics().render().unwrap();
        Scrape(String::from_utf8(text).unwrap())
    }

    /// The global weight in force.
    pub(crate) fn weight(&self) -> f64 {
        self.app().publisher().current().config.weight.share()
    }

    /// Writes the config file in place; the proxy has to notice by itself.
    pub(crate) fn write(&self, setup: &Setup) {
        std::fs::write(&self.file, setup.text()).unwrap();
    }

    /// Writes the config file and reads it again at once; panics if it is refused.
    pub(crate) fn apply(&self, setup: &Setup) {
        self.write(setup);
        self.app().reload().expect("a sound config");
    }

    /// Drains; returns how it ended.
    pub(crate) fn drain(mut self) -> Outcome {
        let app = self.app.take().expect("drained once");
        block_on(app.drain())
    }

    /// Waits until nothing is in flight, queued or tunnelled.
    pub(crate) fn settle(&self) {
        let gauges = ["cutover_requests_in_flight", "cutover_queue_depth", "cutover_tunnels_open"];
        let busy = || {
            let scrape = self.scrape();
            gauges.map(|gauge| {
                assert!(scrape.0.contains(&format!("\n{gauge}{{")), "{gauge} is not there");
                scrape.sum(gauge, &[])
            })
        };
        eventually!(busy() == [0.0; 3], "still in flight, queued, tunnelled: {:?}", busy());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() || self.app.is_none() {
            return;
        }
        self.settle();
        assert_eq!(self.scrape().sum("cutover_panics_total", &[]), 0.0);
        if let Some(app) = self.app.take() {
            block_on(app.drain());
        }
    }
}

/// Runs a future to its end on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

// === impl Scrape ===

/// Metrics at one moment.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// The sum of all samples of `name` that have all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = self.0.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && wanted.iter().all(|label| line.contains(label.as_str()))
        });
        // From +0.0: an empty sum of f64 is -0.0.
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    }
}

/// A file's directory, for tests that replace the file.
pub(crate) fn directory(file: &Path) -> &Path {
    file.parent().expect("a file in a directory")
}
