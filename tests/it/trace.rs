//! Traces: what goes on of a caller's, in both versions of HTTP and on both paths, and the spans that a
//! collector gets, whatever it is like.

use std::fs;
use std::time::{Duration, Instant};

use http::Request;

use crate::harness::collector::{Collector, Seen, tail};
use crate::harness::h2_client::{Http2, Payload};
use crate::harness::raw::{Listener, Raw};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, H2Backend, Latch, Proxy, Reply, Setup, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

fn spans(proxy: &Proxy, result: &str) -> f64 {
    proxy.scrape().sum("cutover_spans_total", &[("result", result)])
}

/// The span of a request, and those of its attempts in their order.
fn split(spans: &[Seen]) -> (Seen, Vec<Seen>) {
    let (servers, mut clients): (Vec<_>, Vec<_>) =
        spans.iter().cloned().partition(|span| span.is_server);
    assert_eq!(servers.len(), 1, "{spans:#?}");
    clients.sort_by_key(|span| span.times);
    for client in &clients {
        assert_eq!((&client.trace_id, &client.parent), (&servers[0].trace_id, &servers[0].id));
        let (inner, outer) = (client.times, servers[0].times);
        assert!(outer.0 <= inner.0 && inner.0 <= inner.1 && inner.1 <= outer.1, "{spans:#?}");
    }
    (servers[0].clone(), clients)
}

// === What goes on ===

