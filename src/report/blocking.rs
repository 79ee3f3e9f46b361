//! What the report says of the legacy backend's blocking calls, where it was audited.

use crate::audit::findings::{Audit, ProcessUse};
use crate::report::section::{Row, Section, row};
use crate::report::story::{bytes, count, when};

/// The section, from the audit that the baseline has.
pub(super) fn section(audit: &Audit) -> Section {
    let rows = audit.findings.iter().map(|finding| {
        let cells = row([
            finding.place(),
            finding.cause(),
            format!("{:.0} %", finding.share * 100.0),
            count(finding.threads),
        ]);
        Row { below: finding.meaning().to_owned(), ..cells }
    });
    let sum = |of: fn(&ProcessUse) -> u64| audit.processes.iter().map(of).sum::<u64>();
    let intro = format!(
        "Process {} and its workers were watched for {:.0} s until {}. They had {} threads, whose \
         stacks held {}, and {} in all.",
        audit.pid,
        audit.seconds,
        when(&audit.at),
        count(sum(|process| process.threads)),
        bytes(sum(|process| process.stack_bytes.unwrap_or(0))),
        bytes(sum(|process| process.rss_bytes)),
    );
    Section {
        title: "Blocking calls",
        intro,
        columns: &["call site", "primitive", "of busy samples", "threads"],
        numbers: 2..4,
        rows: rows.collect(),
        empty: "No thread was busy.",
    }
}
