//! The append-only change log: one JSON line for each weight, config or drain transition.
//!
//! Kept in `state_dir`, synced after each line, so that what was in force at any time can be told
//! later. Written by the control plane only; a full disk is logged and never stops traffic.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

/// The log's file in `state_dir`.
pub const CHANGES: &str = "changes.jsonl";

/// Where changes are written.
#[derive(Debug)]
pub struct ChangeLog {
    file: File,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change<'a> {
    /// When, RFC 3339.
    pub time: String,
    /// What changed: `start`, `config`, `weight`, `phase`.
    pub what: &'a str,
    /// The route whose weight changed, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// Before.
    pub from: &'a str,
    /// After.
    pub to: &'a str,
    /// The hash of the config file in force.
    pub config: &'a str,
}

impl ChangeLog {
    /// Opens the log in `state_dir`, which is made if it is absent.
    ///
    /// # Errors
    /// When it can't be made or opened.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let file = OpenOptions::new().create(true).append(true).open(state_dir.join(CHANGES))?;
        Ok(Self { file })
    }

    /// Appends one change and waits until it is on disk.
    pub fn append(&mut self, change: &Change<'_>) {
        let written = serde_json::to_vec(change).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)?;
            self.file.sync_data()
        });
        if let Err(error) = written {
            tracing::error!(%error, "can't write the change log");
        }
    }
}

/// Now, as RFC 3339.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_appended_as_json_lines() {
        let dir = tempfile::tempdir().unwrap();
        let change = Change {
            time: now(),
            what: "weight",
            route: Some("orders"),
            from: "0",
            to: "0.1",
            config: "00",
        };
        for _ in 0..2 {
            ChangeLog::open(dir.path()).unwrap().append(&change);
        }
        let text = fs::read_to_string(dir.path().join(CHANGES)).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["route"], "orders");
    }
}
