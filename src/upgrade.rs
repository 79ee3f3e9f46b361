//! An upgrade: this process starts its successor, hands all over to it, or takes all back.
//!
//! The successor is whatever lies at the place of this program now. Until it has said that nothing is left that
//! could fail, this process serves as if nothing had happened: one that can't be started, ends, or is late is
//! killed, and why is told. Only while the successor reads the state directory does the guard rest.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::guard::desk::Guard;
use crate::handover::{Bequest, Label, Line, Message, Role, SOCKETS_MAX, SUCCEEDS, VERSION};
use crate::relief::{Failure, Relief, Successor};
use crate::sockets::Labelled;

/// How long the guard rests at most: a look-up of names takes 5 s, all else far less.
const REST_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether the upgrade is called off.
const LOOK: Duration = Duration::from_millis(50);
/// How much of what a successor says is kept, in bytes: its last line is in it.
const SAID_MAX: usize = 4 << 10;
/// Names without an address that a successor is told of. It refuses to take over if there are more, as it does
/// for any name that only the old process has addresses of.
const UNRESOLVED_MAX: usize = 64;
/// How long the last words of a successor that has ended are waited for; children of its own may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is run in an upgrade.
#[derive(Clone, Debug)]
pub struct Program {
    file: PathBuf,
    arguments: Vec<OsString>,
}

/// The upgrades of this process.
#[derive(Debug)]
pub struct Upgrades {
    program: Option<Program>,
    guard: Arc<Guard>,
    relief: Relief,
    // Held by the one that is under way; empty once all is handed on, or given up.
    sockets: Mutex<Vec<Labelled>>,
    is_called_off: AtomicBool,
}

impl Program {
    /// This program. Its place is where it was called, so that a link there may lead elsewhere by then.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn own() -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        let called = if called.is_absolute() {
            vec![called]
        } else if called.components().count() > 1 {
            vec![std::env::current_dir()?.join(called)]
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|dir| dir.join(&called)).collect()
        };
        let mut called = called.into_iter();
        let is_running = |file: &PathBuf| file.canonicalize().is_ok_and(|file| file == running);
        let file = called.find(is_running).unwrap_or(running);
        Ok(Self { file, arguments: arguments.collect() })
    }

    /// Starts it with `line` as its standard input; what it says goes through this process.
    fn start(&self, line: std::os::fd::OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.file);
        command.args(&self.arguments).env(SUCCEEDS, std::process::id().to_string());
        // They are about this process alone.
        for gone in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(gone);
        }
        command.stdin(line).stderr(Stdio::piped()).spawn()
    }
}

impl Upgrades {
    /// Upgrades of this process to `program`, if there is one; `sockets` are handed on, `relief` tells of it.
    #[must_use]
    pub fn new(
        program: Option<Program>,
        sockets: Vec<Labelled>,
        guard: Arc<Guard>,
        relief: Relief,
    ) -> Self {
        let sockets = Mutex::new(sockets);
        Self { program, guard, relief, sockets, is_called_off: AtomicBool::new(false) }
    }

    /// Whether and by whom this process is relieved.
    #[must_use]
    pub fn relief(&self) -> &Relief {
        &self.relief
    }

    /// Hands everything over to a new process, which has to be ready within `patience`. Blocks.
    ///
    /// # Errors
    /// Why there is no new process; this one goes on as before.
    pub fn run(&self, patience: Duration) -> Result<Successor, Failure> {
        let refused = |why| Err(Failure::Refused(why));
        let Some(program) = &self.program else {
            return refused("only `cutover run` can be upgraded");
        };
        if std::process::id() == 1 {
            return refused("this is process 1, with which all others would end");
        }
        let mut sockets = match self.sockets.try_lock() {
            Ok(sockets) => sockets,
            Err(TryLockError::WouldBlock) => return refused("an upgrade is under way"),
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
        };
        if self.relief.successor().is_some() || self.is_called_off.load(Ordering::Acquire) {
            return refused("this process is about to end");
        }
        tracing::info!(program = %program.file.display(), "upgrade begins");
        let end = Instant::now() + patience;
        let done = self.hand_over(program, &sockets, end);
        let metrics = self.guard.publisher().metrics();
        match &done {
            Ok(Successor { pid, seconds }) => {
                metrics.upgraded(true, 1);
                tracing::info!(pid, seconds, "upgraded: the new process has taken over");
                sockets.clear();
            }
            Err(error) => {
                metrics.upgraded(false, 1);
                tracing::error!(%error, "not upgraded: this process goes on");
            }
        }
        done
    }

