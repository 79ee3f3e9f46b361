//! What the documents say is what the program is: links lead somewhere, commands and flags exist, configs
//! pass, defaults are the code's. What is made from the code is in `docs_made`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use cutover::config::Config;

use crate::harness::PROGRAM;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// All documents of the repository; there are some, or the check looks in the wrong place.
pub(crate) fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = read(&path);
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() >= 10, "{} documents", found.len());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// One line of a document: outside of a block, or in one of this language.
enum Line<'a> {
    Prose(&'a str),
    Block(&'a str, &'a str),
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut block = None;
    let mut found = Vec::new();
    for line in text.lines() {
        match (block, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => block = Some(language.trim()),
            (Some(_), Some(_)) => block = None,
            (None, None) => found.push(Line::Prose(line)),
            (Some(language), None) => found.push(Line::Block(language, line)),
        }
    }
    assert!(block.is_none(), "a block without its end");
    found
}

/// The blocks of a language, whole.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let parts = text.split("\n```").skip(1).step_by(2);
    let parts = parts.filter_map(|part| part.split_once('\n'));
    parts.filter(|(it, _)| it.trim() == language).map(|(_, block)| block.to_owned()).collect()
}

/// What stands between single backquotes.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

// === Links ===

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in lines(text) {
        let Line::Prose(line) = line else { continue };
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else {
            continue;
        };
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let times = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
        *times += 1;
    }
    anchors
}

/// The targets of `[text](target)` in prose.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines(text) {
        let Line::Prose(line) = line else { continue };
        // A link in code is none.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let ends = prose.match_indices("](").map(|(at, _)| &prose[at + 2..]);
        found.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    found
}

/// Without `.` and `..`, and without asking the disk.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => plain.push(part),
        }
    }
    plain
}

fn broken(from: &Path, text: &str, target: &str) -> Option<&'static str> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => from.to_owned(),
        _ => plain(&from.parent().unwrap().join(file)),
    };
    if !path.starts_with(root()) || !path.exists() {
        return Some("is not there");
    }
    let there = if path == *from { text.to_owned() } else { String::new() };
    let there = match anchor {
        "" => return None,
        _ if there.is_empty() => read(&path),
        _ => there,
    };
    (!anchors(&there).contains(anchor)).then_some("has no such heading")
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() {
    let mut faults = Vec::new();
    let mut links = 0;
    for (path, text) in documents() {
        for target in targets(&text) {
            links += 1;
            if let Some(why) = broken(&path, &text, &target) {
                faults.push(format!("{}: {target} {why}", shown(&path)));
            }
        }
    }
    assert!(links > 30, "{links} links");
    none(&faults);
}

#[test]
fn the_check_of_links_would_see_a_fault() {
    let text =
        "# A `b` & c\n## A b  c\n[x](#a-b--c) `[x](#no)`\n```\n# no\n[x](#no)\n```\n[y](#no)\n";
    let from = root().join("docs/cli.md");
    assert_eq!(targets(text), ["#a-b--c", "#no"]);
    let found = ["#a-b--c", "#a-b--c-1", "#no", "none.rs", "../README.md", "../../README.md"]
        .map(|target| broken(&from, text, target).is_none());
    assert_eq!(found, [true, true, false, false, true, false]);
    assert!(broken(&from, text, "../README.md#no").is_some());
}

// === Commands ===

/// Each command, as `ramp status`, with its help as it prints it.
pub(crate) fn helps() -> BTreeMap<String, String> {
    let mut helps = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(command) = open.pop() {
        let args = command.split_whitespace().chain(["-h"]);
        // Shown as it is without them.
        let ran = std::process::Command::new(PROGRAM).args(args).env_clear().output().unwrap();
        assert!(ran.status.success(), "{command}");
        let help = String::from_utf8(ran.stdout).unwrap();
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in commands.take_while(|line| !line.is_empty()) {
            let name = line.split_whitespace().next().unwrap();
            if name != "help" {
                open.push(format!("{command} {name}").trim_start().to_owned());
            }
        }
        helps.insert(command, help);
    }
    assert!(helps.len() >= 20, "{:?}", helps.keys());
    helps
}

/// What is wrong with the words of a command line behind `cutover`.
fn wrong(words: &str, helps: &BTreeMap<String, String>) -> Option<String> {
    let end = words.find(['|', ';', '>', '#', '&', ')', '`', '\\', '…']).unwrap_or(words.len());
    let mut command = String::new();
    let mut is_open = true;
    for word in words[..end].split_whitespace() {
        let deeper = format!("{command} {word}").trim_start().to_owned();
        let has_more = || helps[&command].contains("\nCommands:\n");
        if let Some(flag) = word.strip_prefix('[').unwrap_or(word).strip_prefix("--") {
            let flag = flag.split(['=', ']']).next().unwrap_or(flag);
            let names = |help: &str| help.split([' ', ',', '\n']).any(|w| w == format!("--{flag}"));
            if !names(&helps[&command]) {
                return Some(format!("`{command}` has no --{flag}"));
            }
        } else if is_open && helps.contains_key(&deeper) {
            command = deeper;
        } else if is_open && has_more() {
            return Some(format!("`{deeper}` is no command"));
        } else {
            is_open = false;
        }
    }
    None
}

