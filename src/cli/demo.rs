//! `cutover demo`: two embedded backends, the proxy and a light load, until Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::demo;

/// `cutover demo`
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The config file to edit while it runs.
    #[arg(long, default_value = "config/demo.toml")]
    file: PathBuf,
    /// Requests a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// End by itself after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        demo::run(&self.file, self.rate, self.seconds)
    }
}
