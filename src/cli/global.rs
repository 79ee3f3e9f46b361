//! What every command takes, and how each prints its result.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::admin::guard::read_token;
use crate::cli::admin_client;
use crate::config::Config;
use crate::config::values::AdminAddress;

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The config file.
    #[arg(long, global = true, env = "CUTOVER_CONFIG", default_value = "cutover.toml")]
    pub(crate) config: PathBuf,
    /// The running proxy's admin address, such as 127.0.0.1:9900 or unix:/run/cutover.sock; the
    /// config's by default.
    #[arg(long, global = true, env = "CUTOVER_ADMIN")]
    pub(crate) admin: Option<AdminAddress>,
    /// The file with the token that changes need; the config's by default.
    #[arg(long, global = true, env = "CUTOVER_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Global {
    /// Where the running proxy's admin listener is.
    pub(crate) fn admin(&self) -> anyhow::Result<AdminAddress> {
        match &self.admin {
            Some(address) => Ok(address.clone()),
            None => {
                let config = Config::load_outline(&self.config)
                    .context("no --admin is given, and the config does not tell the address")?;
                Ok(config.admin.address)
            }
        }
    }
}

impl Global {
    /// Gives an order to the running proxy.
    pub(crate) fn order(&self, path: &str, document: &Value) -> anyhow::Result<Value> {
        self.order_within(path, document, Duration::ZERO)
    }

    /// Gives an order to the running proxy, which takes up to `work`.
    pub(crate) fn order_within(
        &self,
        path: &str,
        document: &Value,
        work: Duration,
    ) -> anyhow::Result<Value> {
        let address = self.admin()?;
        let file = match &self.token_file {
            Some(file) => Some(file.clone()),
            // Without a config at hand there may be no token either: the proxy will say so.
            None => {
                Config::load_outline(&self.config).ok().and_then(|config| config.admin.token_file)
            }
        };
        let token = file.map(|file| read_token(&file)).transpose()?;
        admin_client::post(&address, path, token.as_deref(), document, work)
    }
}

/// A result goes to standard output; a closed pipe there ends the program quietly.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}
