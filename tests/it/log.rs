//! The program's own log: what of it is written and how, by the config in force.

use std::process::Command;

use crate::harness::raw_backend::Scripted;
use crate::harness::{PROGRAM, Process, Setup, eventually};

/// Reloads by a hangup, with `weight` as the mark of the new config, and waits until it is in force.
fn reload(proxy: &Process, setup: &Setup, weight: f64, log: &str) {
    let text = setup.clone().weight(weight).tail(log).text();
    std::fs::write(&proxy.file, text).unwrap();
    proxy.signal("HUP");
    let labels = [("kind", "configured"), ("route", "default")];
    eventually!((proxy.scrape().sum("cutover_weight", &labels) - weight).abs() < 1e-6);
}

/// Whether it is logged that the config with `weight` was applied.
fn is_told(proxy: &Process, weight: &str) -> bool {
    proxy.logged("config applied").iter().any(|line| line["fields"]["weight"] == weight)
}

#[test]
fn a_reload_changes_what_is_logged_and_how() {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, backend.address);
    let proxy = setup.spawn();
    // What is said of a change of the log itself may go by either: so each is followed by another one.
    let both = |weight: f64, log: &str| {
        reload(&proxy, &setup, weight, log);
        reload(&proxy, &setup, weight + 0.05, log);
    };
    both(0.1, "[log]\nlevel = \"warn\"\n");
    both(0.2, "[log]\nlevel = \"warn,cutover::publisher=info\"\n");
    eventually!(is_told(&proxy, "0.25"), "{}", proxy.said());
    assert!(!is_told(&proxy, "0.15"), "{}", proxy.said());
    both(0.3, "[log]\nformat = \"text\"\n");
    let text = "INFO cutover::publisher: config applied";
    let is_text = |line: &str| line.contains(text) && line.contains("weight=0.35");
    eventually!(proxy.said().lines().any(is_text), "{}", proxy.said());
    assert!(!is_told(&proxy, "0.35"), "{}", proxy.said());
    both(0.4, "");
    eventually!(is_told(&proxy, "0.45"), "{}", proxy.said());
    // One that is refused changes nothing.
    let broken = setup.clone().weight(0.6).tail("[log]\nlevel = \"inof\"\nformat = \"text\"\n");
    std::fs::write(&proxy.file, broken.text()).unwrap();
    proxy.signal("HUP");
    let refused = "config refused, the old one stays in force";
    let is_named = |line: &serde_json::Value| {
        line["fields"]["error"].to_string().contains("`log.level`: `inof` is not a level")
    };
    eventually!(proxy.logged(refused).iter().any(is_named), "{}", proxy.said());
    reload(&proxy, &setup, 0.7, "");
    eventually!(is_told(&proxy, "0.7"), "{}", proxy.said());
}

#[test]
fn the_environment_s_level_wins() {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, backend.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let lines = "[log]\nlevel = \"error\"\n";
    std::fs::write(&file, setup.clone().tail(lines).text()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.env("CUTOVER_LOG", "info").args(["run", "--config"]).arg(&file);
    let proxy = Process::start_by(command, dir, file);
    reload(&proxy, &setup, 0.1, "[log]\nlevel = \"off\"\n");
    reload(&proxy, &setup, 0.2, lines);
    eventually!(is_told(&proxy, "0.1") && is_told(&proxy, "0.2"), "{}", proxy.said());
}

#[test]
fn an_empty_level_of_the_environment_is_none() {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, backend.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, setup.text()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.env("CUTOVER_LOG", " ").args(["run", "--config"]).arg(&file);
    let proxy = Process::start_by(command, dir, file);
    reload(&proxy, &setup, 0.1, "[log]\nlevel = \"info, cutover = info\"\n");
    reload(&proxy, &setup, 0.2, "");
    eventually!(is_told(&proxy, "0.2"), "{}", proxy.said());
}
