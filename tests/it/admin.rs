//! The admin listener: what it shows, to whom, and whose changes it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::raw::{Message, Raw};
use crate::harness::{Backend, Proxy, Setup};

fn setup() -> Setup {
    let nowhere = Backend::refused();
    Setup::new(nowhere, nowhere).workers(1)
}

/// What the admin listener replies to a request line and fields, with a sound Host.
pub(crate) fn admin(proxy: &Proxy, line: &str, fields: &[&str]) -> Message {
    let host = format!("Host: {}", proxy.admin);
    let lines = [&[line, &host], fields].concat().join("\r\n");
    Raw::connect(proxy.admin).ask(format!("{lines}\r\n\r\n"))
}

pub(crate) fn get(proxy: &Proxy, target: &str) -> Message {
    admin(proxy, &format!("GET {target} HTTP/1.1"), &[])
}

const JSON: &str = "Content-Type: application/json";
const RELOAD: &str = "POST /api/v1/reload HTTP/1.1";

fn reload(proxy: &Proxy, fields: &[&str]) -> Message {
    admin(proxy, RELOAD, &[&["Content-Length: 2"], fields, &["\r\n{}"]].concat())
}

fn is_problem(reply: &Message, status: u16) {
    assert_eq!(reply.status(), status, "{reply:?}");
    assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
}

#[test]
fn what_can_be_read_has_its_kind_and_nothing_else_is_there() {
    let proxy = setup().start();
    for (target, kind, part) in [
        ("/livez", "text/plain; charset=utf-8", "alive\n"),
        ("/readyz", "text/plain; charset=utf-8", "serving\n"),
        ("/metrics", "text/plain; version=0.0.4", "# HELP cutover_build_info "),
        ("/api/v1/status", "application/json", "\"phase\":\"serving\""),
        ("/api/v1/config", "application/json", "async_weight"),
    ] {
        let reply = get(&proxy, target);
        assert_eq!(reply.status(), 200, "{target}");
        let got = reply.field("content-type").unwrap_or_default();
        assert!(got.starts_with(kind), "{target} is {got}");
        assert!(reply.text().contains(part), "{target}: {}", reply.text());
        is_problem(&admin(&proxy, &format!("POST {target} HTTP/1.1"), &[JSON]), 405);
        is_problem(&get(&proxy, &format!("{target}/")), 404);
        is_problem(&get(&proxy, &target.to_ascii_uppercase()), 404);
    }
    for target in ["/metricsx", "//metrics", "/api/v1", "/api/v1/../../metrics", "/%6detrics"] {
        is_problem(&get(&proxy, target), 404);
    }
    let wrong = get(&proxy, "/api/v1/reload");
    is_problem(&wrong, 405);
    assert_eq!(wrong.field("allow"), Some("POST"));
    let config: Value = serde_json::from_slice(&get(&proxy, "/api/v1/config").body).unwrap();
    assert_eq!(config["text"], fs::read_to_string(&proxy.file).unwrap());
    let mut head = Raw::connect(proxy.admin);
    head.send(format!("HEAD /livez HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin));
    assert_eq!(head.head_reply().field("content-length"), Some("6"));
}

#[test]
fn a_foreign_host_is_misdirected_and_a_local_one_is_served() {
    let proxy = setup().start();
    let ask = |host: &str| {
        Raw::connect(proxy.admin).ask(format!("GET /livez HTTP/1.1\r\n{host}\r\n\r\n"))
    };
    for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "127.0.0.1.evil", ""] {
        is_problem(&ask(&format!("Host: {host}")), 421);
    }
    is_problem(&ask("X: y"), 421);
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9900", "[::1]:9900"] {
        assert_eq!(ask(&format!("Host: {host}")).status(), 200, "{host}");
    }
    // It is the first Host that a lenient reader would take.
    assert_ne!(ask("Host: evil.example\r\nHost: localhost").status(), 200);
}

#[test]
fn a_reload_is_json_from_no_other_site() {
    let proxy = setup().start();
    let own = format!("Origin: http://{}", proxy.admin);
    for (status, fields) in [
        (200, &[JSON][..]),
        (200, &["Content-Type: application/json; charset=utf-8"]),
        (200, &[JSON, &own, "Sec-Fetch-Site: same-origin"]),
        (200, &[JSON, "Sec-Fetch-Site: none"]),
        (415, &[]),
        (415, &["Content-Type: text/plain"]),
        (415, &["Content-Type: application/x-www-form-urlencoded"]),
        (415, &["Content-Type: text/plain; application/json"]),
        (403, &[JSON, "Origin: http://evil.example"]),
        (403, &[JSON, "Origin: null"]),
        (403, &[JSON, "Origin: http://127.0.0.1:1"]),
        (403, &[JSON, "Sec-Fetch-Site: cross-site"]),
        (403, &[JSON, "Sec-Fetch-Site: same-site"]),
        (403, &[JSON, &own, "Sec-Fetch-Site: cross-site"]),
    ] {
        let before = proxy.scrape().sum("cutover_config_reloads_total", &[]);
        let reply = reload(&proxy, fields);
        assert_eq!(reply.status(), status, "{fields:?}: {reply:?}");
        let reloads = proxy.scrape().sum("cutover_config_reloads_total", &[]) - before;
        assert_eq!(reloads, f64::from(status == 200), "{fields:?}");
    }
}

