//! The keys of what the program tells of itself, as they are typed: `[access_log]`, `[log]` and `[trace]`.

use std::path::PathBuf;

use toml::Spanned;

use crate::config::limits::number;
use crate::config::section::Section;
use crate::config::telemetry::{Collector, Directives, LogConfig, LogLayout};
use crate::config::values::{LogFormat, LogTarget};

/// `[access_log]`
#[derive(Debug)]
pub(crate) struct AccessLog {
    pub(crate) path: LogTarget,
    pub(crate) format: LogFormat,
}

/// `[trace]`
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) otlp_endpoint: Option<Collector>,
    pub(crate) sample_ratio: f64,
    pub(crate) headers_file: Option<Spanned<PathBuf>>,
    pub(crate) service_name: String,
}

pub(super) fn access_log(mut table: Section<'_>) -> AccessLog {
    let access_log = AccessLog {
        path: table.or("path", LogTarget::Off),
        format: table.or("format", LogFormat::default()),
    };
    table.finish();
    access_log
}

pub(super) fn log(mut table: Section<'_>) -> LogConfig {
    let log = LogConfig {
        level: table.or("level", Directives::default()),
        format: table.or("format", LogLayout::default()),
    };
    table.finish();
    log
}

pub(super) fn trace(mut table: Section<'_>) -> Trace {
    let trace = Trace {
        otlp_endpoint: collector(&mut table),
        sample_ratio: number(&mut table, "sample_ratio", 0.01, 0.0..=1.0),
        headers_file: table
            .optional::<PathBuf>("headers_file")
            .filter(|file| !file.get_ref().as_os_str().is_empty()),
        service_name: service_name(&mut table),
    };
    table.finish();
    trace
}

fn collector(table: &mut Section<'_>) -> Option<Collector> {
    let url = table.optional::<String>("otlp_endpoint").filter(|url| !url.get_ref().is_empty())?;
    let parsed = url.get_ref().parse();
    parsed.map_err(|message: String| table.fault(url.span(), "otlp_endpoint", message)).ok()
}

fn service_name(table: &mut Section<'_>) -> String {
    let Some(name) = table.optional::<String>("service_name") else {
        return "cutover".to_owned();
    };
    if name.get_ref().is_empty() {
        table.fault(name.span(), "service_name", "must not be empty");
    }
    name.into_inner()
}
