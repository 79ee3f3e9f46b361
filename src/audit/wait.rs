//! What a thread does at one moment, by what the kernel says of it.
//!
//! Pure: the lines of `/proc/PID/task/TID/{stat,syscall,wchan}` come in, a [`Doing`] comes out. A thread
//! that waits does so in a system call, and the call with its arguments says for what: a lock (futex), a
//! socket (by the descriptor's kind), a time. Where the kernel hides the call, the name of the function
//! that it waits in (`wchan`) says nearly as much.

use serde::{Deserialize, Serialize};

/// The longest name that is kept, in characters: as long as a file's name may be.
const NAME_CHARS_MAX: usize = 256;

/// Kinds of what threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// It computes, or could if it had a core.
    Running,
    /// It waits for CPython's global interpreter lock: it would compute.
    Gil,
    /// It waits for a lock, a condition, an event or another thread.
    Lock,
    /// It waits for something to come into a queue, or for room there.
    Queue,
    /// It waits for bytes from a peer.
    SocketRead,
    /// It waits until a peer takes bytes or a connection.
    SocketWrite,
    /// It waits for a time.
    Sleep,
    /// It waits for a disk or a lock on a file.
    Disk,
    /// It waits for any of several events: `epoll_wait`, `select`, `accept`.
    Events,
    /// Whatever else: a child process, a pipe, a signal.
    Other,
}

impl Group {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Running,
        Self::Gil,
        Self::Lock,
        Self::Queue,
        Self::SocketRead,
        Self::SocketWrite,
        Self::Sleep,
        Self::Disk,
        Self::Events,
        Self::Other,
    ];

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Gil => "wait for the GIL",
            Self::Lock => "lock wait",
            Self::Queue => "queue wait",
            Self::SocketRead => "socket read",
            Self::SocketWrite => "socket write",
            Self::Sleep => "sleep",
            Self::Disk => "disk",
            Self::Events => "event wait",
            Self::Other => "other",
        }
    }
}

/// What a thread does, and by what primitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doing {
    /// Its kind.
    pub group: Group,
    /// The primitive, as a Python programmer knows it.
    pub primitive: &'static str,
}

/// A system call that a thread is in, from `/proc/PID/task/TID/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number; -1 for a thread that waits without one, as in a page fault.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// The stack pointer.
    pub stack: u64,
}

/// What the kernel says of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// It is on a core, or waits for one.
    Runs,
    /// It waits in this call.
    In(Call),
    /// It waits, the call is hidden, and this is the kernel's function.
    At(String),
}

/// What a descriptor is, by what its link in `/proc/PID/fd` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// A socket.
    Socket,
    /// A pipe.
    Pipe,
    /// A file.
    File,
    /// A file that belongs to an SQLite database.
    Database,
    /// An event counter, a terminal, or one that is closed by now.
    Other,
}

impl Descriptor {
    /// From the link's target.
    #[must_use]
    pub fn from_link(link: &str) -> Self {
        // SQLite's own names, and the endings that its documentation and most programs use.
        let databases = ["-journal", "-wal", "-shm", ".db", ".sqlite", ".sqlite3", ".db3"];
        match link.split_once(':') {
            Some(("socket", _)) => Self::Socket,
            Some(("pipe", _)) => Self::Pipe,
            _ if link.starts_with("/dev/") || !link.starts_with('/') => Self::Other,
            _ if databases.iter().any(|ending| link.ends_with(ending)) => Self::Database,
            _ => Self::File,
        }
    }
}

/// One entry of `poll`'s list: what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The descriptor.
    pub descriptor: u64,
    /// Whether for room to write.
    pub is_write: bool,
}

impl Polled {
    /// From the bytes of a `struct pollfd`: a descriptor of 4 bytes, the events of 2.
    #[must_use]
    pub fn parse(bytes: [u8; 8]) -> Option<Self> {
        let [a, b, c, d, low, high, ..] = bytes;
        let descriptor = u64::try_from(i32::from_ne_bytes([a, b, c, d])).ok()?;
        let events = i16::from_ne_bytes([low, high]);
        let is_write = events & libc::POLLOUT != 0 && events & libc::POLLIN == 0;
        Some(Self { descriptor, is_write })
    }
}

/// What can be looked up of a process while a call is read.
pub trait Lookup {
    /// What a descriptor is.
    fn descriptor(&self, number: u64) -> Descriptor;
    /// The only entry of a `poll`, at this address.
    fn polled(&self, address: u64) -> Option<Polled>;
    /// Whether an address lies in the interpreter's own variables: its lock is the GIL.
    fn is_interpreters(&self, address: u64) -> bool;
}

