//! The pieces of the dashboard's markup: texts made harmless, lists, tables.

use serde_json::Value;

use crate::report::html::escape;
use crate::report::story::count;

/// Rows of a list; the API has all of them. With more the page is no glance any more, and each frame is
/// sent each second.
const ROWS_MAX: usize = 50;
/// How long a text from elsewhere may be, in characters.
const TEXT_MAX: usize = 200;

/// What stands where there is no value.
const NOTHING: &str = "–";

/// A text from elsewhere as markup, cut where it is too long.
pub(super) fn safe(text: &str) -> String {
    if text.chars().count() <= TEXT_MAX {
        return escape(text);
    }
    escape(&text.chars().take(TEXT_MAX - 1).chain(['…']).collect::<String>())
}

/// A text of a document.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or(NOTHING)
}

/// A count of a document.
pub(super) fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| NOTHING.to_owned(), count)
}

/// A value, or what stands for it.
pub(super) fn or_nothing(value: Option<String>) -> String {
    value.unwrap_or_else(|| NOTHING.to_owned())
}

/// The first entries of an array.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(ROWS_MAX)
}

/// A list of texts, or the sentence in its place.
pub(super) fn list(lines: &[String], empty: &str) -> String {
    if lines.is_empty() {
        return nothing(empty);
    }
    let items = lines.iter().map(|line| format!("<li>{}</li>", safe(line)));
    format!("<ul>{}</ul>", items.collect::<String>())
}

/// A sentence where there is nothing to show; markup.
pub(super) fn nothing(text: &str) -> String {
    format!("<p class=\"nothing\">{text}</p>")
}

/// The head of a table; a name with `#` in front is that of a column of numbers. Names are classes too.
pub(super) fn head(columns: &[&str]) -> String {
    let cells = columns.iter().enumerate().map(|(place, name)| {
        let (kind, name) = match name.strip_prefix('#') {
            Some(name) => ("number ", name),
            None if place == 0 => ("first ", *name),
            None => ("", *name),
        };
        let class = name.to_lowercase();
        format!("<th scope=\"col\" class=\"{kind}{class}\">{name}</th>")
    });
    format!("<table><thead><tr>{}</tr></thead><tbody>", cells.collect::<String>())
}

/// A row: its name, and cells with their classes, all of them markup.
pub(super) fn row(name: &str, cells: &[(&str, String)]) -> String {
    let cells = cells.iter().map(|(class, cell)| format!("<td class=\"{class}\">{cell}</td>"));
    format!("<tr><th scope=\"row\">{name}</th>{}</tr>", cells.collect::<String>())
}

/// The end of a table.
pub(super) const END: &str = "</tbody></table>";
