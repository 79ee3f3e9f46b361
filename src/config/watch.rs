//! Notices a changed config file, and changed files that it names, whichever way they were changed.
//!
//! An in-place write, a rename over the file, a delete-and-create, a swapped symlink (as Kubernetes
//! does with `..data`) and a bind mount look different to inotify, and some not at all. So the
//! directory is watched, and the contents' hashes are polled too. A change counts once two looks in a
//! row agree, so that a file caught half-written is not read as a whole one. A certificate and its key
//! that are replaced one after the other don't match in between: that is refused, and mended by the
//! look that sees the second.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::config::look::{Seen, Watched};
use crate::publisher::Publisher;

/// A look is taken at least this often.
const POLL: Duration = Duration::from_millis(150);
/// How long after a refusal for a passing reason the same file is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a content must stay the same.
const SETTLE: Duration = Duration::from_millis(50);

/// Reloads whenever the content of the file, or of one that it names, has changed. Never ends.
pub async fn run(publisher: Arc<Publisher>) {
    let (events, mut changed) = mpsc::channel(1);
    let file = publisher.file().to_owned();
    let _watcher = watch_directory(&file, events);
    let mut watched = Watched::new(&file);
    let mut known = Seen::of(&publisher.current().config);
    // When a file that was refused for a passing reason is tried again.
    let mut again: Option<Instant> = None;
    loop {
        // An event only shortens the wait for the next look; a closed channel means no inotify.
        if let Ok(None) = timeout(POLL, changed.recv()).await {
            sleep(POLL).await;
        }
        let is_due = again.is_some_and(|at| at <= Instant::now());
        let Some(seen) = watched.look().filter(|seen| *seen != known || is_due) else {
            continue;
        };
        sleep(SETTLE).await;
        if watched.look().as_ref() != Some(&seen) {
            continue;
        }
        known = seen;
        if known.text.is_none() {
            tracing::warn!(file = %file.display(), "config file can't be read");
        }
        let publisher = publisher.clone();
        // Reading and name resolution may block; the control plane goes on meanwhile.
        let reloaded = tokio::task::spawn_blocking(move || publisher.reload()).await;
        again = match reloaded {
            Ok(Err(error)) if error.is_passing() => Some(Instant::now() + AGAIN),
            Ok(_) => None,
            Err(_) => {
                tracing::error!("reload panicked");
                None
            }
        };
    }
}

fn watch_directory(file: &Path, events: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let name = file.file_name().map(OsStr::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !is_of_file(&event, name.as_deref())) {
            return;
        }
        // Full: a look is due already.
        let _ = events.try_send(());
    })
    .ok()?;
    match watcher.watch(directory, RecursiveMode::NonRecursive) {
        Ok(()) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "can't watch the config's directory, polling only");
            None
        }
    }
}

/// Whether an event may be a change of the file. Our own reading is none, or one look would cause
/// the next; nor is what happens to others in the directory, but for the link that Kubernetes swaps.
fn is_of_file(event: &notify::Event, name: Option<&OsStr>) -> bool {
    let is_named = |path: &std::path::PathBuf| {
        let changed = path.file_name();
        changed == name || changed == Some(OsStr::new("..data"))
    };
    !event.kind.is_access() && event.paths.iter().any(is_named)
}
