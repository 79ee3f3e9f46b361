//! Reads a TOML table key by key, and collects every fault with its line and column.
//!
//! serde stops at the first fault. An operator who mends a file wants all of them, so each key is
//! deserialized on its own, and what is left over in a table at its end is an unknown key.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// One thing wrong with a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// The key, with its tables: `legacy.queue_depth`. Empty where the syntax is broken.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// Whether it may be gone a moment later, with the same file.
    pub is_passing: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// The faults of one file, as they are found.
#[derive(Debug)]
pub(crate) struct Faults<'a> {
    source: &'a str,
    found: RefCell<Vec<Fault>>,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(source: &'a str) -> Self {
        Self { source, found: RefCell::default() }
    }

    pub(crate) fn add(&self, span: Range<usize>, key: String, message: impl Into<String>) {
        self.push(span, key, message.into(), false);
    }

    /// Records a fault that may be gone a moment later.
    pub(crate) fn add_passing(&self, span: Range<usize>, key: String, message: String) {
        self.push(span, key, message, true);
    }

    fn push(&self, span: Range<usize>, key: String, message: String, is_passing: bool) {
        let before = self.source.get(..span.start).unwrap_or(self.source);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.found.borrow_mut().push(Fault {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key,
            message,
            is_passing,
        });
    }

    /// All faults in the order of the file.
    pub(crate) fn into_found(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|fault| (fault.line, fault.column));
        found
    }
}

/// One table of a config file.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    name: String,
    span: Range<usize>,
    entries: Vec<(String, Range<usize>, Spanned<DeValue<'a>>)>,
    faults: &'a Faults<'a>,
}

impl<'a> Section<'a> {
    /// The whole document. Syntax faults are recorded; what could be read is there.
    pub(crate) fn document(faults: &'a Faults<'a>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(faults.source);
        for error in errors {
            faults.add(error.span().unwrap_or_default(), String::new(), error.message());
        }
        Self::new(String::new(), 0..0, table.into_inner(), faults)
    }

    fn new(name: String, span: Range<usize>, table: DeTable<'a>, faults: &'a Faults<'a>) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), key.span(), value))
            .collect();
        Self { name, span, entries, faults }
    }

    /// The name of `key` with the table's own in front of it.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn remove(&mut self, key: &str) -> Option<Spanned<DeValue<'a>>> {
        let index = self.entries.iter().position(|(name, _, _)| name == key)?;
        Some(self.entries.swap_remove(index).2)
    }

    /// Whether `key` is there, faulty or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _, _)| name == key)
    }

    /// Where the value of `key` begins, if it is there and was not yet read.
    pub(crate) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.entries.iter().find(|(name, _, _)| name == key).map(|(_, _, value)| value.span())
    }

    /// Where the table begins.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of `key` with its place; `None` if it is absent or faulty.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<Spanned<T>> {
        let value = self.remove(key)?;
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(Spanned::new(span, value)),
            Err(error) => {
                let at = error.span().unwrap_or(span);
                self.faults.add(at, self.key(key), error.message());
                None
            }
        }
    }

    /// The value of `key`, or its default if it is absent or faulty.
    pub(crate) fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.optional(key).map_or(default, Spanned::into_inner)
    }

    /// The value of `key`, whose absence is a fault.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, key: &str) -> Option<Spanned<T>> {
        if !self.has(key) {
            self.faults.add(self.span.clone(), self.key(key), "is missing");
        }
        self.optional(key)
    }

    /// The table `key`; an empty one if it is absent.
    pub(crate) fn section(&mut self, key: &str) -> Self {
        let name = self.key(key);
        match self.remove(key) {
            None => Self::new(name, self.span.clone(), DeTable::new(), self.faults),
            Some(value) => self.table(name, value),
        }
    }

    /// The tables of the array `key`.
    pub(crate) fn sections(&mut self, key: &str) -> Vec<Self> {
        let name = self.key(key);
        let Some(value) = self.remove(key) else {
            return Vec::new();
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(tables) => {
                tables.into_iter().map(|table| self.table(name.clone(), table)).collect()
            }
            _ => {
                self.faults.add(span, name, "must be an array of tables");
                Vec::new()
            }
        }
    }

    fn table(&self, name: String, value: Spanned<DeValue<'a>>) -> Self {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Self::new(name, span, table, self.faults),
            _ => {
                self.faults.add(span.clone(), name.clone(), "must be a table");
                Self::new(name, span, DeTable::new(), self.faults)
            }
        }
    }

    /// Records a fault of the key at `span`.
    pub(crate) fn fault(&self, span: Range<usize>, key: &str, message: impl Into<String>) {
        self.faults.add(span, self.key(key), message);
    }

    /// Ends the table: each key that nobody asked for is a fault.
    pub(crate) fn finish(self) {
        for (key, span, _) in &self.entries {
            self.faults.add(span.clone(), self.key(key), "is not a known key");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_with_line_and_column() {
        let source = "a = 1\nb = \"x\"\n\n[t]\nd = true\nunknown = 2\n";
        let faults = Faults::new(source);
        let mut document = Section::document(&faults);
        assert_eq!(document.or("a", 0), 1);
        assert_eq!(document.or("b", 7), 7);
        let mut table = document.section("t");
        assert_eq!(table.or("d", 5), 5);
        table.required::<u32>("e");
        table.finish();
        document.finish();
        let found: Vec<String> = faults.into_found().iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("2:5: `b`: "), "{found:?}");
        assert!(found[1].starts_with("4:") && found[1].contains("`t.e`: is missing"), "{found:?}");
        assert!(found[2].starts_with("5:5: `t.d`: "), "{found:?}");
        assert_eq!(found[3], "6:1: `t.unknown`: is not a known key");
    }

    #[test]
    fn broken_syntax_has_a_place() {
        let faults = Faults::new("a = 1\nb = = 2\n");
        Section::document(&faults).finish();
        let found = faults.into_found();
        assert!(found.iter().any(|fault| fault.line == 2), "{found:?}");
    }
}
