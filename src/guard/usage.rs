//! What the backends of both paths take, where the config says how to learn it.

use crate::config::Config;
use crate::config::endpoint::Usage;
use crate::guard::fetch;
use crate::guard::process::{Reading, parse_page, read_pid};
use crate::vocab::{PerSide, Side};

/// Reads each endpoint that says how. Blocks. A path of which one endpoint can't be read has no sum: a
/// part of it would look like less.
#[must_use]
pub fn read(config: &Config) -> PerSide<Option<Reading>> {
    PerSide::from_fn(|side| of_path(config, side))
}

fn of_path(config: &Config, side: Side) -> Option<Reading> {
    let usages = config.paths.get(side).endpoints.iter();
    let mut sum: Option<Reading> = None;
    for usage in usages.filter_map(|endpoint| endpoint.usage.as_ref()) {
        let read = match usage {
            Usage::Process(pid) => read_pid(*pid),
            Usage::Metrics(url) => fetch::get(url).and_then(|page| parse_page(&page)),
        };
        let reading = match read {
            Ok(reading) => reading,
            Err(error) => {
                tracing::warn!(path = %side, error, "can't read what a backend takes");
                return None;
            }
        };
        let sum = sum.get_or_insert_default();
        sum.rss_bytes = sum.rss_bytes.saturating_add(reading.rss_bytes);
        sum.threads = match (sum.threads, reading.threads) {
            (Some(sum), Some(threads)) => Some(sum.saturating_add(threads)),
            (sum, threads) => sum.or(threads),
        };
    }
    sum
}
