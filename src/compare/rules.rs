//! A route's rules for comparing JSON: JSON pointers (RFC 6901), and where they apply.
//!
//! Pure but for the counts of hits: a rule that has none is stale, and the report shows it. A pointer's
//! `*` stands for any one member or element.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest pointer, in bytes: deeper documents than this can name are not compared either.
const POINTER_BYTES_MAX: usize = 1024;

/// Where in a document something is, member by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A member of an object.
    Member(&'a str),
    /// An element of an array.
    Element(usize),
}

/// A JSON pointer in which `*` stands for any one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: String,
    steps: Vec<Wanted>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Any,
    Name(String),
}

/// What a rule does where its pointer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing there is compared.
    Ignore,
    /// Types and names are compared there, values are not.
    ShapeOnly,
    /// The array there has no order.
    Unordered,
    /// Values there may be shown.
    Reveal,
}

/// A route's rules. Not `Clone`: it counts its hits.
#[derive(Debug, Default)]
pub struct CompareRules {
    lists: [Vec<Rule>; 4],
    tolerance: f64,
    tolerance_hits: AtomicU64,
}

#[derive(Debug)]
struct Rule {
    pointer: Pointer,
    hits: AtomicU64,
}

// === impl Pointer ===

impl Pointer {
    /// Parses a pointer: empty for the whole document, else each step behind a `/`, with `~1` for a
    /// slash and `~0` for a tilde in a name.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > POINTER_BYTES_MAX {
            return Err("a pointer has at most 1024 bytes");
        }
        let steps = match text.strip_prefix('/') {
            None if text.is_empty() => Vec::new(),
            None => return Err("a JSON pointer begins with /"),
            Some(rest) => rest.split('/').map(wanted).collect::<Result<_, _>>()?,
        };
        Ok(Self { text: text.to_owned(), steps })
    }

    fn leads_to(&self, path: &[Step<'_>]) -> bool {
        let mut both = self.steps.iter().zip(path);
        self.steps.len() == path.len()
            && both.all(|(wanted, step)| match (wanted, step) {
                (Wanted::Any, _) => true,
                (Wanted::Name(name), Step::Member(member)) => name == member,
                (Wanted::Name(name), Step::Element(at)) => name.parse() == Ok(*at),
            })
    }
}

fn wanted(step: &str) -> Result<Wanted, &'static str> {
    if step == "*" {
        return Ok(Wanted::Any);
    }
    let is_escaped = |rest: &str| rest.starts_with(['0', '1']);
    if !step.split('~').skip(1).all(is_escaped) {
        return Err("~ in a JSON pointer is written ~0, and / in a name ~1");
    }
    Ok(Wanted::Name(step.replace("~1", "/").replace("~0", "~")))
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Effect ===

impl Effect {
    /// All of them, in the order of the config's keys.
    pub const ALL: [Self; 4] = [Self::Ignore, Self::ShapeOnly, Self::Unordered, Self::Reveal];

    /// The config's key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::ShapeOnly => "shape_only",
            Self::Unordered => "unordered",
            Self::Reveal => "reveal",
        }
    }
}

// === impl CompareRules ===

impl CompareRules {
    /// Rules with these pointers; numbers may differ by `tolerance` as a part of the larger one (0: not
    /// at all; a value below 0 or none at all is 0).
    #[must_use]
    pub fn new(
        ignore: &[Pointer],
        shape_only: &[Pointer],
        unordered: &[Pointer],
        reveal: &[Pointer],
        tolerance: f64,
    ) -> Self {
        let rule = |pointer: &Pointer| Rule { pointer: pointer.clone(), hits: AtomicU64::new(0) };
        Self {
            lists: [ignore, shape_only, unordered, reveal]
                .map(|list| list.iter().map(rule).collect()),
            tolerance: if tolerance > 0.0 { tolerance } else { 0.0 },
            tolerance_hits: AtomicU64::new(0),
        }
    }

    /// Whether a rule with this effect leads to `path`; that counts as its hit.
    #[must_use]
    pub fn apply(&self, effect: Effect, path: &[Step<'_>]) -> bool {
        let rule = self.find(effect, path);
        rule.inspect(|rule| _ = rule.hits.fetch_add(1, Ordering::Relaxed)).is_some()
    }

    /// The same without counting.
    #[must_use]
    pub fn has(&self, effect: Effect, path: &[Step<'_>]) -> bool {
        self.find(effect, path).is_some()
    }

    fn find(&self, effect: Effect, path: &[Step<'_>]) -> Option<&Rule> {
        self.lists[effect as usize].iter().find(|rule| rule.pointer.leads_to(path))
    }

    /// How far numbers may differ, as a part of the larger one.
    #[must_use]
    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }

    /// Two numbers differed within the tolerance.
    pub fn tolerated(&self) {
        self.tolerance_hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Each rule as it is written, and how often it applied.
    pub fn hits(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
        let pointers = Effect::ALL.into_iter().zip(&self.lists).flat_map(|(effect, list)| {
            list.iter().map(move |rule| {
                let hits = rule.hits.load(Ordering::Relaxed);
                (effect.name(), rule.pointer.to_string(), hits)
            })
        });
        let hits = self.tolerance_hits.load(Ordering::Relaxed);
        let tolerance = (self.tolerance > 0.0).then(|| self.tolerance.to_string());
        pointers.chain(tolerance.map(|text| ("tolerance", text, hits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_where_rfc_6901_says() {
        use Step::{Element, Member};
        for (pointer, path, expected) in [
            ("", &[][..], true),
            ("", &[Member("a")], false),
            ("/a", &[Member("a")], true),
            ("/a", &[Member("a"), Member("b")], false),
            ("/a~1b", &[Member("a/b")], true),
            ("/m~0n", &[Member("m~n")], true),
            ("/~01", &[Member("~1")], true),
            ("/", &[Member("")], true),
            ("/items/0/id", &[Member("items"), Element(0), Member("id")], true),
            ("/items/1/id", &[Member("items"), Element(0), Member("id")], false),
            ("/items/*/id", &[Member("items"), Element(7), Member("id")], true),
            ("/*", &[Member("any")], true),
            ("/*", &[], false),
        ] {
            assert_eq!(Pointer::parse(pointer).unwrap().leads_to(path), expected, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["a", "a/b", "/a~", "/~2", &format!("/{}", "x".repeat(1024))] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_rule_counts_its_own_hits() {
        let pointer = |text| Pointer::parse(text).unwrap();
        let (used, stale) = (pointer("/a"), pointer("/b"));
        let rules = CompareRules::new(&[used, stale], &[], &[], &[pointer("/a")], 0.01);
        assert!(rules.apply(Effect::Ignore, &[Step::Member("a")]));
        assert!(!rules.apply(Effect::Unordered, &[Step::Member("a")]));
        assert!(rules.has(Effect::Reveal, &[Step::Member("a")]));
        rules.tolerated();
        let hits: Vec<_> = rules.hits().collect();
        let expected = [
            ("ignore", "/a", 1),
            ("ignore", "/b", 0),
            ("reveal", "/a", 0),
            ("tolerance", "0.01", 1),
        ];
        assert_eq!(hits, expected.map(|(rule, text, hits)| (rule, text.to_owned(), hits)));
    }

    #[test]
    fn a_tolerance_that_is_none_tolerates_nothing() {
        for tolerance in [-1.0, 0.0, f64::NAN] {
            assert_eq!(CompareRules::new(&[], &[], &[], &[], tolerance).tolerance(), 0.0);
        }
    }
}
