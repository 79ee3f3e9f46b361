//! The dashboard: a page that can be read without a script, its headers, and events that are bounded.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::{admin, get};
use crate::harness::raw::{Ended, Raw};
use crate::harness::raw_backend::Scripted;
use crate::harness::{Proxy, Setup, eventually};

const EVENTS: &str = "/api/v1/events";
/// The constant of that name in `src/admin/dashboard/viewers.rs`.
const VIEWERS_MAX: usize = 16;

/// A viewer, whose response has begun.
struct Viewer(Raw);

impl Viewer {
    fn connect(proxy: &Proxy) -> (Self, u16) {
        let mut raw = Raw::connect(proxy.admin);
        raw.send(format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin));
        let head = raw.head();
        let status = head.status();
        if status == 200 {
            assert_eq!(head.field("content-type"), Some("text/event-stream"));
            assert_eq!(head.field("cache-control"), Some("no-store"));
        } else {
            assert_eq!((status, head.field("retry-after")), (503, Some("5")), "{head:?}");
        }
        (Self(raw), status)
    }

    fn admitted(proxy: &Proxy) -> Self {
        let (viewer, status) = Self::connect(proxy);
        assert_eq!(status, 200);
        viewer
    }

    /// The next frame. Each event is one chunk.
    fn frame(&mut self) -> Value {
        let mut event = Vec::new();
        while !event.ends_with(b"\n\n") {
            let piece = self.0.take(1);
            assert!(!piece.is_empty(), "the stream has ended");
            event.extend(piece);
            // The line with a chunk's length, and the end of the one before.
            if event.ends_with(b"\r\n") {
                event.clear();
            }
        }
        let text = String::from_utf8(event).unwrap();
        let data = text.strip_prefix("event: frame\ndata: ");
        serde_json::from_str(data.unwrap_or_else(|| panic!("no frame: {text}"))).unwrap()
    }
}

fn setup() -> (Scripted, Setup) {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, backend.address).workers(1);
    (backend, setup)
}

