//! What `/proc` tells of a process and its threads: reads it, and parses it.
//!
//! Nothing is ever written there, and nobody is stopped: the kernel copies its own figures out. Sizes
//! are the kernel's: a `maps` has at most `vm.max_map_count` lines, 65,530 unless raised.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::wait::{Descriptor, Kernel, Polled, parse_state, parse_syscall, shown};

/// Threads of one process that are watched; more is unheard of.
const THREADS_MAX: usize = 4096;

/// A process's folder in `/proc`.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What the kernel said of a thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The letter of its state.
    pub state: char,
    /// What it does.
    pub kernel: Kernel,
    /// CPU time that it has used; absent if the kernel does not count it.
    pub cpu: Option<Duration>,
}

/// A part of an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// Whether it can be written.
    pub is_writable: bool,
    /// The file's path, a name in brackets, or nothing.
    pub name: String,
    /// Resident memory in bytes, from `smaps`; 0 in `maps`.
    pub rss_bytes: u64,
}

/// What `status` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Address space of the main thread's stack.
    pub main_stack_bytes: u64,
    /// The id within the innermost namespace: what the process itself knows.
    pub inner_id: Option<u32>,
}

impl Folder {
    /// Of the process with this id.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self(Path::new("/proc").join(pid.to_string()))
    }

    fn task(&self, thread: u32) -> PathBuf {
        self.0.join("task").join(thread.to_string())
    }

    /// When it was started, in the kernel's ticks since boot: with the id it tells it from any other.
    /// `None` once it has ended.
    #[must_use]
    pub fn started(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.0.join("stat")).ok()?;
        let is_gone = matches!(parse_state(&stat)?, 'Z' | 'X');
        // The 22nd field; the state after the name is the third.
        let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
        if is_gone { None } else { ticks.parse().ok() }
    }

    /// The program's name, at most 15 characters.
    #[must_use]
    pub fn name(&self) -> String {
        name(&self.0)
    }

    /// A thread's name.
    #[must_use]
    pub fn thread_name(&self, thread: u32) -> String {
        name(&self.task(thread))
    }

    /// The threads' ids.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn threads(&self) -> io::Result<Vec<u32>> {
        let entries = fs::read_dir(self.0.join("task"))?.flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(ids.take(THREADS_MAX).collect())
    }

    /// A thread as it is now; `None` once it has ended.
    #[must_use]
    pub fn glance(&self, thread: u32) -> Option<Glance> {
        let task = self.task(thread);
        let state = parse_state(&fs::read_to_string(task.join("stat")).ok()?)?;
        let kernel = self.kernel(thread).unwrap_or_else(|| {
            let function = fs::read_to_string(task.join("wchan")).unwrap_or_default();
            if state == 'R' { Kernel::Runs } else { Kernel::At(function) }
        });
        Some(Glance { state, kernel, cpu: self.cpu(thread) })
    }

    /// Whether a thread has stood still since this glance: it is in the same call, and has used no CPU.
    #[must_use]
    pub fn is_still(&self, thread: u32, glance: &Glance) -> bool {
        self.kernel(thread).as_ref() == Some(&glance.kernel) && self.cpu(thread) == glance.cpu
    }

    /// CPU time that a thread has used, to the nanosecond.
    fn cpu(&self, thread: u32) -> Option<Duration> {
        let line = fs::read_to_string(self.task(thread).join("schedstat")).ok()?;
        Some(Duration::from_nanos(line.split_whitespace().next()?.parse().ok()?))
    }

    /// The call that a thread is in now.
    fn kernel(&self, thread: u32) -> Option<Kernel> {
        parse_syscall(&fs::read_to_string(self.task(thread).join("syscall")).ok()?)
    }

    /// Whether the calls of its threads may be seen, which needs what `ptrace` needs.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn shows_calls(&self, thread: u32) -> io::Result<()> {
        fs::read(self.task(thread).join("syscall")).map(drop)
    }

    /// Its mappings, which need less than that.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn mappings(&self) -> io::Result<Vec<Mapping>> {
        fs::read_to_string(self.0.join("maps")).map(|text| parse_mappings(&text))
    }

    /// Its mappings with their resident memory. The kernel walks all of the page tables for it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn measured_mappings(&self) -> io::Result<Vec<Mapping>> {
        fs::read_to_string(self.0.join("smaps")).map(|text| parse_mappings(&text))
    }

    /// What `status` says of it.
    #[must_use]
    pub fn status(&self) -> Status {
        parse_status(&fs::read_to_string(self.0.join("status")).unwrap_or_default())
    }

    /// A thread's id as the process itself knows it.
    #[must_use]
    pub fn inner_id(&self, thread: u32) -> u32 {
        let status = fs::read_to_string(self.task(thread).join("status")).unwrap_or_default();
        parse_status(&status).inner_id.unwrap_or(thread)
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(&self) -> Option<u64> {
        Some(fs::read_dir(self.0.join("fd")).ok()?.count() as u64)
    }

    /// What a descriptor is.
    #[must_use]
    pub fn descriptor(&self, number: u64) -> Descriptor {
        let link = fs::read_link(self.0.join("fd").join(number.to_string()));
        link.map_or(Descriptor::Other, |link| Descriptor::from_link(&link.to_string_lossy()))
    }

    /// The entry of a `poll` at this address.
    #[must_use]
    pub fn polled(&self, address: u64) -> Option<Polled> {
        Polled::parse(self.bytes(address)?)
    }

    /// The thread's id in the descriptor at this address, which glibc has there on x86-64 since 2.4; on
    /// other systems it is some number, which is no thread's but by accident.
    #[must_use]
    pub fn described_id(&self, address: u64) -> Option<u32> {
        u32::try_from(i32::from_ne_bytes(self.bytes(address.checked_add(720)?)?)).ok()
    }

    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        File::open(self.0.join("mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }

    /// The program's file.
    #[must_use]
    pub fn program(&self) -> Option<String> {
        Some(fs::read_link(self.0.join("exe")).ok()?.to_string_lossy().into_owned())
    }

    /// A file as the process sees it, in whichever container it is.
    #[must_use]
    pub fn seen_file(&self, path: &str) -> PathBuf {
        let base = if path.starts_with('/') { "root" } else { "cwd" };
        self.0.join(base).join(path.trim_start_matches('/'))
    }
}

fn name(folder: &Path) -> String {
    shown(fs::read_to_string(folder.join("comm")).unwrap_or_default().trim_end())
}

/// `maps` or `smaps`: in the latter each mapping's line is followed by lines such as `Rss: 8 kB`.
fn parse_mappings(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = parse_mapping(line) {
            mappings.push(mapping);
        } else if let (Some(last), Some(rss)) = (mappings.last_mut(), kibibytes(line, "Rss:")) {
            last.rss_bytes = rss;
        }
    }
    mappings
}

/// `7f00-7f80 rw-p 00000000 00:00 0   [stack]`
fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let is_writable = words.next()?.contains('w');
    let name = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { start: address(start)?, end: address(end)?, is_writable, name, rss_bytes: 0 })
}

