//! `cutover run`: serve until a signal, then drain.

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::app::{App, Outcome};
use crate::cli::global::Global;
use crate::cli::log::Log;
use crate::cli::service::{self, Pulse};
use crate::config::Config;

/// Exit code of a drain that had to cut something off.
const CUT: u8 = 3;

/// `cutover run`
#[derive(Debug, Args)]
pub(crate) struct Run {}

impl Run {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut log = Log::start();
        let config = Config::load(&global.config)?;
        log.adopt(&config.log);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            // Caught from before the first connection, so that no signal finds its default.
            let mut signals = Signals::new()?;
            let app = App::start(config, global.config.clone())?;
            for address in &app.addresses {
                tracing::info!(%address, admin = %app.admin, "serving");
            }
            service::ready("serving");
            let mut pulse = Pulse::default();
            let clocks = || app.metrics().shards().iter().map(|shard| shard.lag.count());
            tokio::select! {
                () = reload_until_end(&mut signals, &app, &mut log) => service::stopping(),
                never = service::watch(|| pulse.goes_on(clocks())) => match never {},
            }
            tokio::select! {
                outcome = app.drain() => Ok(report(&outcome)),
                () = signals.end() => {
                    tracing::warn!("second signal, ending at once");
                    Ok(ExitCode::from(CUT))
                }
                // Workers end one by one; the drain has a deadline of its own.
                never = service::watch(|| true) => match never {},
            }
        });
        runtime.shutdown_background();
        ended
    }
}

/// Reads the config again at each hangup, until a signal to end comes. However it was read, the log goes
/// by it.
async fn reload_until_end(signals: &mut Signals, app: &App, log: &mut Log) {
    let mut reloads = JoinSet::new();
    let mut published = app.publisher().follow();
    loop {
        tokio::select! {
            asked = signals.next() => {
                if asked == Asked::End {
                    return;
                }
                service::reloading();
                // One that waits for its turn will read the file as it is then.
                if reloads.len() < 2 {
                    let publisher = app.publisher().clone();
                    // A refused config is logged and shown; the old one stays in force. It may wait for
                    // DNS, and a signal to end must not wait for it.
                    reloads.spawn_blocking(move || publisher.reload().is_ok());
                }
            }
            Ok(()) = published.changed() => log.adopt(&app.publisher().current().config.log),
            Some(reloaded) = reloads.join_next() => {
                if reloads.is_empty() {
                    service::ready(match reloaded {
                        Ok(true) => "serving",
                        _ => "serving by the config before: the new one was refused",
                    });
                }
            }
        }
    }
}

/// The result of a drain, in the log and as an exit code.
pub(crate) fn report(outcome: &Outcome) -> ExitCode {
    let Outcome { cut, cut_tunnels, in_flight, took } = outcome;
    let took_ms = took.as_millis();
    if outcome.is_clean() {
        tracing::info!(in_flight, took_ms, "drained, nothing was cut off");
        return ExitCode::SUCCESS;
    }
    tracing::error!(
        in_flight,
        took_ms,
        legacy_requests = cut.legacy,
        async_requests = cut.async_,
        legacy_tunnels = cut_tunnels.legacy,
        async_tunnels = cut_tunnels.async_,
        "drained, some were cut off at the deadline"
    );
    ExitCode::from(CUT)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Reload,
    End,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// A signal to end; a hangup in a drain has nothing left to reload.
    async fn end(&mut self) {
        while self.next().await == Asked::Reload {}
    }
}
