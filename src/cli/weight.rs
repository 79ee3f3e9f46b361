//! `cutover weight`: edits one line of the config file, and waits until it is in force.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::time::Instant;

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::config::{Config, edit, hash};
use crate::vocab;

/// How long the running proxy may take to notice.
const NOTICE: Duration = Duration::from_secs(5);
/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(50);

/// `cutover weight SHARE [--route NAME]`
#[derive(Debug, Args)]
pub(crate) struct Weight {
    /// The share of the async path, 0.0 to 1.0.
    share: f64,
    /// Only for this route.
    #[arg(long)]
    route: Option<String>,
}

impl Weight {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if vocab::Weight::from_share(self.share).is_none() {
            bail!("{} is not a share from 0.0 to 1.0", self.share);
        }
        let file = &global.config;
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("can't read config {}", file.display()))?;
        let edited = edit::with_weight(&text, self.share, self.route.as_deref(), file)?;
        // A text that the proxy would refuse is not written. Certificates and keys are not asked for:
        // whoever may edit the file need not be allowed to read them.
        let config = Config::parse_outline(&edited, file)?;
        let address = global.admin.clone().unwrap_or(config.admin.address);
        edit::replace(file, &edited)?;
        let what = self.route.as_deref().unwrap_or("async_weight");
        let done = format!("{}: {what} = {}", file.display(), self.share);
        let wanted = hash(edited.as_bytes());
        let began = Instant::now();
        loop {
            let status = admin_client::get_json(&address, "/api/v1/status")
                .with_context(|| format!("{done} is written, but no proxy says it is in force"))?;
            if status["config"]["hash"] == wanted.as_str() {
                print(&format!("{done}, in force after {} ms\n", began.elapsed().as_millis()))?;
                return Ok(ExitCode::SUCCESS);
            }
            if began.elapsed() > NOTICE {
                let faults = &status["config"]["faults"];
                bail!("{done} is written, but not in force after {NOTICE:?}; faults: {faults}");
            }
            #[expect(clippy::disallowed_methods, reason = "a command that only waits")]
            std::thread::sleep(INTERVAL);
        }
    }
}
