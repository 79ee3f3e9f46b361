//! `cutover explain`: which path a key takes, and at what weight it moves.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::global::{Global, print};
use crate::config::Config;
use crate::route::split;
use crate::route::sticky::{Salt, bucket};
use crate::vocab::{DEFAULT_ROUTE, Side, Weight};

/// `cutover explain --key K`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The key, as the header, the cookie or the client address has it.
    #[arg(long)]
    key: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

struct Row {
    route: String,
    weight: Weight,
    side: Side,
    pinned: bool,
}

impl Explain {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = Config::load_outline(&global.config)?;
        anyhow::ensure!(
            config.split.key.is_some(),
            "{}: split.key is not set: requests are spread evenly, no key is sticky",
            global.config.display()
        );
        let bucket = bucket(&Salt::new(&config.split.salt), self.key.as_bytes());
        // The smallest weight whose threshold is above the bucket.
        let moves_at = (f64::from(bucket) + 1.0) / 4_294_967_296.0;
        let named =
            config.routes.iter().map(|route| (route.name.as_str(), route.weight, route.pin));
        let rows: Vec<Row> = named
            .chain([(DEFAULT_ROUTE, config.weight, None)])
            .map(|(route, weight, pin)| Row {
                route: route.to_owned(),
                weight,
                side: pin.unwrap_or_else(|| split::side(weight, bucket)),
                pinned: pin.is_some(),
            })
            .collect();
        let text = if self.json {
            document(&self.key, bucket, moves_at, &rows)
        } else {
            prose(&self.key, bucket, moves_at, &rows)
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn document(key: &str, bucket: u32, moves_at: f64, rows: &[Row]) -> String {
    let routes: Vec<_> = rows
        .iter()
        .map(|Row { route, weight, side, pinned }| {
            let weight = weight.share();
            json!({ "route": route, "weight": weight, "path": side.name(), "pinned": pinned })
        })
        .collect();
    let document =
        json!({ "key": key, "bucket": bucket, "moves_at_weight": moves_at, "routes": routes });
    format!("{document}\n")
}

fn prose(key: &str, bucket: u32, moves_at: f64, rows: &[Row]) -> String {
    let mut text = format!(
        "key {key:?} has bucket {bucket} of 4294967296; it moves to async at weight {moves_at:.6}\n"
    );
    for Row { route, weight, side, pinned } in rows {
        let why = if *pinned { "pinned".to_owned() } else { format!("weight {weight}") };
        text.push_str(&format!("{route:<20} {side:<7} ({why})\n"));
    }
    text
}
