//! What is in the config file and in the files that it names, at one moment.
//!
//! The config file is read at each look. Certificates and keys are larger and may be many, and to read
//! one costs 16 to 110 us where its metadata costs 1 to 2. So that is asked first, and a file is read
//! again only where it has changed, or is so young that another change may have left it as it is.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::{Config, hash, read_text, tls_files_of};
use crate::error::is_out_of_resources;
use crate::tls::{Fingerprint, file};

/// Times of files are this coarse at worst: two seconds on FAT, one on some network file systems.
const COARSEST: Duration = Duration::from_secs(3);

/// Contents by their hash; `None` is a file that can't be read, as between a delete and a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// That of the config file.
    pub(super) text: Option<String>,
    files: BTreeMap<PathBuf, Option<Fingerprint>>,
}

impl Seen {
    /// What a config was made of.
    pub(super) fn of(config: &Config) -> Self {
        let files = config.tls_files().map(|file| (file.path.clone(), Some(file.fingerprint)));
        Self { text: Some(config.hash.clone()), files: files.collect() }
    }
}

/// Looks at a config file and at what it names.
#[derive(Debug)]
pub(super) struct Watched {
    file: PathBuf,
    // The text of this hash names these files.
    named: (String, Vec<PathBuf>),
    known: HashMap<PathBuf, Known>,
}

/// A file that was read when it had this identity.
#[derive(Debug)]
struct Known {
    identity: Identity,
    is_old: bool,
    fingerprint: Fingerprint,
}

/// What differs when a file was written, replaced, or is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    // Not even who sets the time of a file can set this one.
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `now` would show in the times.
    fn is_old(self, now: SystemTime) -> bool {
        let seconds = self.modified.0.max(self.changed.0);
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // A time in the future is no help.
        now.duration_since(latest).is_ok_and(|age| age > COARSEST)
    }
}

impl Watched {
    pub(super) fn new(file: &Path) -> Self {
        let named = (String::new(), Vec::new());
        Self { file: file.to_owned(), named, known: HashMap::new() }
    }

    /// What is there now. `None` when there was no descriptor to look with, which says nothing of the
    /// files.
    pub(super) fn look(&mut self) -> Option<Seen> {
        let text = match read_text(&self.file) {
            Ok(text) => Some(self.name(&text)),
            Err(error) if is_out_of_resources(&error) => return None,
            // What it named is looked at until it is back.
            Err(_) => None,
        };
        let mut files = BTreeMap::new();
        for path in &self.named.1 {
            let fingerprint = match content(&mut self.known, path) {
                Ok(fingerprint) => Some(fingerprint),
                Err(error) if is_out_of_resources(&error) => return None,
                Err(_) => None,
            };
            files.insert(path.clone(), fingerprint);
        }
        Some(Seen { text, files })
    }

    /// Takes over what `text` names; its hash.
    fn name(&mut self, text: &str) -> String {
        let hash = hash(text.as_bytes());
        if self.named.0 != hash {
            let files = tls_files_of(text, &self.file);
            self.known.retain(|path, _| files.contains(path));
            self.named = (hash.clone(), files);
        }
        hash
    }
}

