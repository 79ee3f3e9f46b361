//! `cutover report`: the migration's story, as text, JSON or one page.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::report::story::Story;
use crate::report::{html, text};

/// `cutover report`
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// How to write it.
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// One JSON document.
    Json,
    /// One page that needs nothing else.
    Html,
}

impl Report {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let document = admin_client::get_json(&global.admin()?, "/api/v1/report")?;
        let shown = match self.format {
            Format::Json => format!("{document}\n"),
            Format::Text => text::render(&serde_json::from_value::<Story>(document)?),
            Format::Html => html::render(&serde_json::from_value::<Story>(document)?),
        };
        print(&shown)?;
        Ok(ExitCode::SUCCESS)
    }
}
