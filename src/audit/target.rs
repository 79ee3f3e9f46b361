//! One watched process: looks at each of its threads, and reads what it takes.
//!
//! Owns what must be remembered from look to look: when the process was started, so that another one
//! with its id is not taken for it; names, ids and CPU time of its threads; where its interpreter lies.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use crate::audit::findings::{ProcessUse, Site};
use crate::audit::frames::{self, Frame};
use crate::audit::procfs::{Folder, Glance, Mapping};
use crate::audit::python::{Stacks, ThreadIds};
use crate::audit::tally::{Look, Seen, Spot};
use crate::audit::wait::{self, Descriptor, Doing, Group, Kernel, Lookup, Polled};

/// The part of a source file that is read, in bytes: a line after that gives no hint.
const SOURCE_MAX: u64 = 4 << 20;
/// Lines of source that are remembered.
const LINES_MAX: usize = 4096;

/// A watched process.
#[derive(Debug)]
pub struct Target {
    /// Its id.
    pub pid: u32,
    folder: Folder,
    started: u64,
    shows_calls: bool,
    stacks: Option<Stacks>,
    interpreter: Interpreter,
    threads: HashMap<u32, Thread>,
    // What the texts of lines said, by file and line.
    lines: HashMap<(String, u32), Option<String>>,
    cpu: Duration,
}

/// What is known of a thread.
#[derive(Debug)]
struct Thread {
    name: String,
    inner: u32,
    stack: Option<u64>,
    cpu: Option<Duration>,
    // Whether a Python stack of it was read before.
    is_python: bool,
}

/// Where a process has its interpreter.
#[derive(Debug, Default)]
struct Interpreter {
    /// The addresses of its program and variables.
    ranges: Vec<(u64, u64)>,
    /// Whether the module `_sqlite3` is loaded.
    has_sqlite: bool,
}

struct View<'a> {
    folder: &'a Folder,
    interpreter: &'a Interpreter,
}

