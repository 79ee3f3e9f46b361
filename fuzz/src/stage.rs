//! The proxy under attack: started once in this process, between real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cutover::app::App;
use cutover::config::Config;
use cutover::error::ClientFault;
use cutover::metrics::Metrics;
use cutover::vocab::Side;

#[expect(clippy::disallowed_types, reason = "peers are threads on the real clock")]
type Instant = std::time::Instant;

/// How long anything may take before it counts as hanging; a busy machine must not be a finding.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy; it ends with the process.
#[derive(Debug)]
pub struct Stage {
    /// Where clients reach it.
    pub address: SocketAddr,
    metrics: Arc<Metrics>,
}

impl Stage {
    /// A proxy with one worker before `legacy` and `async_`; `tail` is more lines of `[async]`, and
    /// whole sections.
    pub fn start(legacy: SocketAddr, async_: SocketAddr, tail: &str) -> Self {
        let text = format!(
            "async_weight = 0.0\n\
             [listen]\naddress = \"127.0.0.1:0\"\nworkers = 1\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [guard]\nmode = \"off\"\n\
             [legacy]\nendpoints = [\"http://{legacy}\"]\neject = {{ consecutive_failures = 0 }}\n\
             [async]\nendpoints = [\"http://{async_}\"]\neject = {{ consecutive_failures = 0 }}\n\
             min_idle = 0\n{tail}\n"
        );
        let dir = std::env::temp_dir().join(format!("cutover-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the proxy's state");
        let file = dir.join("cutover.toml");
        std::fs::write(&file, text).expect("a file in a new directory");
        let config = Config::load(&file).expect("a sound config");
        let app = Box::leak(Box::new(App::start(config, file).expect("a proxy that starts")));
        Self { address: app.addresses[0], metrics: app.metrics().clone() }
    }

    /// Waits until nothing is open, in flight, queued or tunnelled; panics if something stays.
    pub fn settle(&self) {
        let began = Instant::now();
        let mut left = self.left();
        while left != [0; 4] {
            let connections = left[0];
            assert!(began.elapsed() < PATIENCE, "leaked: {left:?}, {connections} connections");
            std::thread::yield_now();
            left = self.left();
        }
        assert_eq!(self.metrics.sum(|shard| shard.panics.get()), 0, "a connection's task panicked");
    }

    /// How many clients the proxy says have left before their reply.
    pub fn aborts(&self) -> u64 {
        self.metrics.sum(|shard| shard.client_faults[ClientFault::Abort as usize].get())
    }

    /// Which faults the proxy has counted, for the report of a finding.
    pub fn told(&self) -> String {
        let text = self.metrics.render().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let is_fault = |line: &&str| !line.ends_with(" 0") && line.contains("errors_total{");
        text.lines().filter(is_fault).collect::<Vec<_>>().join("; ")
    }

    /// Connections, requests in flight, waiting requests and tunnels.
    fn left(&self) -> [u64; 4] {
        let both = |of: &dyn Fn(Side) -> u64| Side::ALL.iter().map(|side| of(*side)).sum();
        [
            self.metrics.sum(|shard| shard.connections.get()),
            both(&|side| self.metrics.in_flight(side)),
            both(&|side| self.metrics.queue_depth(side) as u64),
            both(&|side| self.metrics.sum(|shard| shard.sides.get(side).tunnels.get())),
        ]
    }
}
