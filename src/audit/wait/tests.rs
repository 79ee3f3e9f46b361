//! The kernel's lines and what they mean.

use super::*;

/// A process with a socket as 3, a pipe as 4, a database as 5, a file as 6; its GIL is at 0x100.
struct Made;

impl Lookup for Made {
    fn descriptor(&self, number: u64) -> Descriptor {
        match number {
            3 => Descriptor::Socket,
            4 => Descriptor::Pipe,
            5 => Descriptor::Database,
            6 => Descriptor::File,
            _ => Descriptor::Other,
        }
    }

    fn polled(&self, address: u64) -> Option<Polled> {
        (address == 0x900).then_some(Polled { descriptor: 3, is_write: true })
    }

    fn is_interpreters(&self, address: u64) -> bool {
        address == 0x100
    }
}

fn call(number: i64, first: u64, second: u64) -> Kernel {
    Kernel::In(Call { number, args: [first, second, 0, 0, 0, 0], stack: 9 })
}

#[test]
fn a_line_of_a_system_call_is_parsed_or_refused() {
    let sleep = "230 0x0 0x1 0x2 0x3 0x4 0xff 0x7ffc 0x7f1e";
    let known = Call { number: 230, args: [0, 1, 2, 3, 4, 255], stack: 0x7ffc };
    let fault = Call { number: -1, args: [0; 6], stack: 0x7ffc };
    for (line, kernel) in [
        ("running\n", Some(Kernel::Runs)),
        (sleep, Some(Kernel::In(known))),
        ("-1 0x7ffc 0x1", Some(Kernel::In(fault))),
        ("", None),
        ("230", None),
        ("230 0x1", None),
        ("230 0 0 0 0 0 0 0 0", None),
        ("x 0x1 0x2", None),
    ] {
        assert_eq!(parse_syscall(line), kernel, "{line}");
    }
}

#[test]
fn a_state_is_found_behind_any_name() {
    for (line, state) in [
        ("7 (python) S 1 2", Some('S')),
        ("7 (a ) R (b) D 1 2", Some('D')),
        ("7 (python", None),
        ("7 (python)", None),
    ] {
        assert_eq!(parse_state(line), state, "{line}");
    }
}