impl Target {
    /// A process to watch; none if it has ended. `shows_calls` says whether `ptrace` would be allowed.
    /// The second value says why its Python stacks can't be read, if it has any.
    #[must_use]
    pub fn open(pid: u32, shows_calls: bool) -> Option<(Self, Option<String>)> {
        let folder = Folder::of(pid);
        let started = folder.started()?;
        let program = folder.program().unwrap_or_default();
        let mappings = folder.mappings().unwrap_or_default();
        let interpreter = Interpreter::find(&program, &mappings);
        let is_python = !interpreter.ranges.is_empty();
        let (stacks, why) = match (shows_calls && is_python).then(|| Stacks::open(pid)) {
            Some(Ok(stacks)) => (Some(stacks), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let target = Self {
            pid,
            folder,
            started,
            shows_calls,
            stacks,
            interpreter,
            threads: HashMap::new(),
            lines: HashMap::new(),
            cpu: Duration::ZERO,
        };
        Some((target, why))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.folder.started() == Some(self.started)
    }

    /// The program's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.folder.name()
    }

    /// Whether its stacks are read.
    #[must_use]
    pub fn has_stacks(&self) -> bool {
        self.stacks.is_some()
    }

    /// Looks at each thread once.
    pub fn look(&mut self, mut count: impl FnMut(Look)) {
        let ids = self.folder.threads().unwrap_or_default();
        self.threads.retain(|id, _| ids.contains(id));
        let glances: Vec<(u32, Glance)> =
            ids.into_iter().filter_map(|id| Some((id, self.folder.glance(id)?))).collect();
        for (id, glance) in &glances {
            let thread = self.threads.entry(*id).or_insert_with(|| Thread {
                name: self.folder.thread_name(*id),
                inner: self.folder.inner_id(*id),
                stack: None,
                cpu: glance.cpu,
                is_python: false,
            });
            if let Kernel::In(call) = glance.kernel {
                thread.stack = Some(call.stack);
            }
        }
        let stacks = self.read_stacks();
        for (id, glance) in glances {
            let Some(thread) = self.threads.get_mut(&id) else {
                continue;
            };
            let cpu = glance.cpu.unwrap_or_default();
            let cpu = cpu.saturating_sub(thread.cpu.replace(cpu).unwrap_or_default());
            self.cpu += cpu;
            let seen = self.seen(id, &glance, stacks.as_ref());
            count(Look { thread: id, seen, cpu });
        }
    }

    /// What it takes, now.
    #[must_use]
    pub fn usage(&self) -> ProcessUse {
        let status = self.folder.status();
        let pointers: Vec<u64> = self.threads.values().filter_map(|thread| thread.stack).collect();
        let measured = self.folder.measured_mappings().ok();
        let stack_bytes =
            measured.filter(|_| self.shows_calls).map(|all| resident(&all, &pointers));
        ProcessUse {
            pid: self.pid,
            name: self.name(),
            python: self.stacks.as_ref().map(Stacks::version),
            threads: self.folder.threads().map_or(0, |ids| ids.len() as u64),
            descriptors: self.folder.descriptors(),
            rss_bytes: status.rss_bytes,
            stack_bytes,
            stacks: pointers.len() as u64,
            main_stack_bytes: status.main_stack_bytes,
            cpu_seconds: self.cpu.as_secs_f64(),
        }
    }

    /// The Python stacks; `Err` if they changed too quickly, `None` for a process without any.
    fn read_stacks(&mut self) -> Option<Result<HashMap<u32, Vec<Frame>>, String>> {
        let stacks = self.stacks.as_mut()?;
        let ids = self.threads.iter().map(|(id, thread)| ThreadIds {
            id: *id,
            inner: thread.inner,
            stack: thread.stack,
        });
        Some(stacks.read(&ids.collect::<Vec<_>>()))
    }

    fn seen(
        &mut self,
        id: u32,
        glance: &Glance,
        stacks: Option<&Result<HashMap<u32, Vec<Frame>>, String>>,
    ) -> Seen {
        let view = View { folder: &self.folder, interpreter: &self.interpreter };
        let doing = wait::doing(glance.state, &glance.kernel, &view);
        let stack = match stacks {
            None => return self.without_stack(id, &doing, false),
            Some(Err(_)) => return Seen::Torn,
            Some(Ok(stacks)) => stacks.get(&id).filter(|stack| !stack.is_empty()),
        };
        let Some(stack) = stack else {
            // One that has had a stack has it still, but it changed while it was read.
            let is_python = self.threads.get(&id).is_some_and(|thread| thread.is_python);
            return if is_python { Seen::Torn } else { self.without_stack(id, &doing, true) };
        };
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.is_python = true;
        }
        let is_waiting = doing.group != Group::Running;
        let has_moved = is_waiting && !self.folder.is_still(id, glance);
        let has_sqlite = self.interpreter.has_sqlite;
        let reading = frames::read(stack, &doing, has_sqlite, |frame| self.line(frame));
        if reading.is_idle {
            return if has_moved { Seen::Torn } else { Seen::Idle };
        }
        let site = reading.site.and_then(|site| stack.get(site)).map(|frame| Site {
            file: frame.file.clone(),
            line: frame.line,
            function: frame.function.clone(),
        });
        let spot = Spot {
            name: if site.is_none() { self.thread_name(id) } else { None },
            site,
            group: reading.group,
            primitive: reading.primitive,
            through: reading.through,
            is_on_loop: reading.is_on_loop,
        };
        if has_moved { Seen::Moved(spot) } else { Seen::Busy(spot) }
    }

    /// A thread of which only the kernel tells. One that waits for events waits for work; in a Python
    /// process (`is_helper`) so does one that waits for a lock: it is a library's own worker.
    fn without_stack(&self, id: u32, doing: &Doing, is_helper: bool) -> Seen {
        let waits_for_work =
            doing.group == Group::Events || is_helper && doing.group == Group::Lock;
        if waits_for_work {
            return Seen::Idle;
        }
        Seen::Busy(Spot {
            site: None,
            name: self.thread_name(id),
            group: doing.group,
            primitive: plain(doing.primitive),
            through: None,
            is_on_loop: false,
        })
    }

    fn thread_name(&self, id: u32) -> Option<String> {
        self.threads.get(&id).map(|thread| thread.name.clone())
    }

    /// The text of a frame's line, for a hint at what it calls; it is never shown.
    fn line(&mut self, frame: &Frame) -> Option<String> {
        let key = (frame.file.clone(), frame.line);
        if let Some(known) = self.lines.get(&key) {
            return known.clone();
        }
        let text = source_line(&self.folder, frame);
        if self.lines.len() < LINES_MAX {
            self.lines.insert(key, text.clone());
        }
        text
    }
}

