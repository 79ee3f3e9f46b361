//! Any text as a config file: it is read the same twice, and an edit of a weight changes nothing else.

use std::path::Path;

use cutover::config::edit::with_weight;
use cutover::config::{Config, ConfigError};
use cutover::vocab::Weight;

/// There is no such directory, so that no name in a config leads to a file of this machine.
const FILE: &str = "/nonexistent/cutover.toml";

/// Weights to write: the ends, a short one, one with many digits, and one that is written with an
/// exponent.
const SHARES: [f64; 5] = [0.0, 1.0, 0.25, 0.123_456_789_012_345_68, 1e-9];

/// Reads `data` as a config file, if it is text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new(FILE);
    match (Config::parse_outline(text, path), Config::parse_outline(text, path)) {
        (Ok(config), Ok(again)) => {
            assert_eq!(shown(&config), shown(&again), "two readings");
            edits(text, &config);
        }
        (Err(fault), Err(again)) => {
            assert_eq!(fault.to_string(), again.to_string(), "two readings");
            places(text, &fault);
            // An edit of a faulty file may fail; it must end.
            let _ = with_weight(text, 0.5, None, path);
        }
        (first, second) => panic!("read as {first:?}, then as {second:?}"),
    }
    // Files of TLS are looked for as well.
    let _ = Config::parse(text, path);
}

/// All that a config says, beside the file's own bytes.
fn shown(config: &Config) -> String {
    let plain = Config { text: String::new(), hash: String::new(), ..config.clone() };
    format!("{plain:?}")
}

/// Each fault is at a place in the file.
fn places(text: &str, error: &ConfigError) {
    let ConfigError::Faults { faults, .. } = error else {
        panic!("a text that was not read from a file: {error}");
    };
    assert!(!faults.is_empty(), "refused, but nothing is wrong with it");
    for fault in faults {
        let line = text.split('\n').nth(fault.line - 1).expect("the fault's line is in the file");
        assert!(fault.column <= line.chars().count() + 1, "{fault} is behind the line's end");
    }
}

fn edits(text: &str, config: &Config) {
    for share in SHARES {
        let weight = Weight::from_share(share).expect("from 0 to 1");
        let edited = edit(text, share, None);
        let mut expected = config.clone();
        expected.weight = weight;
        let got = reread(&edited);
        // A route without a weight of its own follows.
        for (route, got) in expected.routes.iter_mut().zip(&got.routes) {
            let follows = got.weight == weight && route.weight == config.weight;
            if follows {
                route.weight = weight;
            }
        }
        assert_eq!(shown(&got), shown(&expected), "{text:?} became {edited:?}");
    }
    for (place, route) in config.routes.iter().enumerate() {
        let edited = edit(text, 0.25, Some(&route.name));
        let mut expected = config.clone();
        expected.routes[place].weight = Weight::from_share(0.25).expect("from 0 to 1");
        assert_eq!(shown(&reread(&edited)), shown(&expected), "{text:?} became {edited:?}");
    }
}

fn edit(text: &str, share: f64, route: Option<&str>) -> String {
    let edited = with_weight(text, share, route, Path::new(FILE)).expect("a sound file");
    let (old, new) = changed(text, &edited);
    // What differs is within a number, or is a whole new line.
    let is_number =
        |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    let is_line = old.is_empty() && new.contains("async_weight") && new.matches('\n').count() <= 2;
    assert!((is_number(old) && is_number(new)) || is_line, "{old:?} became {new:?} in {text:?}");
    edited
}

/// The parts in which two texts differ.
fn changed<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    let same = |(left, right): &(char, char)| left == right;
    let start: usize =
        old.chars().zip(new.chars()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
    let (old, new) = (&old[start..], &new[start..]);
    let backwards = old.chars().rev().zip(new.chars().rev());
    let end: usize = backwards.take_while(same).map(|(c, _)| c.len_utf8()).sum();
    (&old[..old.len() - end], &new[..new.len() - end])
}

fn reread(text: &str) -> Config {
    Config::parse_outline(text, Path::new(FILE)).expect("an edited file that is as sound as before")
}
