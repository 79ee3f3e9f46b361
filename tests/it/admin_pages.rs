//! What is written for others to read: the page of metrics, and the access log.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::admin::get;
use crate::harness::collector::Collector;
use crate::harness::raw::Raw;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Proxy, Setup, eventually};

#[test]
fn metrics_are_a_page_that_a_scraper_can_read() {
    let backend = Scripted::start();
    let tail = "[[route]]\nname = \"a\"\nmatch = \"GET /a\"\n[[route]]\nname = \"q\\\"\\\\\"\nmatch = \"GET /q\"";
    let proxy = Setup::new(backend.address, backend.address).weight(0.5).tail(tail).start();
    for target in ["/a", "/a", "/b", "/b", "/q", "/q"] {
        Raw::connect(proxy.address).ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    Raw::connect(proxy.address).ask("GET / HTTP/1.1\r\n\r\n");
    let page = get(&proxy, "/metrics").text();
    let (mut helped, mut typed, mut series) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, text] => assert!(helped.insert(name) && !text.is_empty(), "{line}"),
            ["#", "TYPE", name, kind] => {
                assert!(typed.insert(name), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
            _ => {
                let (id, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
                assert!(series.insert(id), "twice: {line}");
                let name = id.split('{').next().unwrap();
                let stems = ["_bucket", "_sum", "_count"].map(|end| name.strip_suffix(end));
                let known = stems.iter().flatten().any(|stem| typed.contains(stem));
                assert!(known || typed.contains(name), "no TYPE before {line}");
            }
        }
    }
    assert_eq!(helped, typed);
    assert!(helped.len() > 25, "{helped:?}");
    for (path, route) in [("legacy", "a"), ("async", "default"), ("none", "none")] {
        let labels = [("path", path), ("route", route)];
        assert_eq!(proxy.scrape().sum("cutover_requests_total", &labels), 1.0, "{labels:?}");
    }
    assert!(page.contains(r#"route="q\"\\""#), "a name is not escaped");
}

#[test]
fn the_access_log_has_one_line_a_request_without_its_query_or_cookies() {
    let backend = Scripted::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let tail = format!("[access_log]\npath = {log:?}");
    let proxy = Setup::new(backend.address, backend.address).workers(1).tail(&tail).start();
    let fields = "Host: a\r\nCookie: secret-1\r\nAuthorization: secret-2\r\nX-Request-Id: id-1\r\n";
    let mut client = Raw::connect(proxy.address);
    client.ask(format!("POST /a%20b?secret-3 HTTP/1.1\r\n{fields}Content-Length: 3\r\n\r\nabc"));
    client.ask("GET /\u{1b}?secret-4 HTTP/1.1\r\nHost: a\r\n\r\n");
    Raw::connect(proxy.address).ask("GET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    proxy.drain();
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("secret"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let posted = lines.iter().find(|line| line["target"] == "/a%20b").unwrap();
    for (key, value) in [
        ("client", "127.0.0.1".into()),
        ("method", "POST".into()),
        ("path", "legacy".into()),
        ("route", "default".into()),
        ("reason", "spread".into()),
        ("code", 200.into()),
        ("error", Value::Null),
        ("request_bytes", 3.into()),
        ("response_bytes", 2.into()),
        ("request_id", "id-1".into()),
    ] {
        assert_eq!(posted[key], value, "{key} of {posted}");
    }
    assert!(posted["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert!(posted["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{posted}");
    let refused = lines.iter().find(|line| line["target"] == "/two").unwrap();
    assert_eq!((&refused["code"], &refused["path"]), (&400.into(), &Value::Null));
    assert_eq!(refused["error"], "bad_request");
    // What was no request at all has no line.
    assert_eq!(lines.len(), 2, "{text}");
    eventually!(!backend.take_got().is_empty(), "no request came");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The page of metrics as OpenMetrics.
fn openmetrics(proxy: &Proxy) -> String {
    let mut client = Raw::connect(proxy.admin);
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    let host = proxy.admin;
    let page =
        client.ask(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"));
    assert!(page.field("content-type").unwrap().starts_with("application/openmetrics-text; "));
    page.text()
}

#[test]
fn several_lines_of_accept_are_one_list() {
    let nowhere = Backend::refused();
    let proxy = Setup::new(nowhere, nowhere).workers(1).start();
    let lines = "Accept: application/openmetrics-text;q=0.5\r\nAccept: text/plain";
    let page = Raw::connect(proxy.admin)
        .ask(format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n{lines}\r\n\r\n", proxy.admin));
    assert!(page.field("content-type").unwrap().starts_with("text/plain; "));
}

#[test]
fn a_recorded_request_is_the_exemplar_of_its_bucket_and_another_is_none() {
    let backend = Scripted::start();
    let collector = Collector::start();
    let setup = Setup::new(backend.address, backend.address).weight(1.0);
    let proxy = setup.tail(&collector.tail(0.0)).start();
    let mut client = proxy.client();
    client.get("/");
    proxy.settle();
    let page = openmetrics(&proxy);
    assert!(page.ends_with("# EOF\n") && !page.contains("trace_id"), "{page}");
    client.get_with("/", &format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"));
    proxy.settle();
    let page = openmetrics(&proxy);
    let lines: Vec<_> = page.lines().filter(|line| line.contains("trace_id")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let begin = "cutover_request_duration_seconds_bucket{path=\"async\",route=\"default\",le=\"";
    let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
    assert!(lines[0].starts_with(begin) && lines[0].contains(&exemplar), "{lines:?}");
    // The plain format has none.
    assert!(!proxy.scrape().0.contains("trace_id"));
}
