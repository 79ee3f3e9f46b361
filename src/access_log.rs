//! The access log: one JSON line a request, never waited for.
//!
//! A worker formats its lines into a buffer of its own, and hands it on ten times a second (or when
//! it is full) to one writer thread through a bounded channel. Where the writer is behind, lines
//! are dropped and counted. No request waits for a disk, and no line wakes a thread.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::Serialize;

use crate::config::values::LogTarget;
use crate::metrics::shard::Shard;

/// A worker hands its lines on at this size, even before its tick.
const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for the writer, over all workers.
const CHUNKS_MAX: usize = 64;

/// One request, as it is logged. Never a query, a cookie or a credential.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When it ended, RFC 3339.
    pub time: String,
    /// The client's address.
    pub client: std::net::IpAddr,
    /// Method.
    pub method: &'a str,
    /// The target's path, without the query.
    pub target: &'a str,
    /// The path that it took; absent if it was refused before.
    pub path: Option<&'a str>,
    /// The route that matched.
    pub route: Option<&'a str>,
    /// What decided the path.
    pub reason: Option<&'a str>,
    /// What went wrong on the first path, if the other one got the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_over: Option<&'a str>,
    /// Status code; 499 if the client left before it had one.
    pub code: u16,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// Head received to last byte handed over, in milliseconds.
    pub duration_ms: f64,
    /// Body bytes received.
    pub request_bytes: u64,
    /// Body bytes sent.
    pub response_bytes: u64,
    /// The request id.
    pub request_id: &'a str,
    /// The trace that it is part of: 32 hexadecimal digits; absent if it was refused before.
    pub trace_id: Option<&'a str>,
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    sender: SyncSender<Vec<u8>>,
    shard: Arc<Shard>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
}

impl AccessLog {
    /// The end of the worker with `shard`.
    #[must_use]
    pub fn new(sender: SyncSender<Vec<u8>>, shard: Arc<Shard>) -> Self {
        Self { sender, shard, buffer: RefCell::default(), lines: Cell::new(0) }
    }

    /// Logs one request.
    pub fn log(&self, line: &Line<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        // Writing to memory can't fail, nor can a line's fields be refused as JSON.
        let _ = serde_json::to_writer(&mut *buffer, line);
        buffer.push(b'\n');
        self.lines.set(self.lines.get() + 1);
        if buffer.len() >= CHUNK {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands on what there is.
    pub fn flush(&self) {
        let chunk = self.buffer.take();
        let lines = self.lines.replace(0);
        if !chunk.is_empty() && self.sender.try_send(chunk).is_err() {
            self.shard.log_lines_dropped.add(lines);
        }
    }
}

/// The writer thread; it ends when all senders are gone.
#[derive(Debug)]
pub struct Writer {
    thread: thread::JoinHandle<()>,
}

/// Starts the writer for `target`, which counts in `lost` what it can't write; `None` if the log is off.
///
/// # Errors
/// When the file can't be opened or the thread not started.
pub fn start(
    target: &LogTarget,
    lost: Arc<AtomicU64>,
) -> io::Result<Option<(SyncSender<Vec<u8>>, Writer)>> {
    let out: Box<dyn Write + Send> = match target {
        LogTarget::Off => return Ok(None),
        LogTarget::Stdout => Box::new(io::stdout()),
        LogTarget::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    };
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    let builder = thread::Builder::new().name("access-log".to_owned());
    let thread = builder.spawn(move || write_all(out, &receiver, &lost))?;
    Ok(Some((sender, Writer { thread })))
}

impl Writer {
    /// Waits until all that was handed on is written. All senders must be gone.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the access log's writer panicked");
        }
    }
}

fn write_all(mut out: impl Write, chunks: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    // An error has cut the last line short: the next one begins on a line of its own.
    let mut is_torn = false;
    for chunk in chunks {
        if is_torn && out.write_all(b"\n").is_ok() {
            is_torn = false;
        }
        let mut left = &chunk[..];
        while !left.is_empty() {
            match out.write(left) {
                Ok(0) => break,
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "can't write the access log");
                    break;
                }
            }
        }
        if let Err(error) = out.flush() {
            tracing::error!(%error, "can't write the access log");
        }
        let lines = memchr::memchr_iter(b'\n', left).count();
        lost.fetch_add(lines as u64, Ordering::Relaxed);
        let written = &chunk[..chunk.len() - left.len()];
        is_torn |= written.last().is_some_and(|last| *last != b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            time: "2026-01-01T00:00:00Z".to_owned(),
            client: [192, 0, 2, 1].into(),
            method: "GET",
            target: "/a\"\u{7}\n",
            path: Some("async"),
            route: Some("default"),
            reason: Some("spread"),
            failed_over: None,
            code: 200,
            error: None,
            duration_ms: 1.5,
            request_bytes: 0,
            response_bytes: 2,
            request_id: "id",
            trace_id: None,
        }
    }

    #[test]
    fn lines_are_json_whatever_the_client_sent() {
        let (sender, receiver) = sync_channel(1);
        let log = AccessLog::new(sender, Arc::default());
        log.log(&line());
        log.flush();
        let chunk = receiver.recv().unwrap();
        assert_eq!(chunk.iter().filter(|byte| **byte == b'\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_slice(&chunk).unwrap();
        assert_eq!(parsed["target"], "/a\"\u{7}\n");
    }

    #[test]
    fn a_stuck_writer_costs_lines_and_no_time() {
        let (sender, _receiver) = sync_channel(1);
        let shard = Arc::<Shard>::default();
        let log = AccessLog::new(sender, shard.clone());
        for _ in 0..3 {
            log.log(&line());
            log.log(&line());
            log.flush();
        }
        assert_eq!(shard.log_lines_dropped.get(), 4);
    }

    #[test]
    fn what_was_handed_on_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let (sender, writer) =
            start(&LogTarget::File(path.clone()), Arc::default()).unwrap().unwrap();
        let log = AccessLog::new(sender, Arc::default());
        (0..5_000).for_each(|_| log.log(&line()));
        log.flush();
        drop(log);
        writer.finish();
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 5_000);
    }

    /// Has room for so many bytes at each write, as long as there are numbers left.
    struct Filling(Vec<u8>, Vec<usize>);

    impl Write for Filling {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = if self.1.is_empty() { bytes.len() } else { self.1.remove(0) };
            let room = room.min(bytes.len());
            self.0.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_spoil_no_other() {
        let (sender, chunks) = sync_channel(8);
        for chunk in ["one\ntwo\n", "three\n", "four\n"] {
            sender.send(chunk.as_bytes().to_vec()).unwrap();
        }
        drop(sender);
        let lost = AtomicU64::new(0);
        // The second line is cut; then there is no room at all; then there is.
        let mut out = Filling(Vec::new(), vec![5, 0, 0, 0]);
        write_all(&mut out, &chunks, &lost);
        assert_eq!(String::from_utf8(out.0).unwrap(), "one\nt\nfour\n");
        assert_eq!(lost.load(Ordering::Relaxed), 2);
    }
}
