//! The house rules that a compiler does not check, run as tests over the files of this package.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file: its path from the package's root, and its text.
struct File {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below `folder`; there are some, or the check looks in the wrong place.
fn rust_files(folder: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(files.len() >= 10, "{} files in {folder}", files.len());
    files
}

fn all_files() -> impl Iterator<Item = File> {
    rust_files("src").into_iter().chain(rust_files("tests"))
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The code without its comments, its literals and what is compiled for tests only. Line ends stay.
fn product_code(text: &str) -> String {
    let is_tests = |rest: &str| {
        let rest = rest.trim_start();
        rest.strip_prefix("pub(crate) ").unwrap_or(rest).starts_with("mod tests {")
    };
    let tests =
        text.match_indices("#[cfg(test)]").map(|(start, attribute)| (start, attribute.len()));
    let mut tests = tests.filter(|(start, length)| is_tests(&text[start + length..]));
    let code = tests.next().map_or(text, |(start, _)| &text[..start]);
    let lines = code.lines().map(|line| {
        let mut kept = String::new();
        let mut in_text = false;
        let mut last = ' ';
        for c in line.chars() {
            match c {
                '"' if last != '\\' && last != '\'' => in_text = !in_text,
                '/' if last == '/' && !in_text => break,
                _ if !in_text => kept.push(c),
                _ => {}
            }
            last = c;
        }
        kept
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn each_file_begins_with_what_it_is_and_has_at_most_400_lines() {
    let faults: Vec<_> = all_files()
        .flat_map(|File { path, text }| {
            let lines = text.lines().count();
            let long = (lines > 400).then(|| format!("{path}: {lines} lines"));
            let bare = (!text.starts_with("//! ")).then(|| format!("{path}: no //! at its head"));
            [long, bare]
        })
        .flatten()
        .collect();
    none(&faults);
}

// === Layers ===

/// The table in docs/codemap.md: a file of `src`, and its layer.
fn layers() -> BTreeMap<String, u32> {
    let text = read("docs/codemap.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let file = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let layer = cells.next()?.parse().ok()?;
        file.ends_with(".rs").then(|| (file.to_owned(), layer))
    });
    let rows: Vec<(String, u32)> = rows.collect();
    let table: BTreeMap<_, _> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), table.len(), "a file is in the table twice");
    assert!(table.len() >= 10, "no table of layers in docs/codemap.md");
    table
}

/// The paths behind `crate::` in code, each with the groups in braces spread out.
fn used_paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut paths = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut open = vec![Vec::new()];
        spread(&mut code[at + 7..].chars().peekable(), &mut open, &mut paths);
    }
    paths
}

/// Reads one path, which may end in a group; `open` holds the prefix.
fn spread(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    open: &mut Vec<Vec<String>>,
    paths: &mut BTreeSet<Vec<String>>,
) {
    let mut path = open.last().cloned().unwrap_or_default();
    let mut word = String::new();
    loop {
        match chars.peek().copied() {
            Some(c) if c.is_alphanumeric() || c == '_' => word.push(c),
            Some(':') => {
                if !word.is_empty() {
                    path.push(std::mem::take(&mut word));
                }
            }
            Some('{') => {
                chars.next();
                open.push(path);
                while chars.peek().is_some_and(|c| *c != '}') {
                    spread(chars, open, paths);
                    while chars.peek().is_some_and(|c| *c == ',' || c.is_whitespace()) {
                        chars.next();
                    }
                }
                chars.next();
                open.pop();
                return;
            }
            _ => break,
        }
        chars.next();
    }
    if !word.is_empty() {
        path.push(word);
    }
    // An alias is no part of the path.
    if open.len() > 1 {
        while chars.peek().is_some_and(|c| *c != ',' && *c != '}') {
            chars.next();
        }
    }
    paths.insert(path);
}

/// The file that a path leads to: the longest of its beginnings that is a file.
fn target<'a>(path: &[String], files: &'a BTreeMap<String, u32>) -> Option<&'a str> {
    (1..=path.len()).rev().find_map(|length| {
        let stem = path[..length].join("/");
        [format!("{stem}.rs"), format!("{stem}/mod.rs")]
            .iter()
            .find_map(|file| files.get_key_value(file).map(|(file, _)| file.as_str()))
    })
}

fn is_child(user: &str, used: &str) -> bool {
    user.strip_suffix("mod.rs").is_some_and(|folder| used.starts_with(folder))
}

fn layer_faults(path: &str, text: &str, table: &BTreeMap<String, u32>) -> Vec<String> {
    let own = table[path];
    let code = product_code(text);
    let paths = used_paths(&code);
    let files = paths.iter().filter_map(|path| target(path, table));
    let used: BTreeSet<&str> = files.collect();
    let above =
        used.iter().filter(|used| **used != path && !is_child(path, used) && table[**used] >= own);
    above.map(|used| format!("{path} (layer {own}) uses {used} (layer {})", table[*used])).collect()
}

#[test]
fn the_table_of_layers_names_each_file_of_src_and_no_other() {
    let table: BTreeSet<String> = layers().into_keys().collect();
    let files = rust_files("src").into_iter();
    let files: BTreeSet<String> = files.map(|file| file.path["src/".len()..].to_owned()).collect();
    let missing = files.difference(&table).map(|file| format!("{file} is not in the table"));
    let gone = table.difference(&files).map(|file| format!("{file} is only in the table"));
    none(&missing.chain(gone).collect::<Vec<_>>());
}