#[test]
fn a_call_and_its_arguments_say_what_is_waited_for() {
    for (state, kernel, group, primitive) in [
        ('R', Kernel::Runs, Group::Running, "CPU"),
        ('R', call(libc::SYS_futex, 0, 0), Group::Running, "CPU"),
        ('T', call(libc::SYS_futex, 0, 0), Group::Other, "stopped"),
        ('S', call(libc::SYS_futex, 0x108, 0), Group::Lock, "threading.Lock.acquire"),
        ('S', call(libc::SYS_futex, 0x100, 0), Group::Gil, "the GIL"),
        ('S', call(libc::SYS_clock_nanosleep, 0, 0), Group::Sleep, "time.sleep"),
        ('S', call(libc::SYS_ppoll, 0x900, 0), Group::Sleep, "time.sleep"),
        ('S', call(libc::SYS_ppoll, 0x900, 1), Group::SocketWrite, "socket.send"),
        ('S', call(libc::SYS_ppoll, 0x901, 1), Group::Events, "select.poll"),
        ('S', call(libc::SYS_ppoll, 0x900, 2), Group::Events, "select.poll"),
        ('S', call(libc::SYS_pselect6, 0, 0), Group::Sleep, "time.sleep"),
        ('S', call(libc::SYS_pselect6, 4, 0), Group::Events, "select.select"),
        ('S', call(libc::SYS_epoll_pwait, 7, 0), Group::Events, "select.epoll"),
        ('S', call(libc::SYS_recvfrom, 7, 0), Group::SocketRead, "socket.recv"),
        ('S', call(libc::SYS_sendto, 7, 0), Group::SocketWrite, "socket.send"),
        ('S', call(libc::SYS_connect, 7, 0), Group::SocketWrite, "socket.connect"),
        ('S', call(libc::SYS_accept4, 7, 0), Group::Events, "socket.accept"),
        ('S', call(libc::SYS_read, 3, 0), Group::SocketRead, "socket.recv"),
        ('S', call(libc::SYS_write, 3, 0), Group::SocketWrite, "socket.send"),
        ('S', call(libc::SYS_read, 4, 0), Group::Other, "pipe read"),
        ('D', call(libc::SYS_pread64, 5, 0), Group::Disk, "sqlite3"),
        ('S', call(libc::SYS_fcntl, 5, 0), Group::Disk, "sqlite3"),
        ('S', call(libc::SYS_fcntl, 6, 0), Group::Disk, "file lock"),
        ('D', call(libc::SYS_read, 6, 0), Group::Disk, "file read"),
        ('D', call(libc::SYS_write, 6, 0), Group::Disk, "file write"),
        ('D', call(libc::SYS_fdatasync, 6, 0), Group::Disk, "os.fsync"),
        ('D', call(libc::SYS_openat, 0, 0), Group::Disk, "file system"),
        ('S', call(libc::SYS_wait4, 0, 0), Group::Other, "os.waitpid"),
        ('D', call(-1, 0, 0), Group::Disk, "page fault"),
        ('S', call(99_999, 0, 0), Group::Other, "system call"),
        ('D', call(99_999, 0, 0), Group::Disk, "disk"),
    ] {
        let told = Doing { group, primitive };
        assert_eq!(doing(state, &kernel, &Made), told, "{state} {kernel:?}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn older_calls_are_known_where_there_are_any() {
    for (number, group) in [
        (libc::SYS_poll, Group::SocketWrite),
        (libc::SYS_epoll_wait, Group::Events),
        (libc::SYS_select, Group::Events),
        (libc::SYS_open, Group::Disk),
        (libc::SYS_pause, Group::Other),
    ] {
        assert_eq!(doing('S', &call(number, 0x900, 1), &Made).group, group, "{number}");
    }
}

#[test]
fn where_the_call_is_hidden_the_kernels_function_tells() {
    for (state, function, group) in [
        ('S', "futex_wait_queue", Group::Lock),
        ('S', "hrtimer_nanosleep", Group::Sleep),
        ('S', "do_epoll_wait", Group::Other),
        ('S', "ep_poll", Group::Events),
        ('S', "poll_schedule_timeout.constprop.0", Group::Events),
        ('S', "inet_csk_accept", Group::Events),
        ('S', "wait_woken", Group::SocketRead),
        ('S', "unix_stream_read_generic", Group::SocketRead),
        ('S', "sk_stream_wait_memory", Group::SocketWrite),
        ('S', "anon_pipe_read", Group::Other),
        ('D', "folio_wait_bit_common", Group::Disk),
        ('S', "0", Group::Other),
        ('S', "", Group::Other),
        ('R', "", Group::Running),
    ] {
        let told = doing(state, &Kernel::At(function.to_owned()), &Made);
        assert_eq!(told.group, group, "{state} {function}");
    }
}

#[test]
fn a_descriptor_is_told_by_its_link() {
    for (link, descriptor) in [
        ("socket:[42]", Descriptor::Socket),
        ("pipe:[42]", Descriptor::Pipe),
        ("anon_inode:[eventpoll]", Descriptor::Other),
        ("/dev/null", Descriptor::Other),
        ("/srv/data.csv", Descriptor::File),
        ("/srv/a:b.csv", Descriptor::File),
        ("/srv/orders.db", Descriptor::Database),
        ("/srv/orders.db-journal", Descriptor::Database),
        ("/srv/orders-wal", Descriptor::Database),
        ("", Descriptor::Other),
    ] {
        assert_eq!(Descriptor::from_link(link), descriptor, "{link}");
    }
}

#[test]
fn one_entry_of_a_poll_says_which_way() {
    let entry = |descriptor: i32, events: i16| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&descriptor.to_ne_bytes());
        bytes[4..6].copy_from_slice(&events.to_ne_bytes());
        Polled::parse(bytes)
    };
    let polled = |is_write| Some(Polled { descriptor: 3, is_write });
    assert_eq!(entry(3, libc::POLLIN), polled(false));
    assert_eq!(entry(3, libc::POLLOUT), polled(true));
    assert_eq!(entry(3, libc::POLLIN | libc::POLLOUT), polled(false));
    // The kernel passes over a negative one.
    assert_eq!(entry(-1, libc::POLLIN), None);
}

#[test]
fn a_name_is_shown_on_one_line_and_not_without_end() {
    assert_eq!(shown("a\u{1b}[31m\nb"), "a?[31m?b");
    assert_eq!(shown(&"x".repeat(1000)).len(), NAME_CHARS_MAX);
}