#[test]
fn a_reload_puts_the_file_in_force_or_says_what_is_wrong_with_it() {
    let setup = setup();
    let proxy = setup.start();
    fs::write(&proxy.file, setup.clone().weight(0.5).text()).unwrap();
    assert_eq!(reload(&proxy, &[JSON]).status(), 200);
    assert_eq!(proxy.weight(), 0.5);
    fs::write(&proxy.file, setup.text().replace("workers = 1", "workers = 1\nfrob = 2")).unwrap();
    let refused = reload(&proxy, &[JSON]);
    is_problem(&refused, 422);
    assert!(refused.text().contains("listen.frob"), "{refused:?}");
    let status: Value = serde_json::from_slice(&get(&proxy, "/api/v1/status").body).unwrap();
    assert_eq!(status["config"]["last_reload_successful"], false);
    assert!(status["config"]["faults"][0].as_str().unwrap().contains("listen.frob"));
    assert_eq!(proxy.scrape().sum("cutover_config_last_reload_successful", &[]), 0.0);
    assert_eq!(proxy.weight(), 0.5);
    fs::write(&proxy.file, setup.text().replace("workers = 1", "workers = 2")).unwrap();
    assert!(reload(&proxy, &[JSON]).text().contains("listen.workers"));
    fs::write(&proxy.file, setup.text()).unwrap();
    assert_eq!(reload(&proxy, &[JSON]).status(), 200);
    assert_eq!(proxy.scrape().sum("cutover_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn a_change_needs_the_token_where_one_is_set_and_reading_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    let proxy = setup().admin(&format!("token_file = {token:?}")).start();
    let with = |token: &str| reload(&proxy, &[JSON, &format!("Authorization: {token}")]);
    is_problem(&reload(&proxy, &[JSON]), 401);
    for wrong in
        ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "0123456789abcdef", "Bearer "]
    {
        is_problem(&with(wrong), 401);
    }
    assert_eq!(with("Bearer 0123456789abcdef").status(), 200);
    for target in ["/livez", "/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(get(&proxy, target).status(), 200, "{target}");
    }
    // Replaced while it runs; unreadable, it refuses and never means "no token".
    fs::write(&token, "fedcba9876543210").unwrap();
    is_problem(&with("Bearer 0123456789abcdef"), 401);
    assert_eq!(with("Bearer fedcba9876543210").status(), 200);
    fs::remove_file(&token).unwrap();
    is_problem(&with("Bearer fedcba9876543210"), 403);
    is_problem(&reload(&proxy, &[JSON]), 403);
}

#[test]
fn a_unix_socket_is_for_its_owner_only_and_replaces_a_dead_one() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("admin.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let text = setup().text();
    let text = text.replacen(
        "[admin]\naddress = \"127.0.0.1:0\"",
        &format!("[admin]\naddress = \"unix:{}\"", path.display()),
        1,
    );
    let file = dir.path().join("cutover.toml");
    fs::write(&file, &text).unwrap();
    let start = || {
        let config = cutover::config::Config::load(&file).unwrap();
        cutover::app::App::start(config, file.clone())
    };
    let app = start().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    use std::io::{Read, Write};
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("alive\n"), "{reply}");
    let second = start().unwrap_err();
    assert!(format!("{second:#}").contains("another process answers there"), "{second:#}");
    let status = Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(["status", "--ready", "--admin", &format!("unix:{}", path.display())])
        .status();
    assert!(status.unwrap().success());
    crate::harness::block_on(app.drain());
}

#[test]
fn a_wide_address_without_a_usable_token_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let run = |admin: &str| {
        let text = setup().text().replacen(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\n{admin}"),
            1,
        );
        let file = dir.path().join("cutover.toml");
        fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cutover"))
            .args(["run", "--config"])
            .arg(&file)
            .output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = run("address = \"0.0.0.0:0\"");
    assert_eq!(code, Some(2));
    assert!(error.contains("set `token_file`"), "{error}");
    let (code, error) = run("address = \"0.0.0.0:0\"\ntoken_file = \"/nowhere/token\"");
    assert_eq!(code, Some(1));
    assert!(error.contains("/nowhere/token"), "{error}");
    let short = dir.path().join("short");
    fs::write(&short, "secret\n").unwrap();
    let (code, error) = run(&format!("address = \"0.0.0.0:0\"\ntoken_file = {short:?}"));
    assert_eq!(code, Some(1));
    assert!(error.contains("shorter than 16") && !error.contains("secret"), "{error}");
}
