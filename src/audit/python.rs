//! The Python stacks of a process, read by py-spy's library.
//!
//! The process is never stopped: py-spy copies its memory (`process_vm_readv`) while it runs. Stopping
//! it would make each stack consistent, but by `ptrace` each of its threads is held until all are read,
//! fifty times a second in a service that answers clients, and a system call that is interrupted may
//! even end early. What an audit is after stands still anyway: a thread that waits does not change its
//! stack. Whether it waited all the while is seen by its system call, read before and after; what moved
//! is counted apart. Native stacks, which would need a stop, are not read.

use std::collections::HashMap;
use std::fmt;

use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy, StackTrace};

use crate::audit::frames::Frame;
use crate::audit::procfs::{Folder, Mapping};
use crate::audit::wait::shown;

/// How often a stack that could not be read is tried again at once: frames come and go meanwhile.
const TRIES: usize = 3;
/// Frames that are read of a stack, from the innermost: whoever is to blame is near it.
const FRAMES_MAX: usize = 256;

/// A thread, as it is needed to tell whose a Python stack is.
#[derive(Clone, Copy, Debug)]
pub struct ThreadIds {
    /// Its id here.
    pub id: u32,
    /// Its id as the process knows it.
    pub inner: u32,
    /// Its stack pointer, where it is known.
    pub stack: Option<u64>,
}

/// Reads the stacks of one process.
pub struct Stacks {
    spy: PythonSpy,
    folder: Folder,
    // CPython up to 3.10 tells no ids of threads, only the addresses of their descriptors.
    by_address: HashMap<u64, u32>,
}

impl Stacks {
    /// Finds the interpreter of a process.
    ///
    /// # Errors
    /// In words, when there is none that py-spy knows, or it can't be read.
    pub fn open(pid: u32) -> Result<Self, String> {
        let config = Config {
            blocking: LockingStrategy::NonBlocking,
            native: false,
            collect_thread_names: false,
            // Otherwise it looks for packages on the disk.
            full_filenames: true,
            ..Config::default()
        };
        let id = i32::try_from(pid).map_err(|error| error.to_string())?;
        let spy = PythonSpy::new(id, &config).map_err(|error| shown(&format!("{error:#}")))?;
        Ok(Self { spy, folder: Folder::of(pid), by_address: HashMap::new() })
    }

    /// The interpreter's version.
    #[must_use]
    pub fn version(&self) -> String {
        let version = &self.spy.version;
        format!("{}.{}.{}", version.major, version.minor, version.patch)
    }

    /// The stacks as they are now, by the threads' ids, innermost frame first.
    ///
    /// # Errors
    /// In words, when they changed too quickly to be read.
    pub fn read(&mut self, threads: &[ThreadIds]) -> Result<HashMap<u32, Vec<Frame>>, String> {
        let mut tries = 1;
        let traces = loop {
            match self.spy.get_stack_traces() {
                Ok(traces) => break traces,
                Err(error) if tries == TRIES => return Err(shown(&format!("{error:#}"))),
                Err(_) => tries += 1,
            }
        };
        self.match_addresses(&traces, threads);
        let stacks = traces.into_iter().filter_map(|trace| {
            let id = self.owner(&trace, threads)?;
            Some((id, trace.frames.iter().take(FRAMES_MAX).map(frame).collect()))
        });
        Ok(stacks.collect())
    }

    fn owner(&self, trace: &StackTrace, threads: &[ThreadIds]) -> Option<u32> {
        match trace.os_thread_id {
            Some(inner) => {
                threads.iter().find(|ids| u64::from(ids.inner) == inner).map(|ids| ids.id)
            }
            None => self.by_address.get(&trace.thread_id).copied(),
        }
    }

    /// Python takes the address of a thread's descriptor for its id. Where it does not
    /// tell the kernel's id, its place does: it is on top of the thread's stack, so both are in one
    /// mapping. The main thread's lies elsewhere; it is the one that is left.
    fn match_addresses(&mut self, traces: &[StackTrace], threads: &[ThreadIds]) {
        self.by_address.retain(|_, id| threads.iter().any(|ids| ids.id == *id));
        let addresses = traces.iter().filter(|trace| trace.os_thread_id.is_none());
        let new: Vec<u64> = addresses
            .map(|trace| trace.thread_id)
            .filter(|address| !self.by_address.contains_key(address))
            .collect();
        if new.is_empty() {
            return;
        }
        let mappings = self.folder.mappings().unwrap_or_default();
        let mut left = Vec::new();
        for address in new {
            let on_stack = |ids: &&ThreadIds| {
                ids.stack.is_some_and(|stack| are_together(&mappings, address, stack))
            };
            let described = self.folder.described_id(address);
            let by_id = threads.iter().find(|ids| Some(ids.inner) == described);
            match by_id.or_else(|| threads.iter().find(on_stack)) {
                Some(ids) => drop(self.by_address.insert(address, ids.id)),
                None => left.push(address),
            }
        }
        // The main thread's id is the process's.
        let main = self.spy.pid.unsigned_abs();
        if let [address] = left[..]
            && !self.by_address.values().any(|id| *id == main)
        {
            self.by_address.insert(address, main);
        }
    }
}

impl fmt::Debug for Stacks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stacks").field("pid", &self.spy.pid).finish_non_exhaustive()
    }
}

fn are_together(mappings: &[Mapping], one: u64, other: u64) -> bool {
    let holds = |mapping: &Mapping, address| (mapping.start..mapping.end).contains(&address);
    mappings.iter().any(|mapping| holds(mapping, one) && holds(mapping, other))
}

fn frame(frame: &py_spy::Frame) -> Frame {
    Frame {
        file: shown(&frame.filename),
        function: shown(&frame.name),
        line: u32::try_from(frame.line).unwrap_or(0),
    }
}
