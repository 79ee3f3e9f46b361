//! `cutover check`: all that is wrong with a config file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::global::{Global, print};
use crate::config::Config;

/// `cutover check [FILE]`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file; that of --config by default.
    file: Option<PathBuf>,
}

impl Check {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let file = self.file.as_ref().unwrap_or(&global.config);
        let config = Config::load(file)?;
        let name = file.display();
        print(&format!("{name}: ok (async_weight {}, hash {})\n", config.weight, config.hash))?;
        Ok(ExitCode::SUCCESS)
    }
}
