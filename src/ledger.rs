//! What must survive a restart and is not the operator's wish: the change log, and the helm.
//!
//! The helm's file holds the change that made it. A process that is killed between the two writes
//! leaves a log which lacks its last line; the next start adds it, so the log always explains the
//! state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::durable;
use crate::guard::helm::{Helm, Latch};
use crate::record::{Change, ChangeLog};

/// The helm's file in `state_dir`.
pub const HELM: &str = "helm.json";
/// The largest such file, in bytes.
const HELM_MAX: u64 = 1 << 20;

/// The state directory.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    changes: Mutex<ChangeLog>,
    is_handed_on: AtomicBool,
}

impl Ledger {
    /// Opens the state directory, which is made if it is absent, and reads the helm.
    ///
    /// # Errors
    /// When it can't be read or written: a rollback must not be forgotten because of that.
    pub fn open(dir: &Path) -> io::Result<(Self, Helm)> {
        let mut changes = ChangeLog::open(dir)?;
        let helm = match durable::read(&dir.join(HELM), HELM_MAX)? {
            None => Helm::default(),
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| io::Error::other(format!("{HELM} is broken: {error}")))?,
        };
        let log = ChangeLog::tail(dir);
        let mut helm = helm;
        trust(&log, &mut helm);
        let known = log.iter().filter_map(|change| change.seq).max();
        if let Some(change) = helm.change.as_ref().filter(|_| known < Some(helm.seq)) {
            changes.append(change);
        }
        let (changes, is_handed_on) = (Mutex::new(changes), AtomicBool::new(false));
        Ok((Self { dir: dir.to_owned(), changes, is_handed_on }, helm))
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory is another process's from now on: nothing is written any more.
    pub fn hand_on(&self) {
        self.is_handed_on.store(true, Ordering::Release);
    }

    /// Writes the helm, and waits until it is on disk; false if it could not be.
    #[must_use]
    pub fn keep(&self, helm: &Helm) -> bool {
        if self.is_handed_on.load(Ordering::Acquire) {
            return false;
        }
        let written = serde_json::to_vec_pretty(helm)
            .map_err(io::Error::from)
            .and_then(|content| durable::replace(&self.dir, HELM, &content));
        written.inspect_err(|error| tracing::error!(%error, "can't write {HELM}")).is_ok()
    }

    /// Appends to the change log.
    pub fn note(&self, change: &Change) {
        if self.is_handed_on.load(Ordering::Acquire) {
            return;
        }
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).append(change);
    }
}

/// A helm that could not be written lacks what the log tells. A rollback that was told is never lost.
fn trust(log: &[Change], helm: &mut Helm) {
    let mut newer = log.iter().filter(|change| change.seq > Some(helm.seq));
    let Some(last) = newer.rfind(|c| matches!(&*c.what, "rollback" | "resume")) else {
        return;
    };
    helm.seq = log.iter().filter_map(|change| change.seq).max().unwrap_or(helm.seq);
    helm.change = None;
    helm.latch = (last.what == "rollback").then(|| Latch {
        id: last.numbers["id"].as_str().unwrap_or("unknown").to_owned(),
        check: last.numbers["finding"]["check"].as_str().unwrap_or("operator").to_owned(),
        at: last.time.clone(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helm(seq: u64) -> Helm {
        let change = Change { what: "rollback".to_owned(), seq: Some(seq), ..Change::default() };
        Helm { seq, position: Some(0.1), change: Some(change), ..Helm::default() }
    }

    fn logged(dir: &Path) -> Vec<Option<u64>> {
        ChangeLog::tail(dir).iter().map(|change| change.seq).collect()
    }

    #[test]
    fn a_log_that_lacks_the_last_change_gets_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, first) = Ledger::open(dir.path()).unwrap();
        assert_eq!(first, Helm::default());
        ledger.note(&helm(1).change.unwrap());
        // Killed before the line of the second change was written.
        assert!(ledger.keep(&helm(2)));
        for _ in 0..2 {
            let (_, kept) = Ledger::open(dir.path()).unwrap();
            assert_eq!(kept, helm(2));
            assert_eq!(logged(dir.path()), [Some(1), Some(2)]);
        }
    }

    #[test]
    fn a_rollback_that_only_the_log_knows_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(dir.path()).unwrap();
        assert!(ledger.keep(&helm(1)));
        let numbers = serde_json::json!({ "id": "rb-2" });
        let rollback = Change { numbers, ..helm(2).change.unwrap() };
        ledger.note(&helm(1).change.unwrap());
        ledger.note(&rollback);
        let (_, kept) = Ledger::open(dir.path()).unwrap();
        assert_eq!((kept.seq, kept.latch.map(|latch| latch.id)), (2, Some("rb-2".to_owned())));
    }

    #[test]
    fn what_is_handed_on_is_not_written_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = Ledger::open(dir.path()).unwrap();
        assert!(ledger.keep(&helm(1)));
        ledger.note(&helm(1).change.unwrap());
        ledger.hand_on();
        assert!(!ledger.keep(&helm(2)));
        ledger.note(&helm(2).change.unwrap());
        assert_eq!(logged(dir.path()), [Some(1)]);
        assert_eq!(Ledger::open(dir.path()).unwrap().1, helm(1));
    }

    #[test]
    fn a_broken_helm_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(HELM), "{\"seq\":").unwrap();
        assert!(Ledger::open(dir.path()).unwrap_err().to_string().contains("is broken"));
    }
}
