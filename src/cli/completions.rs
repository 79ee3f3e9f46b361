//! `cutover completions`: the script by which a shell completes commands and flags.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::global::print;

/// `cutover completions SHELL`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Whose: `source <(cutover completions bash)` is enough for bash and zsh.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: Command) -> anyhow::Result<ExitCode> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