fn parse_status(text: &str) -> Status {
    let find = |name| text.lines().find_map(|line| kibibytes(line, name)).unwrap_or(0);
    let ids = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Status {
        rss_bytes: find("VmRSS:"),
        main_stack_bytes: find("VmStk:"),
        inner_id: ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok()),
    }
}

/// The kernel calls it kB and means 1,024 bytes.
fn kibibytes(line: &str, name: &str) -> Option<u64> {
    let size: u64 = line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()?;
    Some(size.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed_with_their_memory() {
        let text = "55d0-55e0 r-xp 00000000 08:01 42   /usr/bin/a program\nRss:   8 kB\nPss: 4 kB\n\
                    7ff0-7fff rw-p 00000000 00:00 0          [stack]\nSize: 60 kB\nRss:  12 kB\n\
                    VmFlags: rd wr\nnonsense\n";
        let mapping = |start, end, is_writable, name: &str, kib: u64| Mapping {
            start,
            end,
            is_writable,
            name: name.to_owned(),
            rss_bytes: kib << 10,
        };
        let stack = mapping(0x7ff0, 0x7fff, true, "[stack]", 12);
        let program = mapping(0x55d0, 0x55e0, false, "/usr/bin/a program", 8);
        assert_eq!(parse_mappings(text), [program, stack]);
        assert_eq!(parse_mappings("Rss: 8 kB\n-\n7-x r\n"), []);
    }

    #[test]
    fn a_status_tells_memory_and_the_innermost_id() {
        let text = "Name:\tx\nNSpid:\t4711\t12\t7\nVmStk:\t 132 kB\nVmRSS:\t 2 kB\n";
        let status = Status { rss_bytes: 2048, main_stack_bytes: 132 << 10, inner_id: Some(7) };
        assert_eq!(parse_status(text), status);
        assert_eq!(parse_status(""), Status::default());
    }

    #[test]
    fn this_process_can_be_read() {
        let own = Folder::of(std::process::id());
        assert!(own.started().is_some());
        assert!(own.threads().unwrap().contains(&std::process::id()));
        assert!(own.measured_mappings().unwrap().iter().any(|part| part.rss_bytes > 0));
        assert!(own.status().rss_bytes > 1 << 20);
        assert!(own.descriptors() > Some(2));
        assert!(own.seen_file("/etc/hosts").exists() && own.seen_file("Cargo.toml").exists());
        assert_eq!(Folder::of(u32::MAX).started(), None);
        let bytes = [7u8, 0, 0, 0, libc::POLLOUT as u8, 0, 0, 0];
        let polled = own.polled(bytes.as_ptr() as u64);
        assert_eq!(polled, Some(Polled { descriptor: 7, is_write: true }));
        assert_eq!(own.polled(8), None);
    }
}
