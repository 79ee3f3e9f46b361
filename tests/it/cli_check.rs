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
    for shown in ["reference.toml", "cutover.toml", "demo.toml", "ramp.toml"] {
        let shown = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(shown);
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

/// What sections may follow, from line 5 on.
const HEAD: &str = "async_weight = 0.1\nlisten.address = \"127.0.0.1:0\"\n\
                    legacy.endpoints = [\"http://127.0.0.1:1\"]\n\
                    async.endpoints = [\"http://127.0.0.1:2\"]\n";

/// The rest of a file, and what is said of it: where, and why.
const FAULTY: &[(&str, &str, &str)] = &[
    ("[guard]\nmode = \"on\"", "6:8: `guard.mode`", "`enforce`"),
    ("[guard]\ntolerance = -0.1", "6:13: `guard.tolerance`", "from 0 to 1"),
    ("[guard]\ntolerance = nan", "6:13: `guard.tolerance`", "from 0 to 1"),
    ("[guard]\nclient_error_tolerance = 11", "`guard.client_error_tolerance`", "from 0 to 10"),
    ("[guard]\ndivergence_mode = \"points\"", "`guard.divergence_mode`", "`absolute`"),
    ("[guard]\nfail_at = 7.9", "6:11: `guard.fail_at`", "from 8 to 100"),
    ("[guard]\nfail_at = inf", "6:11: `guard.fail_at`", "from 8 to 100"),
    ("[guard]\nhold_at = 16", "6:11: `guard.hold_at`", "is 16 and must be below `fail_at`, 16"),
    ("[guard]\nhold_at = 2", "6:11: `guard.release_at`", "is 3 and must be below `hold_at`, 2"),
    ("[guard]\nrelease_at = 6", "6:14: `guard.release_at`", "is 6 and must be below `hold_at`"),
    ("[guard]\nrelease_at = 0", "6:14: `guard.release_at`", "must be over 0"),
    ("[guard]\nshared_at = 17", "6:13: `guard.shared_at`", "must be at most `fail_at`, 16"),
    ("[guard]\ncap = 16", "6:7: `guard.cap`", "must be below `fail_at`"),
    ("[guard]\nrate_min = 1.1", "`guard.rate_min`", "from 0 to 1"),
    ("[guard]\ngain_min = \"0\"", "`guard.gain_min`", "expected"),
    ("[guard]\nclient_error_gain_min = -1", "`guard.client_error_gain_min`", "from 0 to 1"),
    ("[guard]\ngoodput_factor = 0.5", "`guard.goodput_factor`", "from 1 to 100"),
    ("[guard]\ngoodput_for = \"0s\"", "`guard.goodput_for`", "must be over zero"),
    ("[guard]\ngoodput_min = 0", "`guard.goodput_min`", "at least 1"),
    ("[guard]\nmemory_max = \"0\"", "`guard.memory_max`", "must be over zero"),
    ("[guard]\nmemory_max = 512", "`guard.memory_max`", "expected"),
    ("[guard]\nmemory_ratio = 0.9", "`guard.memory_ratio`", "from 1 to 100"),
    ("[guard]\nmemory_for = \"1\"", "`guard.memory_for`", "not a time span"),
    ("[guard]\nmemory_step_min = 50", "`guard.memory_step_min`", "from 0 to 1"),
    ("[guard]\nlatency_settle = 30", "`guard.latency_settle`", "expected"),
    ("[guard]\nadvance_ratio = 0", "`guard.advance_ratio`", "from 1 to 100"),
    ("[guard]\ndata_gap = \"0s\"", "`guard.data_gap`", "must be over zero"),
    ("[guard]\nstall_after = \"9ms\"", "`guard.stall_after`", "from 10ms to 10s"),
    ("[guard]\nstall_after = \"11s\"", "`guard.stall_after`", "from 10ms to 10s"),
    ("[guard]\nphi = 0.5", "`guard.phi`", "0, or from 1 to 20"),
    ("[guard]\nacknowledge_rollback = \"yes\"", "`guard.acknowledge_rollback`", "rollback's id"),
    ("[guard]\nfailat = 16", "6:1: `guard.failat`", "is not a known key"),
    ("[guard]\nmode = \"off\"\n[ramp]", "7:1: `ramp`", "`guard.mode` is \"off\""),
    ("[ramp]\nsteps = []", "6:9: `ramp.steps`", "1 to 32 shares"),
    ("[ramp]\nsteps = 0.5", "6:9: `ramp.steps`", "expected"),
    ("[ramp]\nsteps = [0.0, 1.0]", "6:10: `ramp.steps`", "0 is not a share over 0.0"),
    ("[ramp]\nsteps = [0.1, 1.1]", "6:15: `ramp.steps`", "1.1 is not a share"),
    ("[ramp]\nsteps = [0.5, 0.5]", "6:15: `ramp.steps`", "0.5 is not over the step before"),
    ("[ramp]\nsteps = [0.5, 0.1]", "6:15: `ramp.steps`", "0.1 is not over the step before"),
    ("[ramp]\nsoak = \"0s\"", "`ramp.soak`", "must be over zero"),
    ("[ramp]\nmin_requests = 0", "`ramp.min_requests`", "at least 1"),
    ("[ramp]\np99_min_requests = -1", "`ramp.p99_min_requests`", "-1"),
    ("[ramp]\nmax_hold = \"8d\"", "`ramp.max_hold`", "not a time span"),
    ("[ramp]\napprove = [0.5, 0.2]", "6:17: `ramp.approve`", "0.2 is none of the steps"),
    ("[ramp]\nwebhook = \"hooks.example\"", "6:11: `ramp.webhook`", "http:// or https://"),
    ("[ramp]\nwebhook = \"ftp://hooks.example/?secret\"", "`ramp.webhook`", "http:// or https://"),
    ("[ramp]\nwebhook = \"https://me:secret@a/\"", "`ramp.webhook`", "user or password"),
    ("[ramp]\nwebhook = \"https://me:sec ret@a/?secret\"", "`ramp.webhook`", "http:// or"),
    ("ramp = 7", "5:8: `ramp`", "must be a table"),
    ("async.loop_probe = {}", "5:20: `async.loop_probe.path`", "is missing"),
    ("async.loop_probe = { path = \"ping\" }", "5:29: `async.loop_probe.path`", "must be a path"),
    (
        "async.loop_probe = { path = \"/\", interval = \"9ms\" }",
        "5:45: `async.loop_probe.interval`",
        "must be from 10ms to 10s",
    ),
    (
        "legacy.loop_probe = { path = \"/\", timeout = \"1s\" }",
        "5:35: `legacy.loop_probe.timeout`",
        "is not a known key",
    ),
];

#[test]
fn check_says_what_is_wrong_with_guard_and_ramp_and_repeats_no_secret() {
    let (_dir, path) = file(HEAD);
    assert_eq!(run(&["check", &path]).code, 0);
    for (rest, place, why) in FAULTY {
        let (_dir, path) = file(&format!("{HEAD}{rest}\n"));
        fails(&["check", &path], 2, &[&format!("{path}:"), place, why]);
        let told = run(&["check", &path]).err;
        let faults = told.lines().filter(|line| line.contains(&path)).count();
        assert!(faults == 1 && !told.contains("secret") && !told.contains("sec ret"), "{told}");
    }
}

#[test]
fn check_names_every_fault_of_guard_and_ramp_at_once() {
    let rest = "[guard]\nfail_at = 1\nphi = 21\n[ramp]\nsteps = [2, 0.5, 0.1]\nsoak = \"soon\"\n";
    let (_dir, path) = file(&format!("{HEAD}{rest}"));
    let places = ["6:11: `guard.fail_at`", "7:7: `guard.phi`"];
    let more = ["9:10: `ramp.steps`", "9:18: `ramp.steps`", "10:8: `ramp.soak`"];
    let places: Vec<&str> = places.into_iter().chain(more).collect();
    fails(&["check", &path], 2, &places);
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
