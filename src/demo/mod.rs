//! The demo: two embedded backends, the proxy between them and a light load, in one process.
//!
//! Nothing is feigned: the backends do blocking work on real sockets, and the proxy runs the given
//! config file, so that editing its weight moves traffic before the user's eyes. The load is an
//! open loop, and what it lost is counted at the end.

pub mod async_;
pub mod bridge;
pub mod legacy;
pub mod load;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::app::App;
use crate::config::Config;
use crate::config::endpoint::Origin;
use crate::demo::load::{Counts, Load};
use crate::metrics::shard::Observed;
use crate::vocab::{PerSide, Side};

/// Threads of the legacy backend.
const LEGACY_THREADS: usize = 10;
/// How often a line is printed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs the demo on the config `file` with `rate` requests a second, until Ctrl-C, SIGTERM or the
/// end of `seconds`. Exit code 0 if nothing was lost, 1 otherwise.
///
/// # Errors
/// When the file is faulty, or one of its addresses is taken.
pub fn run(file: &Path, rate: u32, seconds: Option<u64>) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let [legacy_address, async_address] = Side::ALL.map(|side| endpoint(&config, side));
    let legacy = legacy::start(legacy_address?, LEGACY_THREADS).context("the legacy backend")?;
    let async_ = async_::start(async_address?).context("the async backend")?;
    let app = App::start(config, file.to_owned())?;
    let target = *app.addresses.first().context("listen.addresses is empty")?;
    say(&format!(
        "legacy backend   http://{}   {LEGACY_THREADS} blocking threads\n\
         async backend    http://{}   one event loop, blocking calls over a bounded bridge\n\
         proxy            http://{target}\n\
         admin            http://{}/metrics\n\
         load             {rate} requests a second to the proxy\n\n\
         Edit `async_weight` in {} and save: the traffic moves.\n\
         Ctrl-C drains and counts what was lost.\n\n",
        legacy.address(),
        async_.address(),
        app.admin,
        file.display(),
    ))?;
    let load = load::start(target, rate).context("the load")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (outcome, shown) = runtime.block_on(async {
        let shown = watch(&app, &load, &async_, seconds).await;
        // The load goes on until the proxy has closed its listener.
        (app.drain().await, shown)
    });
    shown?;
    let counts = load.stop();
    async_.stop();
    legacy.stop();
    let lost = counts.failed + counts.refused.values().sum::<u64>();
    say(&format!(
        "\ndrained in {:.1} s: {} sent, {} answered, {} came after the listener closed, {lost} lost\n",
        outcome.took.as_secs_f64(),
        counts.sent,
        counts.ok,
        counts.after_close,
    ))?;
    Ok(if lost == 0 && outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn endpoint(config: &Config, side: Side) -> anyhow::Result<SocketAddr> {
    let endpoint = &config.paths.get(side).endpoints[0];
    match endpoint.origin {
        Origin::Address(address) if address.ip().is_loopback() && !endpoint.is_tls => Ok(address),
        Origin::Address(_) | Origin::Host { .. } | Origin::Service { .. } => {
            bail!(
                "the demo's {side} endpoint must be http:// and a loopback address: {}",
                endpoint.origin
            )
        }
    }
}

/// Prints a line a second until a signal or the end of `seconds`.
async fn watch(
    app: &App,
    load: &Load,
    async_: &async_::Async,
    seconds: Option<u64>,
) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let end = async {
        match seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut before = Seen::default();
    let mut lines = 0_u64;
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            _ = terminate.recv() => return Ok(()),
            () = &mut end => return Ok(()),
            _ = tick.tick() => {}
        }
        let now = Seen::of(app, load.counts());
        if lines.is_multiple_of(20) {
            say("  weight | legacy /s      p95 | async /s      p95  bridge | errors\n")?;
        }
        lines += 1;
        say(&line(app, &before, &now, async_))?;
        before = now;
    }
}

/// The counters of one moment.
#[derive(Clone, Default)]
struct Seen {
    counts: Counts,
    durations: PerSide<Observed>,
}

impl Seen {
    fn of(app: &App, counts: Counts) -> Self {
        let durations = PerSide::from_fn(|side| {
            let mut observed = Observed::default();
            for shard in app.metrics().shards() {
                for (_, cells) in shard.sides.get(side).routes() {
                    observed.add(&cells.duration);
                }
            }
            observed
        });
        Self { counts, durations }
    }

    /// The 95th percentile of what came after `before`, as the bound of its bucket.
    fn p95(&self, before: &Self, side: Side) -> String {
        let mut fresh = self.durations.get(side).clone();
        for (bucket, old) in fresh.buckets.iter_mut().zip(before.durations.get(side).buckets) {
            *bucket -= old;
        }
        fresh.quantile(0.95).map_or_else(|| "-".to_owned(), |q| format!("<={:.0} ms", q * 1e3))
    }
}

fn line(app: &App, before: &Seen, now: &Seen, async_: &async_::Async) -> String {
    let refused = |seen: &Seen| seen.counts.failed + seen.counts.refused.values().sum::<u64>();
    format!(
        "  {:>6} | {:>9} {:>8} | {:>8} {:>8} {:>7} | {:>6}\n",
        app.publisher().current().config.weight.to_string(),
        now.counts.legacy - before.counts.legacy,
        now.p95(before, Side::Legacy),
        now.counts.async_ - before.counts.async_,
        now.p95(before, Side::Async),
        async_.bridge().depth(),
        refused(now),
    )
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("can't write")
}
