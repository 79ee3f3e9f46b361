//! The program's commands, as an operator runs them: what they print, where, and their exit codes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Backend, Process, Setup, eventually};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("CUTOVER_CONFIG")
        .env_remove("CUTOVER_ADMIN");
    command
}

pub(crate) fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

pub(crate) fn run(args: &[&str]) -> Ran {
    ran(&command(args).output().unwrap())
}

/// Fails with this code, says so in one line that contains all of `parts`, and prints nothing.
pub(crate) fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let ran = run(args);
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {ran:?}");
    let missing: Vec<_> = parts.iter().filter(|part| !ran.err.contains(**part)).collect();
    assert!(missing.is_empty(), "{args:?} does not say {missing:?}: {}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

pub(crate) fn nowhere() -> Setup {
    let nowhere = Backend::refused();
    Setup::new(nowhere, nowhere).workers(1)
}

/// A config file, and the directory that it is in.
pub(crate) fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cutover.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_version_is_that_of_the_package() {
    let ran = run(&["--version"]);
    let version = format!("cutover {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((ran.code, ran.out, ran.err), (0, version, String::new()));
}

#[test]
fn wrong_usage_is_2() {
    fails(&[], 2, &["Usage"]);
    fails(&["frob"], 2, &["frob"]);
    fails(&["weight"], 2, &["SHARE"]);
    fails(&["weight", "much"], 2, &["much"]);
}

// === weight ===

fn weight_in_force(process: &Process, route: &str) -> f64 {
    let labels = [("route", route), ("kind", "effective")];
    process.scrape().sum("cutover_weight", &labels)
}

const ROUTE: &str = "# the orders\n[[route]]\nname = \"orders\"\nmatch = \"GET /orders\"\n";

#[test]
fn weight_edits_one_line_and_waits_until_it_is_in_force() {
    let setup = nowhere().tail(ROUTE);
    let process = setup.spawn();
    let before = format!("# why\n{}# the end", setup.text());
    let before = before.replacen("async_weight = 0.0", "async_weight   =  0.0   # ask first", 1);
    fs::write(&process.file, &before).unwrap();
    let admin = process.admin.to_string();
    let weight = |share: &str, more: &[&str]| {
        let args = ["weight", share, "--config", text(&process.file), "--admin", &admin];
        run(&[&args, more].concat())
    };
    let ran = weight("0.25", &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains("async_weight = 0.25, in force after"), "{ran:?}");
    assert_eq!(weight_in_force(&process, "default"), 0.25);
    let after = fs::read_to_string(&process.file).unwrap();
    assert_eq!(after, before.replacen(" 0.0 ", " 0.25 ", 1));

    assert_eq!(weight("1", &["--route", "orders"]).code, 0);
    assert_eq!(weight_in_force(&process, "orders"), 1.0);
    assert_eq!(weight_in_force(&process, "default"), 0.25);
    let with_route = fs::read_to_string(&process.file).unwrap();
    assert_eq!(with_route.lines().count(), after.lines().count() + 1);
    let kept = after.lines().all(|line| with_route.lines().any(|other| other == line));
    assert!(kept, "{with_route}");
    // The same once more is in force already.
    assert_eq!(weight("1", &["--route", "orders"]).code, 0);
    assert_eq!(weight("0", &[]).code, 0);
    assert_eq!(weight_in_force(&process, "default"), 0.0);
}

#[test]
fn weight_writes_nothing_that_the_proxy_would_refuse() {
    let sound = nowhere().text();
    for (text, args, code, part) in [
        (sound.clone(), &["1.5"][..], 1, "1.5 is not a share from 0.0 to 1.0"),
        (sound.clone(), &["nan"], 1, "is not a share from 0.0 to 1.0"),
        (sound.clone(), &["0.5", "--route", "gone"], 1, "no route is called `gone`"),
        (sound.replace("workers = 1", "workers = -1"), &["0.5"], 2, "listen.workers"),
        (format!("{sound}\nnot toml"), &["0.5"], 1, "cutover.toml"),
    ] {
        let (dir, path) = file(&text);
        let args = [&["weight", "--config", &path], args].concat();
        fails(&args, code, &[part]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left behind");
    }
}

#[test]
fn weight_says_when_nobody_puts_it_in_force() {
    let (_dir, path) = file(&nowhere().text());
    let admin = Backend::refused().to_string();
    let args = ["weight", "0.5", "--config", &path, "--admin", &admin];
    fails(&args, 1, &["is written, but no proxy says it is in force", &admin]);
    assert!(fs::read_to_string(&path).unwrap().contains("async_weight = 0.5"));
}

// === status ===

fn started() -> (Backend, Process) {
    let backend = Backend::ok("ok");
    let setup = Setup::new(backend.address, Backend::refused()).workers(1);
    let process = setup.tail(ROUTE).spawn();
    assert_eq!(process.client().get("/x").status, 200);
    (backend, process)
}

fn ask(command: &str, admin: SocketAddr, more: &[&str]) -> Ran {
    run(&[&[command, "--admin", &admin.to_string()], more].concat())
}

#[test]
fn status_is_for_people_for_programs_and_for_health_checks() {
    let (_backend, process) = started();
    let counted = || process.scrape().sum("cutover_requests_total", &[("code", "200")]);
    eventually!(counted() == 1.0, "the request is not counted");
    let prose = ask("status", process.admin, &[]);
    assert_eq!((prose.code, prose.err.as_str()), (0, ""), "{prose:?}");
    for part in ["serving", "legacy", "async", "default", "orders", env!("CARGO_PKG_VERSION")] {
        assert!(prose.out.contains(part), "no {part} in {}", prose.out);
    }
    let json = ask("status", process.admin, &["--json"]);
    let status: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json.out.lines().count(), 1);
    assert_eq!(status["phase"], "serving");
    assert_eq!(status["ready"], true);
    assert_eq!(status["paths"]["legacy"]["requests"], 1);
    let ready = ask("status", process.admin, &["--ready"]);
    assert_eq!((ready.code, ready.out.as_str()), (0, ""), "{ready:?}");
    let conflict = ask("status", process.admin, &["--ready", "--json"]);
    assert_eq!(conflict.code, 2);
    let refused = Backend::refused().to_string();
    fails(&["status", "--admin", &refused], 1, &["can't ask the admin listener at", &refused]);
    fails(&["status", "--ready", "--admin", &refused], 1, &[&refused]);
    fails(&["status", "--config", "/nowhere.toml"], 2, &["--admin", "/nowhere.toml"]);
}

#[test]
fn a_proxy_that_drains_is_not_ready() {
    let backend = Backend::ok("ok");
    let setup = Setup::new(backend.address, backend.address).workers(1);
    let mut process = setup.drain("delay = \"30s\"").spawn();
    process.signal("TERM");
    let ready = || ask("status", process.admin, &["--ready"]);
    eventually!(ready().code == 1, "still ready");
    assert!(ready().err.contains("leaving"), "{:?}", ready());
    process.signal("TERM");
    assert_eq!(process.wait(), Some(3));
}

// === explain ===

#[test]
fn explain_tells_the_path_of_a_key_and_when_it_moves() {
    let keyed = format!("[split]\nkey = \"header:x-user-id\"\n{ROUTE}async_weight = 1.0\n");
    let (_dir, path) = file(&nowhere().weight(0.5).tail(&keyed).text());
    let args = ["explain", "--key", "user-7", "--config", &path];
    let prose = run(&args);
    assert_eq!((prose.code, prose.err.as_str()), (0, ""), "{prose:?}");
    for part in ["\"user-7\"", "bucket", "moves to async at weight 0.", "orders", "default"] {
        assert!(prose.out.contains(part), "no {part} in {}", prose.out);
    }
    let json = run(&[&args[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&json.out).unwrap();
    let moves_at = json["moves_at_weight"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&moves_at));
    let [orders, default] = &json["routes"].as_array().unwrap()[..] else {
        panic!("{json}");
    };
    assert_eq!((&orders["route"], &orders["path"]), (&"orders".into(), &"async".into()));
    assert_eq!(default["path"], if moves_at <= 0.5 { "async" } else { "legacy" });

    fails(&["explain", "--config", &path], 2, &["--key"]);
    let (_dir, unkeyed) = file(&nowhere().text());
    let args = ["explain", "--key", "k", "--config", &unkeyed];
    fails(&args, 1, &[&unkeyed, "split.key is not set"]);
}

// === Pipes ===

#[test]
fn a_pipe_that_nobody_reads_ends_a_command_quietly() {
    let keyed = nowhere().tail("[split]\nkey = \"client_address\"").text();
    let (_dir, path) = file(&keyed);
    let (_backend, process) = started();
    let admin = process.admin.to_string();
    for args in [
        &["check", &path][..],
        &["explain", "--key", "k", "--config", &path],
        &["status", "--admin", &admin],
        &["status", "--json", "--admin", &admin],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = ran(&command(args).stdout(writer).output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    }
}
