//! `cutover rollback`: sends nothing to the async path any more, at once.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::global::{Global, print};
use crate::cli::ramp::text;

/// `cutover rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {}

impl Rollback {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        print(&text(&global.order("/api/v1/rollback", &json!({}))?))?;
        Ok(ExitCode::SUCCESS)
    }
}
