//! A part of the report: a title, and a table of words.
//!
//! Knows neither terminal nor page, nor what is told.

use std::ops::Range;

/// The rows of a section: more than a person reads, while a report stays small.
pub(super) const ROWS_MAX: usize = 200;

/// A part of the report.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) intro: String,
    pub(super) columns: &'static [&'static str],
    /// Those that hold numbers.
    pub(super) numbers: Range<usize>,
    pub(super) rows: Vec<Row>,
    /// Said in place of a table without rows.
    pub(super) empty: &'static str,
}

/// A row of a table, with the lines that explain it.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) below: String,
    pub(super) mark: Mark,
}

/// What a row tells at a glance, in words first: a page may colour it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mark {
    #[default]
    Plain,
    Good,
    Bad,
    Open,
}

/// What stands where there is no value.
pub(super) const NOTHING: &str = "-";

pub(super) fn row<const N: usize>(cells: [String; N]) -> Row {
    Row { cells: cells.into(), ..Row::default() }
}

pub(super) fn or_nothing(value: Option<String>) -> String {
    value.unwrap_or_else(|| NOTHING.to_owned())
}

pub(super) fn newest<T>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().skip(all.len().saturating_sub(ROWS_MAX))
}

pub(super) fn cut_short(all: usize, shown: usize) -> String {
    if all <= shown {
        return String::new();
    }
    format!("The last {shown} of {all}; all of them are in the JSON report.")
}
