//! `cutover resume`: releases a rollback.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use crate::cli::global::{Global, print};
use crate::cli::ramp::text;

/// `cutover resume ID`
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The rollback's id, as the decision names it: rb-20261124-021733.
    id: String,
}

impl Resume {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.id.is_empty() || !self.id.chars().all(is_id) {
            bail!("`{}` is not the id of a rollback such as rb-20261124-021733", self.id);
        }
        let decision = global.order(&format!("/api/v1/resume/{}", self.id), &json!({}))?;
        print(&text(&decision))?;
        Ok(ExitCode::SUCCESS)
    }
}
