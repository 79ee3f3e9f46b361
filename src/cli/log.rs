//! The program's own log: what of it is written, and how, by the config in force.
//!
//! To standard error; standard output is the access log's.

use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogConfig, LogLayout, trimmed};

/// What is logged wins over `log.level` if it is named here.
const VARIABLE: &str = "CUTOVER_LOG";

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Writer = Box<dyn Layer<Filtered> + Send + Sync>;

/// The program's own log.
pub(crate) struct Log {
    filter: Handle<EnvFilter, Registry>,
    writer: Handle<Writer, Filtered>,
    in_force: LogConfig,
    is_given: bool,
    is_terminal: bool,
}

impl Log {
    /// Begins it, as the environment says and by the defaults, before there is a config. `is_terminal`: whether
    /// standard error is one, or will be when this process has taken over from another.
    pub(crate) fn start(is_terminal: bool) -> Self {
        let in_force = LogConfig::default();
        let given = std::env::var(VARIABLE).ok().and_then(|text| given(&text));
        let is_given = given.is_some();
        let filter = given.unwrap_or_else(|| in_force.level.filter());
        let (filter, filter_handle) = reload::Layer::new(filter);
        let (writer, writer_handle) = reload::Layer::new(writer(in_force.format, is_terminal));
        tracing_subscriber::registry().with(filter).with(writer).init();
        Self { filter: filter_handle, writer: writer_handle, in_force, is_given, is_terminal }
    }

    /// Goes on by `config`.
    pub(crate) fn adopt(&mut self, config: &LogConfig) {
        if self.in_force == *config {
            return;
        }
        // They fail only once the subscriber is gone, and there is no log.
        if config.format != self.in_force.format {
            let _ = self.writer.reload(writer(config.format, self.is_terminal));
        }
        if config.level != self.in_force.level && !self.is_given {
            let _ = self.filter.reload(config.level.filter());
        }
        self.in_force = config.clone();
    }
}

/// What the environment says; one that is empty says nothing.
fn given(text: &str) -> Option<EnvFilter> {
    let text = trimmed(text);
    if text.is_empty() { None } else { EnvFilter::try_new(text).ok() }
}

fn writer(format: LogLayout, is_terminal: bool) -> Writer {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match (format, is_terminal) {
        (LogLayout::Text, _) | (LogLayout::Auto, true) => layer.with_ansi(is_terminal).boxed(),
        (LogLayout::Json, _) | (LogLayout::Auto, false) => layer.json().boxed(),
    }
}