/// The line of `syscall`: `running`, `-1 SP PC`, or `NR A B C D E F SP PC`; `None` for anything else.
#[must_use]
pub fn parse_syscall(line: &str) -> Option<Kernel> {
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if first == "running" {
        return Some(Kernel::Runs);
    }
    let number: i64 = first.parse().ok()?;
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let numbers: Vec<u64> = words.map_while(hex).collect();
    match numbers[..] {
        [stack, _] => Some(Kernel::In(Call { number, args: [0; 6], stack })),
        [a, b, c, d, e, f, stack, _] => {
            Some(Kernel::In(Call { number, args: [a, b, c, d, e, f], stack }))
        }
        _ => None,
    }
}

/// The state in a line of `stat`: the letter after the name, which may hold blanks and brackets.
#[must_use]
pub fn parse_state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A name of the watched process as it may be shown: short, on one line, and without what a terminal
/// would obey.
#[must_use]
pub fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(NAME_CHARS_MAX).map(plain).collect()
}

/// What a thread in this state (the letter of `stat`) does.
#[must_use]
pub fn doing(state: char, kernel: &Kernel, lookup: &impl Lookup) -> Doing {
    match kernel {
        Kernel::Runs => Doing { group: Group::Running, primitive: "CPU" },
        // By now it is about to run: what it waited for has come.
        Kernel::In(_) | Kernel::At(_) if state == 'R' => {
            Doing { group: Group::Running, primitive: "CPU" }
        }
        Kernel::In(_) | Kernel::At(_) if matches!(state, 'T' | 't') => {
            Doing { group: Group::Other, primitive: "stopped" }
        }
        Kernel::In(call) => {
            let found = by_call(call, lookup);
            // Uninterruptible: the kernel waits for a device, whatever was asked of it.
            if state == 'D' && matches!(found.group, Group::Other | Group::Events) {
                Doing { group: Group::Disk, primitive: "disk" }
            } else {
                found
            }
        }
        Kernel::At(function) => by_function(function, state),
    }
}

/// Kinds of system call, without the variants that differ in form only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Futex,
    Sleep,
    Receive,
    Send,
    Accept,
    Connect,
    Read,
    Write,
    Poll,
    Select,
    Epoll,
    Sync,
    FileLock,
    Names,
    Child,
    Signal,
    Unknown,
}