/// What a primitive is called where no Python is.
fn plain(primitive: &'static str) -> &'static str {
    match primitive {
        "threading.Lock.acquire" => "futex",
        "time.sleep" => "nanosleep",
        "select.poll" => "poll",
        "os.waitpid" => "wait",
        _ => primitive.rsplit('.').next().unwrap_or(primitive),
    }
}

fn source_line(folder: &Folder, frame: &Frame) -> Option<String> {
    let path = folder.seen_file(&frame.file);
    // No device and no pipe: reading one could wait, or change it.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut lines = BufReader::new(File::open(path).ok()?.take(SOURCE_MAX)).split(b'\n');
    let line = lines.nth(frame.line.checked_sub(1)? as usize)?.ok()?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// The resident memory of the mappings that hold these stack pointers, each counted once.
fn resident(mappings: &[Mapping], pointers: &[u64]) -> u64 {
    let holding =
        |pointer: &u64| mappings.iter().position(|part| (part.start..part.end).contains(pointer));
    let parts: BTreeSet<usize> = pointers.iter().filter_map(holding).collect();
    parts.into_iter().map(|part| mappings[part].rss_bytes).sum()
}

impl Interpreter {
    /// The program or library of CPython, with the variables that follow it in memory.
    fn find(program: &str, mappings: &[Mapping]) -> Self {
        let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let is_python = file(program).starts_with("python");
        let is_part =
            |name: &str| file(name).starts_with("libpython") || is_python && name == program;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for Mapping { start, end, is_writable, name, .. } in mappings {
            let follows = ranges.last().is_some_and(|(_, end)| end == start);
            if is_part(name) || follows && *is_writable && name.is_empty() {
                ranges.push((*start, *end));
            }
        }
        let has_sqlite = mappings.iter().any(|part| file(&part.name).starts_with("_sqlite3"));
        Self { ranges, has_sqlite }
    }
}

impl Lookup for View<'_> {
    fn descriptor(&self, number: u64) -> Descriptor {
        self.folder.descriptor(number)
    }

    fn polled(&self, address: u64) -> Option<Polled> {
        self.folder.polled(address)
    }

    fn is_interpreters(&self, address: u64) -> bool {
        self.interpreter.ranges.iter().any(|(start, end)| (*start..*end).contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, is_writable: bool, name: &str) -> Mapping {
        Mapping { start, end, is_writable, name: name.to_owned(), rss_bytes: (end - start) * 10 }
    }

    #[test]
    fn the_interpreter_is_its_file_and_the_variables_behind_it() {
        let python = "/usr/bin/python3.11";
        let library = "/usr/lib/libpython3.12.so.1.0";
        let mappings = |name| {
            [
                mapping(1, 2, false, name),
                mapping(2, 3, true, name),
                mapping(3, 4, true, ""),
                mapping(4, 5, true, "[heap]"),
                mapping(6, 7, true, ""),
                mapping(8, 9, false, "/usr/lib/_sqlite3.cpython-311.so"),
            ]
        };
        for (program, name, ranges) in [
            (python, python, vec![(1, 2), (2, 3), (3, 4)]),
            ("/usr/sbin/uwsgi", library, vec![(1, 2), (2, 3), (3, 4)]),
            ("/usr/bin/nginx", "/usr/bin/nginx", vec![]),
        ] {
            let found = Interpreter::find(program, &mappings(name));
            assert_eq!((found.ranges, found.has_sqlite), (ranges, true), "{program}");
        }
        assert!(!Interpreter::find(python, &mappings(python)[..5]).has_sqlite);
    }

    #[test]
    fn a_stack_is_the_mapping_of_its_pointer_and_counted_once() {
        let mappings = [mapping(10, 20, true, ""), mapping(20, 25, true, "[stack]")];
        for (pointers, bytes) in
            [(&[10, 19][..], 100), (&[19, 20], 150), (&[25, 9], 0), (&[], 0), (&[24], 50)]
        {
            assert_eq!(resident(&mappings, pointers), bytes, "{pointers:?}");
        }
    }

    #[test]
    fn a_line_of_source_is_found_and_no_other_kind_of_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.py").to_str().unwrap().to_owned();
        std::fs::write(&file, "import time\ntime.sleep(1)").unwrap();
        let line = |file: &str, line| {
            let frame = Frame { file: file.to_owned(), function: String::new(), line };
            source_line(&Folder::of(std::process::id()), &frame)
        };
        assert_eq!(line(&file, 2).as_deref(), Some("time.sleep(1)"));
        for (file, number) in [(file.as_str(), 3), (&file, 0), ("/dev/zero", 1), ("/nowhere", 1)] {
            assert_eq!(line(file, number), None, "{file}:{number}");
        }
    }
}
