//! Edits one weight in a config file and leaves every other byte of it as it was.
//!
//! Written to a file beside it and renamed over it, with mode and owner kept, so that no reader
//! ever sees half a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, Table, TableLike, Value};

const WEIGHT: &str = "async_weight";

/// What some editors begin a file with; TOML leaves it out.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why the weight was not edited.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file could not be read or written.
    #[error("can't edit {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// The file has no such route.
    #[error("{}: no route is called `{name}`", path.display())]
    NoRoute {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// The text of a config with another weight: the global one, or that of `route`.
///
/// # Errors
/// When the text is not TOML or has no such route.
pub fn with_weight(
    text: &str,
    share: f64,
    route: Option<&str>,
    path: &Path,
) -> Result<String, EditError> {
    let document = Document::parse(text)
        .map_err(|error| EditError::Syntax { path: path.to_owned(), message: error.to_string() })?;
    let table: &dyn TableLike = match route {
        None => document.as_table(),
        Some(name) => named_route(document.as_table(), name)
            .ok_or_else(|| EditError::NoRoute { path: path.to_owned(), name: name.to_owned() })?,
    };
    let number = Value::from(share).to_string();
    // The parsed document only says where: written out again, it would have other line ends.
    if let Some(span) = table.get(WEIGHT).and_then(Item::as_value).and_then(Value::span) {
        return Ok([&text[..span.start], &number, &text[span.end..]].concat());
    }
    let values = table.iter().filter_map(|(_, item)| item.as_value()?.span());
    let last = values.map(|span| span.end).max();
    let in_braces = route.is_some() && !document.contains_array_of_tables("route");
    Ok(inserted(text, last, in_braces, &format!("{WEIGHT} = {number}")))
}

fn named_route<'a>(document: &'a Table, name: &str) -> Option<&'a dyn TableLike> {
    let is_named = |route: &&dyn TableLike| route.get("name").and_then(Item::as_str) == Some(name);
    match document.get("route")? {
        Item::ArrayOfTables(routes) => {
            routes.iter().map(|route| route as &dyn TableLike).find(is_named)
        }
        Item::Value(Value::Array(routes)) => {
            let tables = routes.iter().filter_map(Value::as_inline_table);
            tables.map(|route| route as &dyn TableLike).find(is_named)
        }
        Item::None | Item::Value(_) | Item::Table(_) => None,
    }
}
/// `text` with a new pair behind the table's last value, which ends at `last`: within a table in braces,
/// else as a line of its own.
fn inserted(text: &str, last: Option<usize>, in_braces: bool, pair: &str) -> String {
    let Some(last) = last else {
        let start = text.len() - text.trim_start_matches(BYTE_ORDER_MARK).len();
        return format!("{}{pair}\n{}", &text[..start], &text[start..]);
    };
    if in_braces {
        return format!("{}, {pair}{}", &text[..last], &text[last..]);
    }
    let Some(rest) = text[last..].find('\n') else {
        return format!("{text}\n{pair}\n");
    };
    let (before, behind) = text.split_at(last + rest + 1);
    let line_end = if before.ends_with("\r\n") { "\r\n" } else { "\n" };
    format!("{before}{pair}{line_end}{behind}")
}

/// Replaces a file's content by rename; mode and owner stay.
///
/// # Errors
/// When the directory can't be written to, or the owner can't be kept.
pub fn replace(path: &Path, content: &str) -> Result<(), EditError> {
    let failed = |source| EditError::File { path: path.to_owned(), source };
    // A link is followed, so that it goes on being one.
    let target = fs::canonicalize(path).map_err(failed)?;
    let temporary = target.with_extension(format!("tmp-{}", std::process::id()));
    let written = write_beside(&target, &temporary, content);
    if written.is_err() {
        // What could not be finished is not left lying about; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

fn write_beside(target: &Path, temporary: &Path, content: &str) -> io::Result<()> {
    let old = fs::metadata(target)?;
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(content.as_bytes())?;
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(old.mode()))?;
    file.sync_all()?;
    fs::rename(temporary, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# why\nasync_weight = 0.10   # edit me\n\n[listen]\naddress = \"a\"\n\n\
                        [[route]]\nname = \"pay\"\nmatch = \"* /\"\n";

    fn edited(route: Option<&str>) -> Result<String, EditError> {
        with_weight(TEXT, 0.25, route, Path::new("c.toml"))
    }

    #[test]
    fn one_number_changes_and_nothing_else() {
        assert_eq!(edited(None).unwrap(), TEXT.replace("0.10", "0.25"));
    }

    #[test]
    fn line_ends_and_a_byte_order_mark_stay() {
        let text = format!("\u{feff}{}", TEXT.replace('\n', "\r\n"));
        let edited = |route| with_weight(&text, 0.25, route, Path::new("c.toml")).unwrap();
        assert_eq!(edited(None), text.replace("0.10", "0.25"));
        assert_eq!(edited(Some("pay")), format!("{text}async_weight = 0.25\r\n"));
    }

    #[test]
    fn a_route_in_braces_is_a_route() {
        let text =
            "route = [{ name = \"pay\", match = \"* /\" }, { name = \"b\", async_weight = 1 }]";
        let edited = |route| with_weight(text, 0.25, Some(route), Path::new("c.toml")).unwrap();
        assert_eq!(edited("pay"), text.replace("\"* /\"", "\"* /\", async_weight = 0.25"));
        assert_eq!(edited("b"), text.replace("= 1", "= 0.25"));
    }

    #[test]
    fn a_weight_that_is_missing_stands_behind_the_last_value_or_first() {
        let edited = |text| with_weight(text, 0.5, None, Path::new("c.toml")).unwrap();
        assert_eq!(edited("a = 1 # b\n\n[c]\n"), "a = 1 # b\nasync_weight = 0.5\n\n[c]\n");
        assert_eq!(edited("a = 1"), "a = 1\nasync_weight = 0.5\n");
        assert_eq!(edited("\u{feff}[c]\n"), "\u{feff}async_weight = 0.5\n[c]\n");
    }

    #[test]
    fn a_route_gets_a_weight_of_its_own() {
        assert_eq!(edited(Some("pay")).unwrap(), format!("{TEXT}async_weight = 0.25\n"));
        assert!(matches!(edited(Some("gone")), Err(EditError::NoRoute { .. })));
    }

    #[test]
    fn mode_is_kept_and_links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("real.toml");
        let link = dir.path().join("link.toml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
