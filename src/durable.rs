//! Files that survive a power cut: written beside, synced, renamed over.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// Replaces the file `name` in `dir` by `content`, whole or not at all, and waits until it is on disk.
///
/// # Errors
/// When the directory can't be written to; the old file is then as it was.
pub fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, dir.join(name))).inspect_err(|_| {
        // What is left of it is of no use; if it can't be removed either, the next one replaces it.
        let _ = fs::remove_file(&temporary);
    })?;
    File::open(dir)?.sync_all()
}

/// Reads a file of at most `bytes_max`; `None` if there is none.
///
/// # Errors
/// When it can't be read, or is larger.
pub fn read(file: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    let opened = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    let read = opened.take(bytes_max + 1).read_to_string(&mut text)?;
    if read as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than the limit of {bytes_max} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_read_with_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        assert_eq!(read(&file, 10).unwrap(), None);
        replace(dir.path(), "a.json", b"one").unwrap();
        replace(dir.path(), "a.json", b"two").unwrap();
        assert_eq!(read(&file, 3).unwrap().as_deref(), Some("two"));
        assert!(read(&file, 2).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_can_not_be_written_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "a.json", b"one").unwrap();
        fs::create_dir(dir.path().join(".a.json.new")).unwrap();
        assert!(replace(dir.path(), "a.json", b"two").is_err());
        let kept = read(&dir.path().join("a.json"), 9).unwrap();
        assert_eq!(kept.as_deref(), Some("one"));
    }
}