fn kind(number: i64) -> Kind {
    match number {
        libc::SYS_futex => Kind::Futex,
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep => Kind::Sleep,
        libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => Kind::Receive,
        libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => Kind::Send,
        libc::SYS_accept | libc::SYS_accept4 => Kind::Accept,
        libc::SYS_connect => Kind::Connect,
        libc::SYS_read | libc::SYS_readv | libc::SYS_pread64 | libc::SYS_preadv => Kind::Read,
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 | libc::SYS_pwritev => Kind::Write,
        libc::SYS_sendfile => Kind::Write,
        libc::SYS_ppoll => Kind::Poll,
        libc::SYS_pselect6 => Kind::Select,
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Kind::Epoll,
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_msync => Kind::Sync,
        libc::SYS_flock | libc::SYS_fcntl => Kind::FileLock,
        libc::SYS_openat | libc::SYS_unlinkat | libc::SYS_renameat2 | libc::SYS_ftruncate => {
            Kind::Names
        }
        libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_getdents64 | libc::SYS_close => {
            Kind::Names
        }
        libc::SYS_wait4 | libc::SYS_waitid => Kind::Child,
        libc::SYS_rt_sigtimedwait | libc::SYS_rt_sigsuspend => Kind::Signal,
        _ => old_kind(number),
    }
}

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
fn old_kind(number: i64) -> Kind {
    match number {
        libc::SYS_poll => Kind::Poll,
        libc::SYS_select => Kind::Select,
        libc::SYS_epoll_wait => Kind::Epoll,
        libc::SYS_open | libc::SYS_stat | libc::SYS_lstat | libc::SYS_unlink => Kind::Names,
        libc::SYS_rename | libc::SYS_mkdir | libc::SYS_rmdir => Kind::Names,
        libc::SYS_pause => Kind::Signal,
        _ => Kind::Unknown,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn old_kind(_: i64) -> Kind {
    Kind::Unknown
}

fn by_call(call: &Call, lookup: &impl Lookup) -> Doing {
    let [first, second, ..] = call.args;
    let (group, primitive) = match kind(call.number) {
        Kind::Futex if lookup.is_interpreters(first) => (Group::Gil, "the GIL"),
        Kind::Futex => (Group::Lock, "threading.Lock.acquire"),
        Kind::Sleep => (Group::Sleep, "time.sleep"),
        // What waits for no descriptor waits for the time only.
        Kind::Poll if second == 0 => (Group::Sleep, "time.sleep"),
        Kind::Select if first == 0 => (Group::Sleep, "time.sleep"),
        Kind::Receive => (Group::SocketRead, "socket.recv"),
        Kind::Send => (Group::SocketWrite, "socket.send"),
        Kind::Connect => (Group::SocketWrite, "socket.connect"),
        Kind::Accept => (Group::Events, "socket.accept"),
        Kind::Poll if second == 1 => match lookup.polled(first) {
            Some(Polled { descriptor, is_write }) => {
                by_descriptor(lookup.descriptor(descriptor), is_write)
            }
            None => (Group::Events, "select.poll"),
        },
        Kind::Poll => (Group::Events, "select.poll"),
        Kind::Select => (Group::Events, "select.select"),
        Kind::Epoll => (Group::Events, "select.epoll"),
        Kind::Read => by_descriptor(lookup.descriptor(first), false),
        Kind::Write => by_descriptor(lookup.descriptor(first), true),
        Kind::Sync => (Group::Disk, "os.fsync"),
        Kind::FileLock => match lookup.descriptor(first) {
            Descriptor::Database => (Group::Disk, "sqlite3"),
            _ => (Group::Disk, "file lock"),
        },
        Kind::Names => (Group::Disk, "file system"),
        Kind::Child => (Group::Other, "os.waitpid"),
        Kind::Signal => (Group::Other, "signal"),
        Kind::Unknown if call.number == -1 => (Group::Disk, "page fault"),
        Kind::Unknown => (Group::Other, "system call"),
    };
    Doing { group, primitive }
}

fn by_descriptor(descriptor: Descriptor, is_write: bool) -> (Group, &'static str) {
    match (descriptor, is_write) {
        (Descriptor::Socket, false) => (Group::SocketRead, "socket.recv"),
        (Descriptor::Socket, true) => (Group::SocketWrite, "socket.send"),
        (Descriptor::Database, _) => (Group::Disk, "sqlite3"),
        (Descriptor::File, false) => (Group::Disk, "file read"),
        (Descriptor::File, true) => (Group::Disk, "file write"),
        (Descriptor::Pipe, false) => (Group::Other, "pipe read"),
        (Descriptor::Pipe, true) => (Group::Other, "pipe write"),
        (Descriptor::Other, false) => (Group::Other, "os.read"),
        (Descriptor::Other, true) => (Group::Other, "os.write"),
    }
}

/// By a part of the name of the kernel's function, the first that fits.
fn by_function(function: &str, state: char) -> Doing {
    const TABLE: [(&str, Group, &str); 19] = [
        ("futex", Group::Lock, "threading.Lock.acquire"),
        ("nanosleep", Group::Sleep, "time.sleep"),
        ("ep_poll", Group::Events, "select.epoll"),
        ("poll_schedule", Group::Events, "select.poll"),
        ("do_select", Group::Events, "select.select"),
        ("do_poll", Group::Events, "select.poll"),
        ("csk_accept", Group::Events, "socket.accept"),
        ("wait_for_connect", Group::SocketWrite, "socket.connect"),
        ("stream_wait_memory", Group::SocketWrite, "socket.send"),
        ("sock_alloc_send", Group::SocketWrite, "socket.send"),
        ("wait_data", Group::SocketRead, "socket.recv"),
        ("data_wait", Group::SocketRead, "socket.recv"),
        ("unix_stream_read", Group::SocketRead, "socket.recv"),
        ("wait_woken", Group::SocketRead, "socket.recv"),
        ("wait_for_more_packets", Group::SocketRead, "socket.recv"),
        ("pipe_read", Group::Other, "pipe read"),
        ("pipe_write", Group::Other, "pipe write"),
        ("do_wait", Group::Other, "os.waitpid"),
        ("locks_lock", Group::Disk, "file lock"),
    ];
    let found = TABLE.iter().find(|(part, ..)| function.contains(part));
    match found {
        Some((_, group, primitive)) => Doing { group: *group, primitive },
        None if state == 'D' => Doing { group: Group::Disk, primitive: "disk" },
        None => Doing { group: Group::Other, primitive: "system call" },
    }
}

#[cfg(test)]
mod tests;
