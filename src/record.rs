//! The append-only change log: one JSON line for each weight, config, ramp, rollback and drain
//! transition.
//!
//! Kept in `state_dir`, synced after each line, so that what was in force at any time can be told
//! later. Written by the control plane only; a full disk is logged and never stops traffic.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The log's file in `state_dir`.
pub const CHANGES: &str = "changes.jsonl";

/// How much of the end of the log is read at a start, in bytes.
const TAIL_MAX: u64 = 4 << 20;

/// Where changes are written.
#[derive(Debug)]
pub struct ChangeLog {
    file: File,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, RFC 3339.
    pub time: String,
    /// What changed: `start`, `config`, `weight`, `phase`, `ramp`, `rollback`, `resume`, `baseline`,
    /// `drain`, `mirror`.
    pub what: String,
    /// The route whose weight changed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
    /// The hash of the config file in force.
    pub config: String,
    /// Who made it: `guard`, `mirror`, `operator`, `file`; absent where it goes without saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The number of a change of ramp or rollback: each has the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The numbers of that moment.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub numbers: Value,
}

impl ChangeLog {
    /// Opens the log in `state_dir`, which is made if it is absent.
    ///
    /// # Errors
    /// When it can't be made or opened.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let name = state_dir.join(CHANGES);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(name)?;
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != [b'\n'] {
                // The process ended in the midst of a line: the next one must not be lost with it.
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file })
    }

    /// Appends one change and waits until it is on disk; false if it could not be.
    pub fn append(&mut self, change: &Change) -> bool {
        let written = serde_json::to_vec(change).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)?;
            self.file.sync_data()
        });
        written.inspect_err(|error| tracing::error!(%error, "can't write the change log")).is_ok()
    }

    /// The changes at the end of the log, oldest first. Lines that can't be read are left out.
    #[must_use]
    pub fn tail(state_dir: &Path) -> Vec<Change> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(state_dir.join(CHANGES))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
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

    fn change(to: &str) -> Change {
        Change {
            time: now(),
            what: "weight".to_owned(),
            route: Some("orders".to_owned()),
            to: to.to_owned(),
            ..Change::default()
        }
    }

    #[test]
    fn changes_are_appended_as_json_lines() {
        let dir = tempfile::tempdir().unwrap();
        for to in ["0.1", "0.2"] {
            assert!(ChangeLog::open(dir.path()).unwrap().append(&change(to)));
        }
        let text = fs::read_to_string(dir.path().join(CHANGES)).unwrap();
        assert_eq!(text.lines().count(), 2);
        let tail = ChangeLog::tail(dir.path());
        assert_eq!(tail.iter().map(|change| &*change.to).collect::<Vec<_>>(), ["0.1", "0.2"]);
        assert_eq!(tail[0].route.as_deref(), Some("orders"));
    }

    #[test]
    fn a_line_that_was_cut_off_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ChangeLog::open(dir.path()).unwrap().append(&change("0.1")));
        let name = dir.path().join(CHANGES);
        fs::write(&name, [fs::read(&name).unwrap(), b"{\"time\":\"20".to_vec()].concat()).unwrap();
        assert!(ChangeLog::open(dir.path()).unwrap().append(&change("0.2")));
        let tail = ChangeLog::tail(dir.path());
        assert_eq!(tail.iter().map(|change| &*change.to).collect::<Vec<_>>(), ["0.1", "0.2"]);
    }
}