#[test]
fn the_page_has_the_figures_and_loads_nothing_from_elsewhere() {
    let (_backend, setup) = setup();
    let tail = "[[route]]\nname = \"orders\"\nmatch = \"GET /orders/{id}\"";
    let proxy = setup.weight(0.25).tail(tail).start();
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (target, kind, part) in [
        ("/", "text/html; charset=utf-8", "<h2 id=\"verdict-title\">Guard</h2>"),
        ("/dashboard.css", "text/css; charset=utf-8", "prefers-color-scheme: dark"),
        ("/dashboard.js", "text/javascript; charset=utf-8", "new EventSource(\"/api/v1/events\")"),
    ] {
        let reply = get(&proxy, target);
        assert_eq!(reply.status(), 200, "{target}");
        for (name, value) in [
            ("content-type", kind),
            ("content-security-policy", policy),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.field(name), Some(value), "{name} of {target}");
        }
        let text = reply.text();
        assert!(text.contains(part), "no {part} in {text}");
        for foreign in ["http:", "https:", "//cdn", "@import", "url(", "style=", "onclick", "eval("]
        {
            assert!(!text.contains(foreign), "{foreign} in {target}");
        }
        let wrong = admin(&proxy, &format!("POST {target} HTTP/1.1"), &[JSON]);
        assert_eq!((wrong.status(), wrong.field("allow")), (405, Some("GET, HEAD")), "{target}");
        let mut head = Raw::connect(proxy.admin);
        head.send(format!("HEAD {target} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin));
        let head = head.head_reply();
        assert_eq!((head.status(), head.field("content-type")), (200, Some(kind)), "{target}");
        let foreign = format!("GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        assert_eq!(Raw::connect(proxy.admin).ask(foreign).status(), 421, "{target}");
    }
    let page = get(&proxy, "/").text();
    for part in [
        "<th scope=\"row\">orders</th><td class=\"number\">25 %</td><td class=\"number\">25 %</td>",
        "<strong>serving</strong>",
        "http-equiv=\"refresh\"",
        "<p class=\"token\" hidden>",
        &proxy.app().publisher().current().config.hash[..12],
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    assert!(!page.contains("{{") && !page.contains("}}"), "{page}");
}

const JSON: &str = "Content-Type: application/json";

#[test]
fn names_from_the_config_are_text_and_the_token_is_asked_for_where_there_is_one() {
    let (_backend, setup) = setup();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let tail = "[[route]]\nname = \"<script>alert(1)</script>\"\nmatch = \"GET /x\"";
    let proxy = setup.tail(tail).admin(&format!("token_file = {token:?}")).start();
    let page = get(&proxy, "/").text();
    assert!(
        page.contains("<th scope=\"row\">&lt;script&gt;alert(1)&lt;/script&gt;</th>"),
        "{page}"
    );
    assert!(!page.contains("<script>"), "{page}");
    assert!(page.contains("<p class=\"token\"><label for=\"token\">"), "{page}");
    assert!(!page.contains("0123456789abcdef"));
    let frame = Viewer::admitted(&proxy).frame();
    let weights = frame["panels"]["weights"].as_str().unwrap();
    assert!(weights.contains("&lt;script&gt;") && !weights.contains("<script"), "{weights}");
}

#[test]
fn events_come_at_most_once_a_second_and_show_what_has_changed() {
    let (_backend, setup) = setup();
    let proxy = setup.start();
    let mut viewers = [Viewer::admitted(&proxy), Viewer::admitted(&proxy)];
    // A beat may have come between the two.
    let [_, frame] = viewers.each_mut().map(Viewer::frame);
    assert_eq!(frame["orders"]["pause"]["why_not"], "There is no ramp in the config.");
    assert_eq!(frame["orders"]["rollback"]["path"], "/api/v1/rollback");
    let page = get(&proxy, "/").text();
    let weights = frame["panels"]["weights"].as_str().unwrap();
    assert!(page.contains(weights), "the page says otherwise than the events: {weights}");
    for weight in [0.5, 0.75] {
        proxy.apply(&setup.clone().weight(weight));
        let shown = format!("<td class=\"number\">{} %</td>", weight * 100.0);
        let [first, second] = viewers.each_mut().map(|viewer| {
            loop {
                let frame = viewer.frame();
                if frame["panels"]["weights"].as_str().unwrap().contains(&shown) {
                    break frame;
                }
            }
        });
        assert_eq!(first, second, "each viewer has a frame of its own");
    }
    // Something changes all the time, and yet.
    let mut client = proxy.client();
    let (began, mut came) = (Instant::now(), 0);
    while came < 3 {
        (0..5).for_each(|_| drop(client.get("/")));
        viewers[0].frame();
        came += 1;
    }
    assert!(began.elapsed() > Duration::from_millis(1_900), "{:?}", began.elapsed());
}

#[test]
fn too_many_viewers_are_refused_until_one_goes() {
    let (_backend, setup) = setup();
    let proxy = setup.start();
    let mut viewers: Vec<_> = (0..VIEWERS_MAX).map(|_| Viewer::admitted(&proxy)).collect();
    assert_eq!(Viewer::connect(&proxy).1, 503);
    // Nobody is kept out of anything else.
    assert_eq!(get(&proxy, "/api/v1/status").status(), 200);
    assert_eq!(get(&proxy, "/").status(), 200);
    viewers.pop();
    eventually!(Viewer::connect(&proxy).1 == 200, "the place of one that has gone is not free");
    // Who asks for the head only takes no place, not even while it stays connected: there is one left.
    let mut asking: Vec<_> = (0..3).map(|_| Raw::connect(proxy.admin)).collect();
    for raw in &mut asking {
        let mut head = || {
            raw.send(format!("HEAD {EVENTS} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin));
            raw.head_reply().status()
        };
        eventually!(head() == 200, "the place of a head is not free");
    }
    eventually!(Viewer::connect(&proxy).1 == 200, "heads have taken the last place");
    assert_eq!(admin(&proxy, &format!("POST {EVENTS} HTTP/1.1"), &[JSON]).status(), 405);
}

#[test]
fn pages_of_other_sites_get_no_events() {
    let (_backend, setup) = setup();
    let proxy = setup.start();
    let ask = |field: &str| {
        let mut raw = Raw::connect(proxy.admin);
        raw.send(format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n{field}\r\n\r\n", proxy.admin));
        raw.head().status()
    };
    assert_eq!(ask("Sec-Fetch-Site: same-origin"), 200);
    for field in ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"] {
        assert_eq!(ask(field), 403, "{field}");
    }
}

#[test]
fn viewers_do_not_hold_up_the_end_and_see_it_coming() {
    let (_backend, setup) = setup();
    let proxy = setup.start();
    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::admitted(&proxy)).collect();
    viewers.iter_mut().for_each(|viewer| drop(viewer.frame()));
    let began = Instant::now();
    assert!(proxy.drain().is_clean());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for Viewer(mut raw) in viewers {
        let (_, ended) = raw.rest();
        assert_ne!(ended, Ended::Open);
        assert_eq!(raw.stream.read(&mut [0]).unwrap_or(0), 0);
    }
}
