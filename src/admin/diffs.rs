//! What the admin API says of the comparison of the paths' answers.

use serde_json::{Value, json};

use crate::admin::office::Office;
use crate::compare::view::{DiffLine, Diffs};

/// The regressions that the status names; `/api/v1/diffs` has them all.
const REGRESSIONS_SHOWN: usize = 5;

/// All that is known of the differences.
pub(super) fn diffs(office: &Office) -> Diffs {
    let snapshot = office.publisher.current();
    // What is pinned goes one way only: there is nothing to be verified.
    let split = snapshot.rules.targets().filter(|target| target.pin.is_none());
    let routes: Vec<&str> = split.map(|target| target.name.as_str()).collect();
    let share = snapshot.config.mirror.share;
    let switched_off = office.metrics.mirror.off();
    Diffs { share, switched_off, ..office.comparison.diffs(&routes) }
}

/// The mirror's part of the status; nothing where nothing is mirrored.
pub(super) fn status(office: &Office) -> Option<Value> {
    let diffs = Some(diffs(office)).filter(|diffs| !diffs.is_idle())?;
    let reasons: Vec<String> = diffs.gate.reasons.iter().map(ToString::to_string).collect();
    let regressions = diffs.differences.iter().filter(|line| line.is_regression());
    let name = |line: &DiffLine| format!("{}: {} {}", line.route, line.kind.name(), line.place);
    Some(json!({
        "share": diffs.share,
        "switched_off": diffs.switched_off,
        "gate": diffs.gate,
        "reasons": reasons,
        "regressions": regressions.take(REGRESSIONS_SHOWN).map(name).collect::<Vec<_>>(),
    }))
}
