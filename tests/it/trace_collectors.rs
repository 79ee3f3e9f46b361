//! What spans say of how requests ended, and which of them a collector gets: none that were recorded for
//! another one, and with nothing of the environment.

use std::fs;
use std::process::Command;

use crate::harness::collector::Collector;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Backend, Latch, PROGRAM, Process, Proxy, Reply, Setup, eventually};

fn spans(proxy: &Proxy) -> [f64; 3] {
    let scrape = proxy.scrape();
    ["exported", "failed", "dropped"].map(|result| {
        let labels = [("result", result)];
        scrape.sum("cutover_spans_total", &labels)
    })
}

#[test]
fn what_a_drain_cuts_off_is_an_error_and_a_backend_s_own_499_is_none() {
    let hangs = Backend::start(|request| {
        if request.target == "/499" {
            return Reply::status(499, "");
        }
        Reply::nothing().then_hang()
    });
    let mut collector = Collector::start();
    let setup = Setup::new(hangs.address, hangs.address).drain("timeout = \"300ms\"");
    let proxy = setup.tail(&collector.tail(1.0)).start();
    assert_eq!(proxy.client().get("/499").status, 499);
    let all = collector.spans(2);
    let server = all.iter().find(|span| span.is_server).unwrap();
    assert_eq!((server.get("http.response.status_code"), server.is_error), ("499", false));
    let mut client = proxy.client();
    client.ask("/", "");
    eventually!(hangs.hits() == 2);
    assert_eq!(proxy.drain().cut.legacy, 1);
    for span in &collector.spans(4)[2..] {
        assert_eq!((span.get("error.type"), span.is_error), ("cut", true), "{span:?}");
        assert_eq!(span.get("http.response.status_code"), "", "{span:?}");
    }
}

#[test]
fn no_collector_gets_what_was_recorded_for_another_one() {
    let latch = Latch::default();
    let held = latch.clone();
    let backend = Backend::start(move |request| match request.target.as_str() {
        "/held" => Reply::ok("ok").held_by(&held),
        _ => Reply::ok("ok"),
    });
    let setup = Setup::new(backend.address, backend.address);
    let (first, mut second) = (Collector::start(), Collector::start());
    let proxy = setup.clone().tail(&first.tail(1.0)).start();
    let mut client = proxy.client();
    client.ask("/held", "");
    eventually!(backend.hits() == 1);
    proxy.apply(&setup);
    latch.open();
    assert_eq!(client.response().status, 200);
    proxy.apply(&setup.clone().tail(&second.tail(1.0)));
    client.get("/");
    assert!(second.spans(2).iter().all(|span| span.get("url.path") != "/held"));
    eventually!(spans(&proxy) == [2.0, 0.0, 2.0], "{:?}", spans(&proxy));
}

#[test]
fn what_a_collector_rejects_of_a_batch_was_not_exported() {
    let backend = Scripted::start();
    let mut collector = Collector::start();
    // `partial_success` (1) with `rejected_spans` (1) of one.
    let partial = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x0a\x02\x08\x01";
    collector.backend.will_answer(partial, false);
    let setup = Setup::new(backend.address, backend.address);
    let proxy = setup.tail(&collector.tail(1.0)).start();
    proxy.client().get("/");
    collector.spans(2);
    eventually!(spans(&proxy) == [1.0, 1.0, 0.0], "{:?}", spans(&proxy));
}

#[test]
fn a_collector_gets_nothing_of_the_environment() {
    let backend = Scripted::start();
    let mut collector = Collector::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let setup = Setup::new(backend.address, backend.address).tail(&collector.tail(1.0));
    fs::write(&file, setup.text()).unwrap();
    let mut command = Command::new(PROGRAM);
    let headers = "authorization=Bearer%20secret,x-tenant=b";
    command.env("OTEL_EXPORTER_OTLP_HEADERS", headers);
    command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    command.env("OTEL_RESOURCE_ATTRIBUTES", "service.name=b");
    command.args(["run", "--config"]).arg(&file);
    let proxy = Process::start_by(command, dir, file);
    proxy.client().get("/");
    assert!(collector.spans(2).iter().all(|span| span.service == "cutover"));
    let got = &collector.got[0];
    let fields = ["authorization", "x-tenant", "content-encoding"].map(|name| got.field(name));
    assert_eq!(fields, [None; 3]);
    let agent = concat!("cutover/", env!("CARGO_PKG_VERSION"));
    assert_eq!(got.field("user-agent"), Some(agent));
}
