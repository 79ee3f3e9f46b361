//! The references that are made from the code: metrics as a running proxy shows them, commands as they
//! tell of themselves, keys as config/reference.toml has them.
//!
//! A reference that is not what the code says fails its test; with `CUTOVER_WRITE_DOCS=1` it is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use cutover::vocab::Side;

use crate::docs::{documents, helps, none, read, root};
use crate::harness::raw::Raw;
use crate::harness::raw_backend::Scripted;
use crate::harness::{Scrape, Setup, eventually};

/// Asserts that the part of `file` between the two marks is `made`, or makes it so.
fn is_made(file: &str, made: &str) {
    const BEGIN: &str =
        "<!-- made from the code by `CUTOVER_WRITE_DOCS=1 cargo test --test it docs_made` -->\n";
    const END: &str = "<!-- end -->\n";
    let path = root().join(file);
    let text = read(&path);
    let (head, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{file}: no {BEGIN}"));
    let (shown, tail) = rest.split_once(END).unwrap_or_else(|| panic!("{file}: no {END}"));
    if shown == made {
        return;
    }
    if std::env::var_os("CUTOVER_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{made}{END}{tail}")).unwrap();
        return;
    }
    let (shown, wanted): (BTreeSet<_>, BTreeSet<_>) =
        (shown.lines().collect(), made.lines().collect());
    let lacks = wanted.difference(&shown).map(|line| format!("lacks  {line}"));
    let has = shown.difference(&wanted).map(|line| format!("has    {line}"));
    let differs: Vec<_> = lacks.chain(has).collect();
    panic!(
        "{file} is not what the code says; CUTOVER_WRITE_DOCS=1 cargo test --test it docs_made writes it\n{}",
        differs.join("\n")
    );
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

// === Metrics ===

/// Labels whose values come from the config or the outside, not from a closed set.
const OPEN: [&str; 7] = ["route", "endpoint", "code", "hash", "version", "worker", "certificate"];

#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in page.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, help] => {
                name.clone_into(&mut last);
                help.clone_into(&mut families.entry(last.clone()).or_default().help);
            }
            ["#", "TYPE", name, kind] => {
                kind.clone_into(&mut families.get_mut(name).unwrap().kind);
            }
            _ => {
                let Some((_, rest)) = line.split_once('{') else { continue };
                let family = families.get_mut(&last).unwrap();
                for label in rest.split_once('}').unwrap().0.split(',') {
                    let (label, value) = label.split_once('=').unwrap();
                    let values = family.labels.entry(label.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    families
}

/// A page on which every family has a sample.
fn full_page() -> Scrape {
    let backend = Scripted::start();
    let probe = "loop_probe = { path = \"/healthz\" }\nhealth = { path = \"/healthz\" }";
    let route = "[[route]]\nname = \"a\"\nmatch = \"GET /a\"\n[[route]]\nname = \"c\"\nmatch = \"GET /c\"\n\
         pin = \"async\"\n[mirror]\nshare = 1.0\nnoise_share = 0.0";
    let setup = Setup::new(backend.address, backend.address).weight(0.5).async_(probe).tail(route);
    let proxy = setup.start();
    for target in ["/a", "/a", "/b", "/b"] {
        Raw::connect(proxy.address).ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    Raw::connect(proxy.address).ask("GET / HTTP/1.1\r\n\r\n");
    let metrics = proxy.app().metrics();
    metrics.guard.memory(Side::Legacy, 1);
    metrics.guard.memory(Side::Async, 1);
    for side in Side::ALL {
        metrics.guard.baseline(side, "0.95", std::time::Duration::from_millis(1));
        metrics.guard.baseline(side, "0.99", std::time::Duration::from_millis(1));
        metrics.guard.stalled(side, "a", std::time::Duration::from_millis(1));
    }
    let certificates = ["listen", "legacy", "async"].map(|section| (section, "cert.pem", 1));
    metrics.set_certificates(certificates.into_iter());
    // The guard has looked, the loop probe asked, and the mirror compared.
    for name in
        ["cutover_evidence", "cutover_loop_lag_seconds_count", "cutover_mirror_mismatch_total"]
    {
        let start = format!("\n{name}{{");
        eventually!(proxy.scrape().0.contains(&start), "{name} is not there");
    }
    proxy.scrape()
}

fn unit(name: &str) -> &'static str {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    match () {
        () if stem.ends_with("_seconds") => ", seconds",
        () if stem.ends_with("_bytes") => ", bytes",
        () => "",
    }
}

#[test]
fn the_reference_of_metrics_is_what_a_proxy_shows() {
    let page = full_page();
    let mut made = "| metric | type | labels | |\n|---|---|---|---|\n".to_owned();
    for (name, Family { help, kind, labels }) in families(&page.0) {
        let labels = labels.iter().filter(|(label, _)| *label != "le").map(|(label, values)| {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            match label.as_str() {
                "path" if !values.contains(&"none") => "`path`".to_owned(),
                label if OPEN.contains(&label) => format!("`{label}`"),
                label => format!("`{label}`: {}", values.join(", ")),
            }
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        writeln!(made, "| `{name}` | {kind}{} | {labels} | {} |", unit(&name), cell(&help))
            .unwrap();
    }
    is_made("docs/metrics.md", &made);
}

#[test]
fn no_document_speaks_of_a_metric_that_is_not_there() {
    let reference = read(&root().join("docs/metrics.md"));
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let rows = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let known: BTreeSet<&str> = rows.collect();
    assert!(known.len() > 50, "{known:?}");
    let mut faults = Vec::new();
    for (path, text) in documents().iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md")) {
        for word in text.split(|c| !of_name(c)).filter(|word| word.starts_with("cutover_")) {
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let is_known = known.contains(word) || stem.is_some_and(|stem| known.contains(stem));
            // A name with a colon is one of a recording rule, the beginning of a name none.
            if !is_known && !word.contains(':') && !word.ends_with('_') {
                faults.push(format!("{}: {word}", path.display()));
            }
        }
    }
    none(&faults);
}

// === Commands ===

/// The options of a help, but for those that every command has.
fn options<'a>(help: &'a str, of_all: &BTreeSet<&str>) -> Vec<&'a str> {
    let options = help.lines().skip_while(|line| *line != "Options:").skip(1);
    let options = options.filter(|line| !line.starts_with("-h, --help"));
    options.filter(|line| !of_all.contains(line.trim())).collect()
}