#[test]
fn a_file_uses_only_what_is_below_it() {
    let table = layers();
    let files = rust_files("src");
    let listed = files.iter().filter(|file| table.contains_key(&file.path["src/".len()..]));
    let faults =
        listed.flat_map(|file| layer_faults(&file.path["src/".len()..], &file.text, &table));
    none(&faults.collect::<Vec<_>>());
}

#[test]
fn the_check_of_layers_would_see_a_fault() {
    let table = [("a.rs", 1), ("b/mod.rs", 2), ("b/c.rs", 1), ("d.rs", 0)];
    let table = table.map(|(file, layer)| (file.to_owned(), layer)).into();
    for (file, text, faults) in [
        ("a.rs", "use crate::d::{E, F as G};", 0),
        ("a.rs", "use crate::b::{self, c::{X, Y}, Z};", 2),
        ("a.rs", "fn f() { crate::b::g() } // crate::b::c", 1),
        ("a.rs", "/// crate::b\nconst T: &str = \"crate::b\";", 0),
        ("a.rs", "#[cfg(test)]\nmod tests {\n    use crate::b;\n}", 0),
        ("b/mod.rs", "use crate::b::c::X;\nuse crate::{a::B, d};", 0),
        ("b/c.rs", "use crate::b::X;\nuse crate::d;", 1),
        ("d.rs", "pub(crate) fn f() {}", 0),
    ] {
        let found = layer_faults(file, text, &table);
        assert_eq!(found.len(), faults, "{file} {text:?}: {found:?}");
    }
}

// === Documents ===

/// The literals in `code` that stand between `"`s and consist of these characters only.
fn literals(code: &str, allowed: impl Fn(char) -> bool) -> BTreeSet<&str> {
    let words = code.split('"').skip(1).step_by(2);
    words.filter(|word| !word.is_empty() && word.chars().all(&allowed)).collect()
}

#[test]
fn every_key_of_the_config_is_in_the_reference() {
    let files = rust_files("src").into_iter();
    let files: Vec<File> = files.filter(|file| file.path.starts_with("src/config/raw/")).collect();
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let keys: BTreeSet<&str> = files.iter().flat_map(|file| literals(&file.text, is_key)).collect();
    let reference = read("config/reference.toml");
    let is_shown = |key: &str| {
        reference.lines().any(|line| {
            let line = line.trim_start_matches(['#', ' ']);
            let is_key =
                line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
            let is_table =
                [format!("[{key}]"), format!(".{key}]")].iter().any(|t| line.contains(t));
            is_key || is_table || line.contains(&format!("or {key} ="))
        })
    };
    assert!(files.len() >= 3 && keys.len() >= 90, "{} files, {keys:?}", files.len());
    // The default of `salt` is a word too.
    let missing = keys.iter().filter(|key| **key != "cutover" && !is_shown(key));
    none(&missing.map(|key| format!("{key} is not in config/reference.toml")).collect::<Vec<_>>());
}

#[test]
fn every_metric_is_in_its_reference() {
    let files = rust_files("src").into_iter();
    let files: Vec<File> = files.filter(|file| file.path.starts_with("src/metrics/")).collect();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = files.iter().flat_map(|file| literals(&file.text, is_name));
    let names: BTreeSet<&str> = names.filter(|name| name.starts_with("cutover_")).collect();
    assert!(files.len() >= 3 && names.len() >= 25, "{names:?}");
    let reference = read("docs/metrics.md");
    let is_word = |name: &str| {
        let ends = |rest: &str| !rest.starts_with(is_name);
        reference.match_indices(name).any(|(at, _)| ends(&reference[at + name.len()..]))
    };
    let missing = names.iter().filter(|name| !is_word(name));
    none(&missing.map(|name| format!("{name} is not in docs/metrics.md")).collect::<Vec<_>>());
}

// === Words ===

#[test]
fn no_test_is_left_out_and_no_work_is_left_without_a_number() {
    let this = "tests/it/tidy.rs";
    let faults = all_files().filter(|file| file.path != this).flat_map(|File { path, text }| {
        let lines = text.lines().enumerate().filter(|(_, line)| {
            let numbered = line.contains("TODO(#");
            line.contains(concat!("#[", "ignore")) || (line.contains("TODO") && !numbered)
        });
        let lines = lines.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim()));
        lines.collect::<Vec<_>>()
    });
    none(&faults.collect::<Vec<_>>());
}

#[test]
fn the_product_neither_unwraps_nor_leaves_gaps() {
    // A file of tests is compiled for tests only.
    let files = rust_files("src").into_iter().filter(|file| !file.path.ends_with("/tests.rs"));
    let faults = files.flat_map(|File { path, text }| {
        let code = product_code(&text);
        let lines = code.lines().enumerate().filter(|(_, line)| {
            [".unwrap()", "todo!", "unimplemented!", "dbg!("].iter().any(|word| line.contains(word))
        });
        let lines = lines.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim()));
        lines.collect::<Vec<_>>()
    });
    none(&faults.collect::<Vec<_>>());
}
