//! What `check` and `run` say of a config file.

use std::path::Path;

use crate::cli::{command, fails, file, nowhere, ran, run, text};

// === check ===

#[test]
fn check_says_that_a_sound_file_is() {
    let (_dir, path) = file(&nowhere().weight(0.25).text());
    for args in [&["check", &path][..], &["check", "--config", &path]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(ran.out.starts_with(&format!("{path}: ok (async_weight 0.25")), "{ran:?}");
    }
    let by_environment = command(&["check"]).env("CUTOVER_CONFIG", &path).output();
    assert_eq!(ran(&by_environment.unwrap()).code, 0);
    for shown in ["config/reference.toml", "config/cutover.toml", "config/demo.toml"] {
        let shown = Path::new(env!("CARGO_MANIFEST_DIR")).join(shown);
        assert_eq!(run(&["check", text(&shown)]).code, 0, "{}", shown.display());
    }
}

#[test]
fn check_reports_every_fault_with_its_place_and_not_the_first() {
    let faulty = "async_weight = 2\nfrob = 1\n[listen]\naddress = \"here\"\n\
                  [legacy]\nendpoints = [\"127.0.0.1\"]\nqueue_timeout = \"soon\"\n\
                  [admin]\naddress = \"0.0.0.0:9900\"\n";
    let (_dir, path) = file(faulty);
    let places = ["1:16: `async_weight`", "2:1: `frob`", "4:11: `listen.address`"];
    let more = ["6:14: `legacy.endpoints`", "7:17: `legacy.queue_timeout`"];
    let rest = ["async.endpoints", "token_file"];
    let places: Vec<String> = places.iter().chain(&more).map(|p| format!("{path}:{p}")).collect();
    let parts: Vec<&str> = places.iter().map(String::as_str).chain(rest).collect();
    fails(&["check", &path], 2, &parts);
    // An address that is wrong was given: nothing else is wrong with that.
    let told = run(&["check", &path]).err;
    assert!(!told.contains("give either"), "{told}");
    fails(&["check", "/nowhere/cutover.toml"], 2, &["/nowhere/cutover.toml", "No such file"]);
    let (_dir, path) = file("async_weight = \n");
    fails(&["check", &path], 2, &[&format!("{path}:1:")]);
}

// === run ===

#[test]
fn run_without_a_usable_config_is_2_and_with_a_taken_address_1() {
    fails(&["run", "--config", "/nowhere/cutover.toml"], 2, &["/nowhere/cutover.toml"]);
    let (_dir, path) = file("async_weight = 2\n");
    fails(&["run", "--config", &path], 2, &[&format!("{path}:1:16"), "listen.address"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let other_address = nowhere().text().replacen("127.0.0.1:0", &address, 1);
    let (_dir, path) = file(&other_address);
    fails(&["run", "--config", &path], 1, &["can't listen on", &address]);
}
