//! What packages are made of: manual pages, completions, and the files beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cli::{fails, run, text};

/// The commands that `--help` lists, as the names of their pages.
fn pages_of(command: &[&str]) -> BTreeSet<String> {
    let help = run(&[command, &["--help"]].concat());
    assert_eq!(help.code, 0, "{help:?}");
    let mut pages = BTreeSet::from([[&["cutover"], command].concat().join("-") + ".1"]);
    let below = help.out.lines().skip_while(|line| *line != "Commands:").skip(1);
    let below = below.take_while(|line| line.starts_with("  "));
    let below = below.filter(|line| !line.starts_with("   "));
    for name in below.filter_map(|line| line.split_whitespace().next()) {
        if name != "help" {
            pages.append(&mut pages_of(&[command, &[name]].concat()));
        }
    }
    pages
}

#[test]
fn each_command_has_a_manual_page_and_the_first_names_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("made/man");
    let made = run(&["man", text(&into)]);
    assert_eq!((made.code, made.out.as_str(), made.err.as_str()), (0, "", ""));
    let mut wanted = pages_of(&[]);
    assert!(wanted.len() > 15 && wanted.contains("cutover-ramp-approve.1"), "{wanted:?}");
    wanted.insert("cutover.toml.5".to_owned());
    let names = fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().file_name());
    let found: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(found, wanted);
    for page in &found {
        let text = fs::read_to_string(into.join(page)).unwrap();
        let (name, _) = page.rsplit_once('.').unwrap();
        assert!(text.contains(&format!(".TH {name} ")), "{page}: {text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{page}: {text}");
    }
    let first = fs::read_to_string(into.join("cutover.1")).unwrap();
    let below = wanted.iter().filter(|page| page.ends_with(".1") && page.matches('-').count() == 1);
    let unnamed = below.map(|page| page.trim_end_matches(".1").replace('-', "\\-"));
    let unnamed: Vec<_> = unnamed.filter(|name| !first.contains(&format!("{name}(1)"))).collect();
    assert!(unnamed.is_empty(), "cutover(1) does not name {unnamed:?}: {first}");
    assert!(!first.contains("cutover\\-man"), "what is hidden has no page: {first}");
}

#[test]
fn the_page_of_the_config_file_is_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", text(dir.path())]).code, 0);
    let page = fs::read_to_string(dir.path().join("cutover.toml.5")).unwrap();
    let body = page.split_once(".nf\n").and_then(|(_, rest)| rest.split_once("\n.fi\n")).unwrap().0;
    let plain = body.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\&", "");
    let plain = plain.replace("\\(aq", "'").replace("\\\\", "\\");
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml");
    assert_eq!(plain.trim_end(), fs::read_to_string(reference).unwrap().trim_end());
}

#[test]
fn manual_pages_that_can_not_be_written_are_an_error_that_names_the_place() {
    fails(&["man", "/proc/nowhere"], 1, &["/proc/nowhere"]);
}

#[test]
fn completions_are_a_script_that_knows_each_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let made = run(&["completions", shell]);
        assert_eq!((made.code, made.err.as_str()), (0, ""), "{shell}");
        for word in ["status", "approve", "--config", "--token-file"] {
            let word = if shell == "fish" { word.trim_start_matches("--") } else { word };
            assert!(made.out.contains(word), "{shell}: no {word}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("cutover.bash");
    fs::write(&script, run(&["completions", "bash"]).out).unwrap();
    let asked = "source \"$1\" && COMP_WORDS=(cutover ra) COMP_CWORD=1 && \
                 _cutover cutover ra cutover && echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let answer = bash.args(["-c", asked, "bash", text(&script)]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "ramp\n", "{answer:?}");
    fails(&["completions", "cmd"], 2, &["cmd", "bash"]);
}

/// What the Debian package needs beside the program, and where two files must agree.
#[test]
fn the_debian_package_fits_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    let sources = assets.iter().map(|asset| asset[0].as_str().unwrap());
    let lost: Vec<_> =
        sources.filter(|s| !s.starts_with("target/") && !root.join(s).is_file()).collect();
    assert!(assets.len() > 8 && lost.is_empty(), "{lost:?}");
    let units = deb["systemd-units"]["unit-scripts"].as_str().unwrap();
    let unit = read(&format!("{units}/cutover.service"));
    assert!(unit.contains("ExecStart=/usr/bin/cutover run --config /etc/cutover/cutover.toml"));
    // Before version 253 systemd leaves out a type that it does not know, and would take `simple`.
    assert!(unit.contains("\nType=notify\nType=notify-reload\nExecReload=/bin/sh -c 'kill -HUP "));
    let log = read("docker/debian/changelog");
    let version = format!("cutover ({}-1) ", env!("CARGO_PKG_VERSION"));
    assert!(log.starts_with(&version), "docker/debian/changelog: {log}");
    assert_eq!(run(&["check", text(&root.join("docker/debian/cutover.toml"))]).code, 0);
    let shipped = read("docker/debian/cutover.toml");
    assert!(unit.contains("StateDirectory=cutover\n"));
    assert!(shipped.contains("state_dir = \"/var/lib/cutover\""), "where the unit may write");
}
