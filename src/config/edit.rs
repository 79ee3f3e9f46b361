//! Edits one weight in a config file and leaves every other byte of it as it was.
//!
//! Written to a file beside it and renamed over it, with mode and owner kept, so that no reader
//! ever sees half a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Formatted, Item, Value};

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
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        EditError::Syntax { path: path.to_owned(), message: error.to_string() }
    })?;
    let table = match route {
        None => document.as_table_mut(),
        Some(name) => document
            .get_mut("route")
            .and_then(Item::as_array_of_tables_mut)
            .and_then(|routes| {
                routes
                    .iter_mut()
                    .find(|route| route.get("name").and_then(Item::as_str) == Some(name))
            })
            .ok_or_else(|| EditError::NoRoute { path: path.to_owned(), name: name.to_owned() })?,
    };
    let mut value = Value::Float(Formatted::new(share));
    if let Some(item) = table.get_mut("async_weight") {
        // Comments and spaces around the number are the operator's.
        if let Some(old) = item.as_value() {
            *value.decor_mut() = old.decor().clone();
        }
        *item = Item::Value(value);
    } else {
        table.insert("async_weight", Item::Value(value));
    }
    Ok(document.to_string())
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