/// The command lines in a document: in blocks for a shell, and in code that begins with `cutover`.
fn command_lines(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in lines(text) {
        let parts: Vec<&str> = match line {
            Line::Prose(line) => code_spans(line).flat_map(|span| span.split("; ")).collect(),
            Line::Block("sh" | "console", line) => {
                line.split('#').next().unwrap_or(line).split("; ").collect()
            }
            Line::Block(..) => Vec::new(),
        };
        for part in parts {
            let part = part.trim_start().trim_start_matches("$ ");
            let demo = part.strip_prefix("cargo run --release -- ");
            found.extend(part.strip_prefix("cutover ").or(demo));
        }
    }
    found
}

#[test]
fn every_command_and_flag_in_the_documents_exists() {
    let helps = helps();
    let mut faults = Vec::new();
    let mut number = 0;
    for (path, text) in documents().iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md")) {
        for line in command_lines(text) {
            number += 1;
            faults.extend(wrong(line, &helps).map(|why| format!("{}: {line}: {why}", shown(path))));
        }
    }
    assert!(number > 30, "{number} commands");
    none(&faults);
    for (line, is_wrong) in [
        ("weight 0.25 --config x", false),
        ("ramp status --json", false),
        ("ramp up", true),
        ("status --every 3", true),
        ("rollbak", true),
    ] {
        assert_eq!(wrong(line, &helps).is_some(), is_wrong, "{line}");
    }
}

#[test]
fn the_reference_of_the_admin_api_has_each_of_its_pages() {
    let code = read(&root().join("src/admin/mod.rs"));
    let list = code.split_once("const SHOWN:").unwrap().1.split_once("];").unwrap().0;
    let pages: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(pages.len() > 10, "{pages:?}");
    let reference = read(&root().join("docs/admin-api.md"));
    let missing = pages.iter().filter(|page| !reference.contains(&format!("`{page}`")));
    none(&missing.map(|page| format!("{page} is not in docs/admin-api.md")).collect::<Vec<_>>());
}

// === Configs ===

/// A part of a config, with what any file must have.
fn completed(part: &str) -> String {
    let mut file: toml::Table = part.parse().unwrap_or_else(|error| panic!("{error}\n{part}"));
    file.entry("async_weight").or_insert(toml::Value::Float(0.1));
    for (section, key, value) in [
        ("listen", "address", "\"127.0.0.1:8080\""),
        ("legacy", "endpoints", "[\"http://127.0.0.1:9001\"]"),
        ("async", "endpoints", "[\"http://127.0.0.1:9002\"]"),
    ] {
        let section = file.entry(section).or_insert_with(|| toml::Table::new().into());
        let section = section.as_table_mut().expect("a section");
        if !section.contains_key(key) && !section.contains_key("addresses") {
            let value: toml::Table = format!("value = {value}").parse().unwrap();
            section.insert(key.to_owned(), value["value"].clone());
        }
    }
    file.to_string()
}

fn load(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    fs::write(&file, text).unwrap();
    Config::load(&file).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_config_in_the_documents_passes_the_check() {
    let mut faults = Vec::new();
    let mut number = 0;
    for (path, text) in documents() {
        for part in blocks(&text, "toml") {
            let whole = completed(&part);
            // The files of certificates and keys are not there.
            if part.contains(".pem\"") {
                continue;
            }
            number += 1;
            let fault = load(&whole).err();
            faults.extend(fault.map(|fault| format!("{}:\n{part}{fault}", shown(&path))));
        }
    }
    assert!(number >= 2, "{number} configs");
    none(&faults);
}

/// A section of the reference that is commented out, without its hashes and its reasons.
fn uncommented(section: &str) -> String {
    let reference = read(&root().join("config/reference.toml"));
    let head = format!("# {section} ");
    let block = reference.lines().skip_while(|line| !line.starts_with(&head));
    let block = block.take_while(|line| !line.is_empty());
    let block = block.filter_map(|line| line.strip_prefix("# "));
    let block: Vec<&str> =
        block.filter(|line| line.starts_with(|c: char| c == '[' || c.is_lowercase())).collect();
    assert!(block.len() > 2, "{section}: {block:?}");
    block.join("\n")
}

#[test]
fn the_reference_shows_the_defaults_of_sections_that_are_absent_too() {
    for (section, least) in [
        ("[legacy.health]", "path = \"/healthz\""),
        ("[legacy.loop_probe]", "path = \"/healthz\""),
        (
            "[[route]]",
            "name = \"orders\"\nmatch = \"GET /orders/{id}\"\nasync_weight = 0.5\nmirror = true",
        ),
    ] {
        let shown = load(&completed(&uncommented(section))).unwrap();
        let least = load(&completed(&format!("{section}\n{least}"))).unwrap();
        let said =
            |config: &Config| format!("{:?} {:?} {:?}", config.paths, config.routes, config.mirror);
        assert_eq!(said(&shown), said(&least), "{section}");
    }
}
