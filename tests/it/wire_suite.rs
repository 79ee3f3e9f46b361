//! What the rows of the byte-level suite are counted by, and the sections that each needs a row.

use std::collections::BTreeSet;

use crate::{
    wire_broken, wire_http2, wire_http2_replies, wire_refused, wire_requests, wire_responses,
};

const ROWS_MIN: usize = 200;

/// Sections of RFC 9110, 9112, 9113, 6585 and 9218 that say what a gateway does with a message's
/// bytes, and names of threats that come with them.
const SECTIONS: &[&str] = &[
    "9110 2.5",
    "9110 4.2",
    "9110 5.1",
    "9110 5.3",
    "9110 5.4",
    "9110 5.5",
    "9110 6.5.1",
    "9110 6.6.1",
    "9110 6.6.2",
    "9110 7.6.1",
    "9110 7.6.2",
    "9110 7.6.3",
    "9110 7.7",
    "9110 7.8",
    "9110 8.6",
    "9110 9.1",
    "9110 9.3.2",
    "9110 9.3.6",
    "9110 10.1.1",
    "9110 10.1.4",
    "9110 15",
    "9110 15.2",
    "9110 15.2.1",
    "9110 15.3.5",
    "9110 15.3.6",
    "9110 15.4.5",
    "9110 15.6.3",
    "9112 2.2",
    "9112 2.3",
    "9112 3",
    "9112 3.1",
    "9112 3.2",
    "9112 3.2.1",
    "9112 3.2.2",
    "9112 3.2.3",
    "9112 3.2.4",
    "9112 4",
    "9112 5",
    "9112 5.1",
    "9112 5.2",
    "9112 6",
    "9112 6.1",
    "9112 6.2",
    "9112 6.3",
    "9112 7",
    "9112 7.1",
    "9112 7.1.1",
    "9112 7.1.2",
    "9112 8",
    "9112 9.2",
    "9112 9.3",
    "9112 11.1",
    "9112 11.2",
    "9113 8.1",
    "9113 8.1.1",
    "9113 8.2.1",
    "9113 8.2.2",
    "9113 8.2.3",
    "9113 8.3.1",
    "9113 8.3.2",
    "9113 8.5",
    "6585 5",
    "9218 4",
    "CVE-2016-5385",
    "CVE-2024-45410",
    "CVE-2025-43859",
    "CVE-2025-64763",
    "CVE-2026-26365",
    "CVE-2026-2833",
    "spoofed origin",
    "underscores",
];

/// The sections of the rows of each table.
fn tables() -> [(&'static str, Vec<&'static str>); 6] {
    [
        ("refused requests", wire_refused::sections()),
        ("broken bodies", wire_broken::sections()),
        ("forwarded requests", wire_requests::sections()),
        ("replies", wire_responses::sections()),
        ("requests of HTTP/2", wire_http2::sections()),
        ("replies to HTTP/2", wire_http2_replies::sections()),
    ]
}

#[test]
fn the_suite_has_at_least_200_rows() {
    let rows: usize = tables().iter().map(|(_, sections)| sections.len()).sum();
    for (table, sections) in tables() {
        println!("{table}: {}", sections.len());
    }
    assert!(rows >= ROWS_MIN, "{rows} rows");
}

#[test]
fn each_section_has_a_row_and_each_row_a_section() {
    let rows: BTreeSet<_> = tables().into_iter().flat_map(|(_, sections)| sections).collect();
    let without: Vec<_> = SECTIONS.iter().filter(|section| !rows.contains(**section)).collect();
    assert!(without.is_empty(), "no row for {without:?}");
    let unknown: Vec<_> = rows.iter().filter(|section| !SECTIONS.contains(section)).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}