    /// Ends an upgrade that is under way, unless it succeeds this moment, and lets no other begin. Blocks until
    /// it has ended.
    pub fn call_off(&self) {
        self.is_called_off.store(true, Ordering::Release);
        let sockets = self.sockets.lock();
        // Else a socket of this process would stay open until its end.
        sockets.unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    fn hand_over(
        &self,
        program: &Program,
        sockets: &[Labelled],
        end: Instant,
    ) -> Result<Successor, Failure> {
        let began = Instant::now();
        let failed = |error: io::Error| Failure::Failed(format!("can't be started: {error}"));
        let (line, theirs) = Line::pair().map_err(failed)?;
        let mut child = program.start(theirs).map_err(failed)?;
        let said = pass_on(&mut child);
        match self.converse(&line, sockets, end) {
            Ok(taken) => {
                let (pid, seconds) = (child.id(), began.elapsed().as_secs_f64());
                let successor = Successor { pid, seconds };
                self.relief.complete(successor, taken.into_iter().collect());
                look_after(child);
                Ok(successor)
            }
            Err(why) => Err(Failure::Failed(end_of(child, &said, &why))),
        }
    }

    /// The conversation with a successor; addresses that it has taken.
    fn converse(
        &self,
        line: &Line,
        sockets: &[Labelled],
        end: Instant,
    ) -> io::Result<Vec<std::net::SocketAddr>> {
        line.be_patient_for(LOOK)?;
        give(line, sockets)?;
        let Message::Prepared = self.hear(line, end)? else {
            return Err(io::Error::other("says what is not expected"));
        };
        // It reads what must not be written meanwhile.
        let mut rest = self.guard.rest();
        let publisher = self.guard.publisher();
        let (succeeded, failed) = publisher.metrics().upgrades();
        let unresolved = publisher.names().into_iter().filter(|(_, is_answered)| !is_answered);
        let bequest = Bequest {
            succeeded: succeeded + 1,
            failed,
            returns: publisher.returns(),
            unresolved: unresolved.map(|(name, _)| name.to_string()).take(UNRESOLVED_MAX).collect(),
        };
        line.say(&Message::Go(bequest), &[])?;
        let Message::Ready { taken } = self.hear(line, end.min(Instant::now() + REST_MAX))? else {
            return Err(io::Error::other("says what is not expected"));
        };
        if self.is_called_off.load(Ordering::Acquire) {
            return Err(called_off());
        }
        line.say(&Message::Commit, &[])?;
        rest.for_good();
        Ok(taken)
    }

    fn hear(&self, line: &Line, end: Instant) -> io::Result<Message> {
        loop {
            match line.hear() {
                Ok((message, _)) => return Ok(message),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if self.is_called_off.load(Ordering::Acquire) => {
                    return Err(called_off());
                }
                Err(_) if Instant::now() >= end => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
        }
    }
}

fn called_off() -> io::Error {
    io::Error::other("is not wanted any more: this one ends")
}

/// Says so if a successor ends while this process still drains: its parent is the one that sees it.
fn look_after(mut child: Child) {
    let looking = thread::Builder::new().name("successor's end".to_owned()).spawn(move || {
        let pid = child.id();
        let ended = child.wait();
        let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!(pid, status, "the process that has taken over has ended");
    });
    if let Err(error) = looking {
        tracing::warn!(%error, "nobody looks after the new process");
    }
}

/// Sends the sockets, and where errors are written to.
fn give(line: &Line, sockets: &[Labelled]) -> io::Result<()> {
    let (stderr, unnamed) = (io::stderr(), String::new());
    let configured = unnamed.clone();
    let errors = Label { role: Role::Errors, configured, bound: unnamed, is_kept: false };
    let mut all: Vec<_> = sockets.iter().map(|s| (s.label.clone(), s.socket.as_fd())).collect();
    all.push((errors, stderr.as_fd()));
    let mut left = all.len();
    for part in all.chunks(SOCKETS_MAX) {
        left -= part.len();
        let (labels, sockets): (Vec<_>, Vec<_>) = part.iter().cloned().unzip();
        line.say(&Message::Sockets { version: VERSION, labels, more: left > 0 }, &sockets)?;
    }
    Ok(())
}

/// Passes on what a successor says until it writes elsewhere; the end of it.
fn pass_on(child: &mut Child) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    let Some(mut pipe) = child.stderr.take() else {
        return receiver;
    };
    let passing = thread::Builder::new().name("successor".to_owned()).spawn(move || {
        let mut said = Vec::new();
        let mut buffer = [0; SAID_MAX];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            // Nobody is left to be told that it can't be written.
            let _ = io::stderr().write_all(&buffer[..count]);
            said.extend_from_slice(&buffer[..count]);
            said.drain(..said.len().saturating_sub(SAID_MAX));
        }
        // Nobody asks where all went well.
        let _ = sender.send(said);
    });
    if let Err(error) = passing {
        tracing::warn!(%error, "what the new process says is lost");
    }
    receiver
}

/// Kills a successor that came to nothing; how it ended.
fn end_of(mut child: Child, said: &Receiver<Vec<u8>>, why: &io::Error) -> String {
    let ended = match why.kind() {
        // It has closed its end, so it ends: give it the time to say how.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => {
            let last = said.recv_timeout(LAST_WORDS).unwrap_or_default();
            // It may have closed its end and go on all the same.
            let killed = child.kill();
            let status = child.wait();
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let last = String::from_utf8_lossy(&last);
            let line = last.lines().map(str::trim).rfind(|line| !line.is_empty());
            tracing::debug!(?killed, status, "the new process has ended");
            return match line {
                Some(line) => format!("has ended ({status}): {line}"),
                None => format!("has ended ({status})"),
            };
        }
        io::ErrorKind::TimedOut => "was not ready in time".to_owned(),
        _ => why.to_string(),
    };
    // One that has ended already can't be killed.
    let _ = child.kill();
    let _ = child.wait();
    ended
}