/// Fields of a client; whether its trace goes on; the `tracestate` that a backend gets.
type Row = (Vec<(&'static str, String)>, bool, Option<&'static str>);

fn rows() -> Vec<Row> {
    let state = ("tracestate", "a=1,b=2".to_owned());
    let sound = ("traceparent", parent("01"));
    let unsound = ("traceparent", format!("00-{TRACE}-0000000000000000-01"));
    vec![
        (vec![], false, None),
        (vec![sound.clone()], true, None),
        (vec![("traceparent", parent("00"))], true, None),
        (vec![sound.clone(), state.clone()], true, Some("a=1,b=2")),
        (vec![state.clone()], false, None),
        (vec![unsound, state.clone()], false, None),
        // Nobody knows which one the caller meant.
        (vec![sound.clone(), sound, state], false, None),
    ]
}

/// What a backend gets of a trace: one `traceparent`, which is the caller's or sound and new.
fn check(sent: &[(&str, String)], parents: &[&str], goes_on: bool) {
    assert_eq!(parents.len(), 1, "{sent:?}: {parents:?}");
    if goes_on {
        assert_eq!(parents[0], sent[0].1);
    } else {
        let (begin, end) = (&parents[0][..3], &parents[0][52..]);
        assert_eq!((parents[0].len(), begin, end), (55, "00-", "-00"), "{parents:?}");
        assert!(!parents[0].contains(TRACE), "{sent:?}: {parents:?}");
    }
}

#[test]
fn a_caller_s_trace_goes_on_if_it_is_sound_and_else_another_begins() {
    for weight in [0.0, 1.0] {
        let backend = Scripted::start();
        let proxy = Setup::new(backend.address, backend.address).weight(weight).start();
        let mut client = Raw::connect(proxy.address);
        for (fields, goes_on, state) in rows() {
            let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            let lines: String = lines.collect();
            client.ask(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: id\r\n{lines}\r\n"));
            let got = backend.one();
            assert_eq!(got.field("x-request-id"), Some("id"));
            check(&fields, &got.all("traceparent"), goes_on);
            assert_eq!(got.all("tracestate"), state.iter().copied().collect::<Vec<_>>());
        }
    }
}

#[test]
fn so_it_is_over_http_2_from_end_to_end() {
    for weight in [0.0, 1.0] {
        let backend = H2Backend::ok("ok");
        let setup = Setup::new(backend.address, backend.address).weight(weight);
        let setup = setup.legacy("protocol = \"http2\"").async_("protocol = \"http2\"");
        let proxy = setup.start();
        let mut client = Http2::connect(proxy.address);
        for (fields, goes_on, state) in rows() {
            let uri = format!("http://{}/", proxy.address);
            let mut request = Request::get(uri).header("x-request-id", "id");
            for (name, value) in &fields {
                request = request.header(*name, value);
            }
            client.exchange(request.body(()).unwrap(), Payload::default()).unwrap();
            let got = backend.last().asked;
            assert_eq!(got.field("x-request-id"), Some("id"));
            let all = |name: &str| {
                let fields = got.fields.iter().filter(|(known, _)| known == name);
                fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
            };
            check(&fields, &all("traceparent"), goes_on);
            assert_eq!(all("tracestate"), state.iter().copied().collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_access_log_names_the_trace_that_backends_see() {
    let backend = Scripted::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let lines = format!("[access_log]\npath = {log:?}");
    let proxy = Setup::new(backend.address, backend.address).workers(1).tail(&lines).start();
    let mut client = proxy.client();
    client.get_with("/kept", &format!("traceparent: {}\r\n", parent("01")));
    let _ = backend.one();
    client.get("/made");
    let made = backend.one().field("traceparent").unwrap()[3..35].to_owned();
    Raw::connect(proxy.address).ask("GET /refused HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    drop(client);
    proxy.drain();
    let text = fs::read_to_string(&log).unwrap();
    let trace_of = |target: &str| {
        let mut lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let line = lines.find_map(|line| line.ok().filter(|line| line["target"] == target));
        line.unwrap()["trace_id"].clone()
    };
    assert_eq!(trace_of("/kept"), TRACE);
    assert_eq!(trace_of("/made"), made);
    assert_eq!(trace_of("/refused"), serde_json::Value::Null);
}

// === What is recorded ===

#[test]
fn a_recorded_request_is_a_span_and_each_attempt_is_one_below_it() {
    let (dead, sound) = (Backend::start(|_| Reply::nothing().then_close()), Scripted::start());
    let mut collector = Collector::start();
    let route = "[[route]]\nname = \"orders\"\nmatch = \"GET /orders/{id}\"\n";
    let entries = format!("\"http://{}\", \"http://{}\"", dead.address, sound.address);
    let proxy = Setup::new(sound.address, Backend::refused())
        .legacy_endpoints(&entries)
        .legacy("balance = \"round_robin\"\neject = { consecutive_failures = 0 }")
        .workers(1)
        .tail(&format!("{}service_name = \"edge\"\n{route}", collector.tail(1.0)))
        .start();
    let mut client = proxy.client();
    let mut rounds = 0;
    // The first turn is that of either.
    while dead.hits() == 0 {
        assert!(rounds < 2, "no request came to the dead endpoint");
        client.get_with("/orders/7?token=secret", "User-Agent: secret\r\n");
        rounds += 1;
    }
    let got = sound.take_got().pop().unwrap();
    let all = collector.spans(2 * rounds + 1);
    let trace_id = got.field("traceparent").unwrap()[3..35].to_owned();
    let of_it: Vec<_> = all.into_iter().filter(|span| span.trace_id == trace_id).collect();
    assert!(!format!("{of_it:?}").contains("secret"), "{of_it:#?}");
    let (server, clients) = split(&of_it);
    assert_eq!((server.name.as_str(), server.service.as_str()), ("GET orders", "edge"));
    assert_eq!((server.parent.as_str(), server.is_error), ("", false));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "orders"),
        ("http.response.status_code", "200"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("cutover.path", "legacy"),
        ("cutover.reason", "spread"),
        ("error.type", ""),
    ] {
        assert_eq!(server.get(name), value, "{name}");
    }
    assert_eq!(clients.len(), 2, "{clients:#?}");
    let [failed, answered] = [&clients[0], &clients[1]];
    assert_eq!(got.field("traceparent").unwrap(), answered.traceparent());
    assert!(failed.is_error && !answered.is_error);
    assert_eq!((failed.get("error.type"), failed.get("http.response.status_code")), ("reset", ""));
    assert_eq!(failed.get("server.port"), dead.address.port().to_string());
    assert_eq!((answered.get("error.type"), answered.get("http.request.resend_count")), ("", "1"));
    assert_eq!(answered.get("server.port"), sound.address.port().to_string());
    assert_eq!(answered.get("url.full"), format!("http://{}/orders/7", sound.address));
    eventually!(spans(&proxy, "exported") == (2 * rounds + 1) as f64);
}

#[test]
fn a_sampled_caller_is_followed_and_one_that_does_not_record_is_left_alone() {
    for weight in [0.0, 1.0] {
        let backend = Scripted::start();
        let mut collector = Collector::start();
        let setup = Setup::new(backend.address, backend.address).weight(weight);
        let proxy = setup.tail(&collector.tail(0.0)).start();
        let mut client = proxy.client();
        let state = "tracestate: a=1\r\n";
        client.get("/");
        assert!(backend.one().field("traceparent").unwrap().ends_with("-00"));
        client.get_with("/", &format!("traceparent: {}\r\n{state}", parent("00")));
        let got = backend.one();
        assert_eq!(got.field("traceparent"), Some(&*parent("00")));
        client.get_with("/", &format!("traceparent: {}\r\n{state}", parent("01")));
        let got = backend.one();
        assert_eq!(got.field("tracestate"), Some("a=1"));
        let (server, clients) = split(&collector.spans(2));
        assert_eq!((server.trace_id.as_str(), server.parent.as_str()), (TRACE, CALLER));
        assert_eq!(got.field("traceparent"), Some(&*clients[0].traceparent()));
        let path = if weight == 0.0 { "legacy" } else { "async" };
        assert_eq!((server.get("cutover.path"), clients[0].get("cutover.path")), (path, path));
    }
}

#[test]
fn a_failover_has_an_attempt_on_each_path_and_a_refusal_none() {
    let sound = Scripted::start();
    let mut collector = Collector::start();
    let on = format!("[failover]\nenabled = true\n{}", collector.tail(1.0));
    let proxy = Setup::new(Backend::refused(), sound.address).tail(&on).start();
    assert_eq!(proxy.client().get("/").status, 200);
    let (server, clients) = split(&collector.spans(3));
    assert_eq!((server.get("cutover.path"), server.get("cutover.reason")), ("async", "failover"));
    assert_eq!(server.get("cutover.failed_over"), "connect");
    let of = |span: &Seen| (span.get("cutover.path").to_owned(), span.get("error.type").to_owned());
    let expected =
        [("legacy", "connect"), ("async", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(clients.iter().map(of).collect::<Vec<_>>(), expected);
    Raw::connect(proxy.address).ask("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    let refused = collector.spans(4).pop().unwrap();
    assert_eq!((refused.get("http.response.status_code"), refused.is_error), ("400", false));
    assert_eq!((refused.get("error.type"), refused.get("cutover.path")), ("bad_request", ""));
}

#[test]
fn a_reload_changes_the_collector_and_the_ratio() {
    let backend = Scripted::start();
    let [mut first, mut second] = [Collector::start(), Collector::start()];
    let setup = Setup::new(backend.address, backend.address);
    let proxy = setup.clone().start();
    let mut client = proxy.client();
    client.get("/");
    proxy.apply(&setup.clone().tail(&first.tail(1.0)));
    client.get("/");
    assert_eq!(first.spans(2).len(), 2);
    proxy.apply(&setup.clone().tail(&second.tail(1.0)));
    client.get("/");
    assert_eq!(second.spans(2).len(), 2);
    proxy.apply(&setup.clone().tail(&second.tail(0.0)));
    client.get("/");
    proxy.apply(&setup);
    client.get_with("/", &format!("traceparent: {}\r\n", parent("01")));
    drop(client);
    proxy.drain();
    assert_eq!((first.spans(2).len(), second.spans(2).len()), (2, 2));
}

#[test]
fn what_is_in_the_headers_file_goes_to_the_collector_and_to_nobody_else() {
    let backend = Scripted::start();
    let mut collector = Collector::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    fs::write(&file, "Authorization: Bearer secret-1\n").unwrap();
    let url = collector.backend.address.to_string();
    let lines = format!("{}headers_file = {file:?}\n", collector.tail(1.0));
    let lines = lines.replace(&url, &format!("{url}/secret-0"));
    let proxy = Setup::new(backend.address, backend.address).tail(&lines).spawn();
    proxy.client().get("/");
    collector.spans(2);
    // It is read again with each batch, without a reload.
    fs::write(&file, "Authorization: Bearer secret-2\n").unwrap();
    proxy.client().get("/");
    collector.spans(4);
    let sent: Vec<_> = collector.got.iter().filter_map(|got| got.field("authorization")).collect();
    assert_eq!(sent, ["Bearer secret-1", "Bearer secret-2"]);
    assert_eq!(collector.got[0].line, "POST /secret-0/v1/traces HTTP/1.1");
    fs::write(&file, "secret-3\n").unwrap();
    proxy.client().get("/");
    eventually!(!proxy.logged("spans can't be exported").is_empty());
    assert!(!proxy.said().contains("secret"), "{}", proxy.said());
    let told = ["/metrics", "/api/v1/status", "/api/v1/config"].map(|page| proxy.admin_get(page));
    assert!(told.iter().all(|page| !page.text().contains("secret")));
}

// === Collectors that fail ===

#[test]
fn a_collector_that_is_gone_costs_spans_and_nothing_else() {
    let backend = Scripted::start();
    let lines = tail(Backend::refused(), 1.0);
    let proxy = Setup::new(backend.address, backend.address).tail(&lines).start();
    let mut client = proxy.client();
    (0..5).for_each(|_| assert_eq!(client.get("/").status, 200));
    eventually!(spans(&proxy, "failed") == 10.0);
    assert_eq!((spans(&proxy, "exported"), spans(&proxy, "dropped")), (0.0, 0.0));
}

#[test]
fn a_collector_that_refuses_is_told_of_once_and_that_it_goes_on_again_too() {
    let backend = Scripted::start();
    let mut collector = Collector::start();
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    (0..2).for_each(|_| collector.backend.will_answer(refusal, false));
    let setup = Setup::new(backend.address, backend.address);
    let proxy = setup.tail(&collector.tail(1.0)).spawn();
    let failed = || proxy.scrape().sum("cutover_spans_total", &[("result", "failed")]);
    for round in [1, 2] {
        assert_eq!(proxy.client().get("/").status, 200);
        eventually!(failed() == 2.0 * f64::from(round));
    }
    assert_eq!(proxy.client().get("/").status, 200);
    collector.spans(6);
    eventually!(!proxy.logged("spans are exported again").is_empty());
    assert_eq!(proxy.logged("spans can't be exported").len(), 1, "{}", proxy.said());
}

#[test]
fn a_collector_that_hangs_holds_up_neither_requests_nor_a_drain() {
    let backend = Scripted::start();
    let hung = Listener::bind();
    let lines = tail(hung.address, 1.0);
    let mut proxy = Setup::new(backend.address, backend.address).tail(&lines).spawn();
    assert_eq!(proxy.client().get("/").status, 200);
    let _silent = hung.accept();
    let mut client = proxy.client();
    // More than wait in the queue: the exporter is with the first batch for five seconds.
    let began = Instant::now();
    let requests = 5_000;
    for _ in 0..requests {
        assert_eq!(client.get("/").status, 200);
    }
    let took = began.elapsed();
    let scrape = proxy.scrape();
    let number = |result| scrape.sum("cutover_spans_total", &[("result", result)]);
    let waiting = 2.0 * f64::from(requests) - number("dropped") - number("failed");
    assert!(waiting <= 2.0 * 4_096.0 + 512.0, "{waiting} wait after {took:?}");
    drop(client);
    let began = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), Some(0));
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(proxy.logged("the last spans are lost: the collector is slow").len(), 1);
}

#[test]
fn the_last_spans_are_sent_before_the_end() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |_| Reply::ok("ok").held_by(&held));
    let mut collector = Collector::start();
    let setup = Setup::new(backend.address, backend.address);
    let mut proxy = setup.tail(&collector.tail(1.0)).spawn();
    let mut client = proxy.client();
    client.ask("/", "");
    eventually!(backend.hits() == 1);
    proxy.signal("TERM");
    let is_draining = |line: &serde_json::Value| line["fields"]["phase"] == "draining";
    eventually!(proxy.logged("phase changed").iter().any(is_draining), "{}", proxy.said());
    // Its end is that of the drain.
    latch.open();
    assert_eq!(client.response().status, 200);
    drop(client);
    assert_eq!(proxy.wait(), Some(0));
    assert_eq!(collector.spans(2).len(), 2);
}
