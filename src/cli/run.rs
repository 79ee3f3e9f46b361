//! `cutover run`: serve until a signal, then drain.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::app::{App, Outcome};
use crate::cli::global::Global;
use crate::cli::log::Log;
use crate::cli::service::{self, Pulse};
use crate::config::Config;
use crate::inherit::{Inheritance, Predecessor};
use crate::relief::{Failure, PATIENCE};
use crate::upgrade::Program;

/// Exit code of a drain that had to cut something off.
const CUT: u8 = 3;

/// `cutover run`
#[derive(Debug, Args)]
pub(crate) struct Run {}

impl Run {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        // Before any thread.
        let (program, inheritance) = (Program::own(), Inheritance::take()?);
        let errors = inheritance.predecessor.as_ref().and_then(Predecessor::errors);
        let is_terminal =
            errors.map_or_else(|| std::io::stderr().is_terminal(), IsTerminal::is_terminal);
        let mut log = Log::start(is_terminal);
        let program = program.inspect_err(|error| {
            tracing::warn!(%error, "it is not known where this program lies: no upgrade");
        });
        let config = Config::load(&global.config)?;
        log.adopt(&config.log);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            // Caught from before the first connection, so that no signal finds its default.
            let mut signals = Signals::new()?;
            let file = global.config.clone();
            let app = App::start_with(config, file, inheritance, program.ok())?;
            for address in &app.addresses {
                tracing::info!(%address, admin = %app.admin, "serving");
            }
            service::ready("serving");
            let (mut pulse, mut is_relieved) = (Pulse::default(), false);
            let clocks = || app.metrics().shards().iter().map(|shard| shard.lag.count());
            tokio::select! {
                () = obey_until_end(&mut signals, &app, &mut log) => service::stopping(),
                successor = app.relieved() => {
                    service::succeeded_by(successor.pid);
                    is_relieved = true;
                }
                never = service::watch(|| pulse.goes_on(clocks())) => match never {},
            }
            let second = async {
                if is_relieved {
                    // What it asks for is under way.
                    signals.end().await;
                }
                signals.end().await;
            };
            tokio::select! {
                outcome = app.drain() => Ok(report(&outcome)),
                () = second => {
                    tracing::warn!("second signal, ending at once");
                    Ok(ExitCode::from(CUT))
                }
                // Workers end one by one; the drain has a deadline of its own. A successor says itself how it is.
                never = service::watch(|| true), if !is_relieved => match never {},
            }
        });
        runtime.shutdown_background();
        ended
    }
}

/// Reads the config again at each hangup, and upgrades the program when asked to, until a signal to end comes.
/// However the config was read, the log goes by it.
async fn obey_until_end(signals: &mut Signals, app: &App, log: &mut Log) {
    let (mut reloads, mut upgrades) = (JoinSet::new(), FuturesUnordered::new());
    let mut published = app.publisher().follow();
    loop {
        tokio::select! {
            asked = signals.next() => {
                match asked {
                    Asked::End => return,
                    Asked::Upgrade => {
                        upgrades.push(app.upgrade(PATIENCE));
                        continue;
                    }
                    Asked::Reload => service::reloading(),
                }
                // One that waits for its turn will read the file as it is then.
                if reloads.len() < 2 {
                    let publisher = app.publisher().clone();
                    // A refused config is logged and shown; the old one stays in force. It may wait for
                    // DNS, and a signal to end must not wait for it.
                    reloads.spawn_blocking(move || publisher.reload().is_ok());
                }
            }
            Ok(()) = published.changed() => log.adopt(&app.publisher().current().config.log),
            Some(upgraded) = upgrades.next() => {
                // What fails says so itself.
                if let Err(Failure::Refused(why)) = upgraded {
                    tracing::error!(why, "not upgraded");
                }
            }
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
    Upgrade,
    End,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    second: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            second: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.second.recv() => Asked::Upgrade,
        }
    }

    /// A signal to end; a drain leaves nothing to reload or to upgrade.
    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}
