//! The rows whose body breaks off or is broken: a fault of the client, and never a whole message at a
//! backend.

use crate::harness::Setup;
use crate::harness::raw::{Ended, Raw, wire};
use crate::harness::raw_backend::Scripted;
use crate::wire_refused::{faults_of_refusal, start};

/// Chunked bodies.
const BROKEN: &[(&str, &str)] = &[
    ("9112 7.1", "0x5|hello|0||"),
    ("9112 7.1", "+5|hello|0||"),
    ("9112 7.1", "-5|hello|0||"),
    ("9112 7.1", "0_5|hello|0||"),
    ("9112 7.1", " 5|hello|0||"),
    ("9112 7.1", "|hello|0||"),
    ("9112 7.1", "G|hello|0||"),
    ("9112 7.1", "10000000000000000|hello|0||"),
    ("9112 7.1", "FFFFFFFFFFFFFFFFF|hello|0||"),
    ("9112 7.1", "5h|hello|0||"),
    ("9112 7.1", "\t5|hello|0||"),
    ("9112 7.1", "5 5|hello|0||"),
    ("9112 7.1", "5,5|hello|0||"),
    ("9112 7.1", "\u{b2}|hello|0||"),
    ("9112 7.1", "5\0|hello|0||"),
    ("9112 7.1", ";a|hello|0||"),
    ("9112 7.1", "5\nhello|0||"),
    ("9112 7.1", "5\rhello|0||"),
    ("9112 7.1", "5;a\nb|hello|0||"),
    ("9112 7.1", "5;a\rb|hello|0||"),
    ("9112 7.1", "5|hello\n0||"),
    ("9112 7.1", "5\r\r\nhello|0||"),
    ("9112 7.1", "5|hello|0\n\n"),
    ("9112 7.1.1", "5;a=\"\r\n\"|hello|0||"),
    ("9112 7.1.1", "5;a\r\rb|hello|0||"),
    ("9112 7.1.2", "5|hello|0|X||"),
    ("9112 7.1.2", "5|hello|0|X : y||"),
    ("9112 7.1.2", "5|hello|0|X: a\0b||"),
    ("9112 7.1.2", "5|hello|0|X: a\rb||"),
    ("9112 7.1.2", "5|hello|0|X: a| folded||"),
    ("9112 7.1.2", "5|hello|0|: y||"),
    ("CVE-2025-43859", "5|helloX0||"),
    ("CVE-2025-43859", "5|hello!|0||"),
    ("CVE-2025-43859", "5|hello0||"),
    ("CVE-2025-43859", "4|hello|0||"),
    ("CVE-2025-43859", "5|hell|0||"),
    ("CVE-2025-43859", "5|hello\r0||"),
    ("CVE-2025-43859", "5|helloXX0||"),
    ("9112 8", ""),
    ("9112 8", "5"),
    ("9112 8", "5|hel"),
    ("9112 8", "5|hello|"),
    ("9112 8", "5|hello|0|"),
    ("9112 8", "5|hello|0|X: y|"),
    ("9112 8", "5|hello|0|X: y"),
    ("9112 8", "5;a"),
    ("9112 8", "FFFFFFFFFFFFFFFF|hello"),
];

fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let head = "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked||";
    let chunked = |body: &str| wire(&format!("{head}{body}"));
    let rows = BROKEN.iter().map(|(row, body)| (*row, chunked(body)));
    let more = [
        ("9112 8", wire("POST /x HTTP/1.1|Host: a|Content-Length: 10||hello")),
        ("9112 8", wire("POST /x HTTP/1.1|Host: a|Content-Length: 10||")),
        ("9112 8", wire("GET /x HTTP/1.1|Host: a|Content-Length: 10||hello")),
        ("9112 8", wire("POST /x HTTP/1.1|Host: a|Content-Length: 18446744073709551613||hello")),
        ("9112 7.1.2", chunked(&format!("5|hello|0|{}|", "X: y|".repeat(200)))),
        ("9112 7.1.2", chunked(&format!("5|hello|0|X: {}||", "y".repeat(70_000)))),
        ("9112 7.1.1", chunked(&format!("5;{}|hello|0||", "a".repeat(65_536)))),
    ];
    rows.chain(more).collect()
}

/// The section or threat of each row.
pub(crate) fn sections() -> Vec<&'static str> {
    broken().into_iter().map(|(section, _)| section).collect()
}

#[test]
fn a_broken_body_is_a_fault_of_its_client_and_never_complete_at_the_backend() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let mut faults = Vec::new();
    let rows = broken();
    for (row, send) in &rows {
        let mut client = Raw::connect(proxy.address);
        client.send(send);
        client.finish();
        let mut found = faults_of_refusal(400, &mut client);
        let next = Raw::connect(proxy.address).ask(wire("GET /next HTTP/1.1|Host: a||"));
        let got = backend.take_got();
        let mut whole = got.iter().filter(|got| got.complete);
        let first = whole.next().map(|got| got.line.as_str());
        if first != Some("GET /next HTTP/1.1") || whole.next().is_some() || next.status() != 200 {
            found.push(format!("became {got:?}, then {next:?}"));
        }
        faults.extend(found.iter().map(|what| format!("row {row} {:?} {what}", start(send))));
    }
    let labels = [("kind", "body_cut")];
    let blamed = proxy.scrape().sum("cutover_client_errors_total", &labels);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(blamed, rows.len() as f64);
    assert_eq!(proxy.scrape().sum("cutover_errors_total", &[]), 0.0);
}

#[test]
fn two_framings_behind_a_chunked_body_in_one_segment_are_no_way_in() {
    let backend = Scripted::start();
    let proxy = Setup::new(backend.address, backend.address).workers(1).start();
    let head = "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked|";
    let both = format!("{head}|0||{head}Content-Length: 4||0||GET /smuggled HTTP/1.1|Host: a||");
    let mut client = Raw::connect(proxy.address);
    client.send(wire(&both));
    assert_eq!(client.reply().status(), 200);
    // Refused, or read in the one safe way; closed in any case, so that nothing behind it counts.
    assert!([200, 400].contains(&client.reply().status()));
    assert_eq!(client.rest(), (Vec::new(), Ended::Closed));
    for got in backend.take_got() {
        assert_eq!((got.line.as_str(), got.field("content-length")), ("POST /x HTTP/1.1", None));
    }
}