#[test]
fn the_reference_of_commands_is_what_they_tell_of_themselves() {
    let helps = helps();
    let of_all = helps[""].lines().skip_while(|line| *line != "Options:").skip(1);
    let of_all: BTreeSet<&str> = of_all.map(str::trim).collect();
    let mut made = "With every command:\n\n```text\n".to_owned();
    for line in helps[""].lines().skip_while(|line| *line != "Options:").skip(1) {
        writeln!(made, "{}", line.trim_start()).unwrap();
    }
    made.push_str("```\n");
    for (command, help) in helps.iter().filter(|(_, help)| !help.contains("\nCommands:\n")) {
        // The width of a column depends on the longest option.
        let squeezed: String = help.lines().map(|line| format!("{}\n", squeeze(line))).collect();
        let of_all: BTreeSet<String> = of_all.iter().map(|line| squeeze(line)).collect();
        let of_all = of_all.iter().map(|line| line.trim()).collect();
        let usage = help.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap();
        let about = help.lines().next().unwrap();
        writeln!(made, "\n### cutover {command}\n\n{about}.\n\n```text\n{usage}").unwrap();
        let arguments = squeezed.lines().skip_while(|line| *line != "Arguments:").skip(1);
        let arguments = arguments.take_while(|line| !line.is_empty());
        for line in arguments.chain(options(&squeezed, &of_all)) {
            writeln!(made, "  {}", line.trim()).unwrap();
        }
        made.push_str("```\n");
    }
    is_made("docs/cli.md", &made);
}

/// With no more than two spaces in a row.
fn squeeze(line: &str) -> String {
    let parts = line.trim().split("  ").filter(|part| !part.is_empty()).map(str::trim);
    parts.collect::<Vec<_>>().join("  ")
}

// === Keys ===

/// A section of the reference, and its keys: each with its default and its reason.
#[derive(Default)]
struct Part {
    name: String,
    reason: String,
    keys: Vec<(String, String, String)>,
}

/// A line's code, and its comment.
fn apart(line: &str) -> (&str, &str) {
    let mut is_text = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => is_text = !is_text,
            '#' if !is_text => return (line[..at].trim(), line[at + 1..].trim()),
            _ => {}
        }
    }
    (line.trim(), "")
}

fn is_key(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn parts(reference: &str) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    for line in reference.lines() {
        let last = parts.last_mut().unwrap();
        if let Some(more) = line.strip_prefix("  ").and_then(|line| line.trim().strip_prefix('#')) {
            let reason = last.keys.last_mut().map_or(&mut last.reason, |(_, _, reason)| reason);
            write!(reason, " {}", more.trim()).unwrap();
            continue;
        }
        let (code, reason) = apart(line.strip_prefix("# ").unwrap_or(line));
        if code.starts_with('[') {
            let [name, reason] = [code, reason].map(str::to_owned);
            parts.push(Part { name, reason, keys: Vec::new() });
        } else if let Some((key, value)) = code.split_once(" = ").filter(|(key, _)| is_key(key)) {
            last.keys.push((key.to_owned(), value.to_owned(), reason.to_owned()));
        }
    }
    parts
}

#[test]
fn the_reference_of_keys_is_that_of_the_config() {
    let parts = parts(&read(&root().join("config/reference.toml")));
    let of_legacy: BTreeSet<String> = parts
        .iter()
        .flat_map(|part| {
            part.keys.iter().map(|(key, value, _)| format!("{} {key} {value}", part.name))
        })
        .collect();
    let mut made = String::new();
    let mut number = 0;
    for Part { name, reason, keys } in &parts {
        // What both paths have alike is told once.
        let legacy = name.replace("[async", "[legacy");
        let told = |key: &str, value: &str| {
            legacy != *name && of_legacy.contains(&format!("{legacy} {key} {value}"))
        };
        let keys: Vec<_> = keys.iter().filter(|(key, value, _)| !told(key, value)).collect();
        if keys.is_empty() {
            continue;
        }
        let title = if name.is_empty() { "At the top".to_owned() } else { format!("`{name}`") };
        writeln!(made, "### {title}\n").unwrap();
        if !reason.is_empty() {
            writeln!(made, "{}\n", reason.trim()).unwrap();
        }
        made.push_str("| key | default | |\n|---|---|---|\n");
        for (key, value, reason) in keys {
            number += 1;
            writeln!(made, "| `{key}` | `{}` | {} |", cell(value), cell(reason.trim())).unwrap();
        }
        made.push('\n');
    }
    assert!(number > 120, "{number} keys");
    is_made("docs/config.md", &made);
}