/// The hash of a file's content, by reading it only if need be.
fn content(known: &mut HashMap<PathBuf, Known>, path: &Path) -> io::Result<Fingerprint> {
    let now = SystemTime::now();
    // Before it is read: what is written meanwhile shows at the next look.
    let identity = Identity::of(&fs::metadata(path)?);
    let same = known.get(path).filter(|known| known.is_old && known.identity == identity);
    if let Some(known) = same {
        return Ok(known.fingerprint);
    }
    let fingerprint = Fingerprint::of(&file::read(path)?);
    let is_old = identity.is_old(now);
    known.insert(path.to_owned(), Known { identity, is_old, fingerprint });
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config that names `cert.pem`, `key.pem` and `ca.pem` beside it.
    const TEXT: &str = "[listen.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n\
                        [async]\ntls = { ca = \"ca.pem\" }\n";

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            let dir = Self(tempfile::tempdir().unwrap());
            dir.write("cutover.toml", TEXT);
            for name in ["cert.pem", "key.pem", "ca.pem"] {
                dir.write(name, name);
            }
            dir
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn watched(&self) -> Watched {
            Watched::new(&self.path("cutover.toml"))
        }
    }

    #[test]
    fn a_look_sees_each_named_file_whatever_is_wrong_with_the_text() {
        let dir = Dir::new();
        let mut watched = dir.watched();
        let seen = watched.look().unwrap();
        assert_eq!(seen.files.len(), 3);
        assert!(seen.files.values().all(Option::is_some));
        dir.write("cutover.toml", &format!("{TEXT}[listen\n"));
        assert_eq!(watched.look().unwrap().files, seen.files, "a broken text");
        dir.write("cutover.toml", "async_weight = 0.0\n");
        assert!(watched.look().unwrap().files.is_empty());
    }

    #[test]
    fn a_look_sees_each_change_even_of_the_same_length_within_one_tick_of_the_clock() {
        let dir = Dir::new();
        let mut watched = dir.watched();
        let mut before = watched.look().unwrap();
        for round in 0..100 {
            let name = ["cert.pem", "key.pem", "ca.pem"][round % 3];
            dir.write(name, &format!("{round:08}"));
            let seen = watched.look().unwrap();
            assert_ne!(seen, before, "round {round}");
            assert_eq!(watched.look().unwrap(), seen);
            before = seen;
        }
        fs::remove_file(dir.path("key.pem")).unwrap();
        let gone = watched.look().unwrap();
        assert_eq!(gone.files[&dir.path("key.pem")], None);
        dir.write("key.pem", "key.pem");
        assert_ne!(watched.look().unwrap(), gone);
    }

    #[test]
    fn without_the_text_the_files_are_those_that_it_named() {
        let dir = Dir::new();
        let mut watched = dir.watched();
        let seen = watched.look().unwrap();
        fs::remove_file(dir.path("cutover.toml")).unwrap();
        assert_eq!(watched.look().unwrap(), Seen { text: None, ..seen });
    }

    #[test]
    fn an_old_file_is_not_read_again_while_its_metadata_is_the_same() {
        let dir = Dir::new();
        let path = dir.path("cert.pem");
        let identity = Identity::of(&fs::metadata(&path).unwrap());
        let wrong = Fingerprint::of(b"not what is in it");
        let right = Fingerprint::of(b"cert.pem");
        for (is_old, expected) in [(true, wrong), (false, right)] {
            let known = Known { identity, is_old, fingerprint: wrong };
            let mut known = HashMap::from([(path.clone(), known)]);
            assert!(content(&mut known, &path).unwrap() == expected, "old: {is_old}");
        }
        let mut fresh = HashMap::new();
        content(&mut fresh, &path).unwrap();
        assert!(!fresh[&path].is_old, "it was written just now");
        dir.write("cert.pem", "longer");
        let known = Known { identity, is_old: true, fingerprint: wrong };
        let mut known = HashMap::from([(path.clone(), known)]);
        assert!(content(&mut known, &path).unwrap() == Fingerprint::of(b"longer"));
    }

    #[test]
    fn a_file_is_old_once_its_times_could_tell_another_change() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let identity =
            Identity { inode: (0, 0), bytes: 0, modified: (100, 999_999_999), changed: (90, 0) };
        for (now, is_old) in [(0, false), (100, false), (103, false), (104, true), (1_000, true)] {
            assert_eq!(identity.is_old(at(now)), is_old, "{now}");
        }
        let touched = Identity { modified: (10, 0), changed: (100, 0), ..identity };
        assert!(!touched.is_old(at(102)), "its time was set back");
    }
}
