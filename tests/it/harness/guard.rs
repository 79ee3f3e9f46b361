//! What tests of the guard need: a state directory that outlives its proxies, orders by the admin
//! API, and traffic that may fail.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::load::Done;
use super::process::admin_get;
use super::{Client, Process, Proxy, Setup, eventually};

/// Between two requests of one client: the guard needs some hundred a second, not all of a core.
const PAUSE: Duration = Duration::from_millis(4);

/// A config file and the state directory beside it.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new(setup: &Setup) -> Self {
        let home = Self(TempDir::new().unwrap());
        home.write(setup);
        home
    }

    /// Replaces the config file by a rename, so that nobody reads half of one.
    pub(crate) fn write(&self, setup: &Setup) {
        let fresh = self.0.path().join("fresh.toml");
        std::fs::write(&fresh, setup.text()).unwrap();
        std::fs::rename(fresh, self.file()).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("cutover.toml")
    }

    /// A file of the state directory.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.0.path().join("cutover-state").join(name)
    }

    /// Puts a file into the state directory, as an earlier process would have left it.
    pub(crate) fn leave(&self, name: &str, content: &str) {
        std::fs::create_dir_all(self.0.path().join("cutover-state")).unwrap();
        std::fs::write(self.state(name), content).unwrap();
    }

    /// A document of the state directory.
    pub(crate) fn document(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.state(name)).unwrap()).unwrap()
    }

    /// The change log.
    pub(crate) fn changes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state("changes.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Starts it in this process.
    pub(crate) fn start(&self) -> Proxy {
        Proxy::start(TempDir::new().unwrap(), self.file())
    }

    /// Starts the real program.
    pub(crate) fn spawn(&self) -> Process {
        Process::start(TempDir::new().unwrap(), self.file())
    }
}

/// What an admin listener replies to an order: its status, and its document.
pub(crate) fn order(admin: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    try_order(admin, path, body).expect("the admin listener answers")
}

/// The same, of a proxy that may end meanwhile.
pub(crate) fn try_order(
    admin: SocketAddr,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, Value)> {
    let mut client = Client::try_connect(admin)?;
    let length = body.len();
    client.try_send(format!(
        "POST {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ))?;
    let response = client.try_response()?;
    Ok((response.status, serde_json::from_slice(&response.body)?))
}

/// What an admin listener shows.
pub(crate) fn shown(admin: SocketAddr, path: &str) -> Value {
    let response = admin_get(admin, path);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// The guard's part of the status.
pub(crate) fn guard(admin: SocketAddr) -> Value {
    shown(admin, "/api/v1/status")["guard"].take()
}

/// Whether it is this share, as far as a weight tells shares apart.
pub(crate) fn is_share(value: &Value, share: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - share).abs() < 1e-6)
}

/// The decisions of a kind, oldest first.
pub(crate) fn decisions(admin: SocketAddr, kind: &str) -> Vec<Value> {
    let all = shown(admin, "/api/v1/decisions")["decisions"].take();
    let all = all.as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|decision| decision["kind"] == kind).collect()
}

/// The sum of a count of `legacy` or `async` over all ticks that are kept.
pub(crate) fn counted(admin: SocketAddr, path: &str, count: &str) -> u64 {
    let answer = shown(admin, "/api/v1/ticks");
    let ticks = answer["ticks"].as_array().unwrap();
    let groups = ticks.iter().filter_map(|tick| tick["groups"].as_array()).flatten();
    groups.map(|group| group["paths"][path][count].as_u64().unwrap_or(0)).sum()
}

/// Waits until the guard has looked twice more: what had ended before is then in its ticks.
pub(crate) fn looked(admin: SocketAddr) {
    let last = || {
        let answer = shown(admin, "/api/v1/ticks");
        answer["ticks"].as_array().and_then(|ticks| ticks.last()?["at_ms"].as_u64()).unwrap_or(0)
    };
    for _ in 0..2 {
        let before = last();
        eventually!(last() > before, "the guard does not look");
    }
}

/// How requests ended, by status; 0 is no reply.
#[derive(Debug, Default)]
pub(crate) struct Tally(pub(crate) std::collections::BTreeMap<u16, usize>);

/// Asks for `targets` in turn, over so many connections, while `work` goes on.
pub(crate) fn traffic<T>(
    address: SocketAddr,
    (clients, targets): (usize, &[&str]),
    work: impl FnOnce() -> T,
) -> (Tally, T) {
    let done = AtomicBool::new(false);
    let load = || {
        let (mut tally, mut client) = (Tally::default(), None);
        for target in targets.iter().cycle() {
            if done.load(Ordering::Relaxed) {
                return tally;
            }
            let connected = client.take().map_or_else(|| Client::try_connect(address), Ok);
            let status = connected.and_then(|mut connected| {
                let fields = target.strip_prefix("/forced").map_or("", |_| FORCE);
                connected.try_send(super::client::get(target, fields))?;
                let response = connected.try_response()?;
                client = Some(connected);
                Ok(response.status)
            });
            *tally.0.entry(status.unwrap_or(0)).or_default() += 1;
            thread::sleep(PAUSE);
        }
        tally
    };
    thread::scope(|scope| {
        let ends = Done(&done);
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(load)).collect();
        let came_of_it = work();
        drop(ends);
        let mut sum = Tally::default();
        for tally in clients.into_iter().map(|client| client.join().unwrap()) {
            tally.0.into_iter().for_each(|(code, n)| *sum.0.entry(code).or_default() += n);
        }
        (sum, came_of_it)
    })
}

/// Sent with each request for a target that begins with `/forced`.
const FORCE: &str = "X-Cutover-Force: async\r\n";
