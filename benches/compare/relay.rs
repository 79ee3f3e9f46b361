//! A blind TCP relay: the floor of the comparison.
//!
//! It copies bytes between each client connection and its own backend connection and reads none of
//! them, so its cost is what the kernel's TCP asks of any proxy that goes through user space.
//! One thread, edge-triggered epoll, no dependency: `rustc -O relay.rs`, then
//! `relay LISTEN BACKEND`, both as `127.0.0.1:PORT`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

// The three calls that std does not offer, as epoll(7) declares them.
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy)]
struct Event {
    flags: u32,
    token: u64,
}

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> RawFd;
    fn epoll_ctl(epoll: RawFd, operation: i32, socket: RawFd, event: *mut Event) -> i32;
    fn epoll_wait(epoll: RawFd, events: *mut Event, capacity: i32, timeout_ms: i32) -> i32;
}

const EPOLL_CTL_ADD: i32 = 1;
const EPOLLIN: u32 = 0x1;
const EPOLLOUT: u32 = 0x4;
const EPOLLERR: u32 = 0x8;
const EPOLLHUP: u32 = 0x10;
const EPOLLRDHUP: u32 = 0x2000;
const EPOLLET: u32 = 1 << 31;

const LISTENER: u64 = u64::MAX;
const CLIENT: usize = 0;
const BACKEND: usize = 1;
const SCRATCH_BYTES: usize = 256 * 1024;

/// What one side has sent and the other has not yet taken.
#[derive(Default)]
struct Flow {
    pending: Vec<u8>,
    /// The sender's FIN has been announced: a short read no longer proves the socket empty.
    hung_up: bool,
    /// The FIN has been passed on.
    ended: bool,
}

struct Pair {
    sockets: [TcpStream; 2],
    /// Indexed by the side that the bytes come from.
    flows: [Flow; 2],
}

impl Pair {
    /// Moves bytes from one side to the other until the sender is empty or the receiver is full.
    fn pump(&mut self, from: usize, scratch: &mut [u8]) -> io::Result<()> {
        let (mut sender, mut receiver) = (&self.sockets[from], &self.sockets[1 - from]);
        let flow = &mut self.flows[from];
        loop {
            if !flow.pending.is_empty() {
                let sent = unless_blocked(receiver.write(&flow.pending))?.unwrap_or(0);
                flow.pending.drain(..sent);
                if !flow.pending.is_empty() {
                    return Ok(());
                }
            }
            if flow.ended {
                return Ok(());
            }
            let Some(received) = unless_blocked(sender.read(scratch))? else {
                return Ok(());
            };
            if received == 0 {
                flow.ended = true;
                return receiver.shutdown(Shutdown::Write);
            }
            let sent = unless_blocked(receiver.write(&scratch[..received]))?.unwrap_or(0);
            flow.pending.extend_from_slice(&scratch[sent..received]);
            // epoll(7): a short read or write on a stream means that it is empty or full, so the
            // next change raises a new edge and the EAGAIN need not be fetched.
            let drained = received < scratch.len() && !flow.hung_up;
            if drained || !flow.pending.is_empty() {
                return Ok(());
            }
        }
    }

    fn on_event(&mut self, side: usize, flags: u32, scratch: &mut [u8]) -> io::Result<()> {
        if flags & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) != 0 {
            self.flows[side].hung_up = true;
        }
        if flags & EPOLLOUT != 0 && !self.flows[1 - side].pending.is_empty() {
            self.pump(1 - side, scratch)?;
        }
        if flags & !EPOLLOUT != 0 && self.flows[side].pending.is_empty() {
            self.pump(side, scratch)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.flows
            .iter()
            .all(|flow| flow.ended && flow.pending.is_empty())
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn watch(epoll: RawFd, socket: RawFd, flags: u32, token: u64) -> io::Result<()> {
    let mut event = Event { flags, token };
    // SAFETY: both descriptors are open and `event` outlives the call.
    match unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_pair(epoll: RawFd, client: TcpStream, backend: &str, index: usize) -> io::Result<Pair> {
    // The blocking connect is harmless: on loopback it is done when the call returns.
    let sockets = [client, TcpStream::connect(backend)?];
    for side in [CLIENT, BACKEND] {
        sockets[side].set_nonblocking(true)?;
        sockets[side].set_nodelay(true)?;
        let flags = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        watch(
            epoll,
            sockets[side].as_raw_fd(),
            flags,
            (index * 2 + side) as u64,
        )?;
    }
    Ok(Pair {
        sockets,
        flows: Default::default(),
    })
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, backend] = arguments.as_slice() else {
        eprintln!("usage: relay LISTEN BACKEND");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // SAFETY: no argument points anywhere.
    let epoll = unsafe { epoll_create1(0) };
    watch(epoll, listener.as_raw_fd(), EPOLLIN, LISTENER)?;

    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut events = [Event { flags: 0, token: 0 }; 256];
    loop {
        // SAFETY: `events` has room for as many entries as the call is told.
        let ready = unsafe { epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..ready.max(0) as usize] {
            let (flags, token) = (event.flags, event.token);
            if token == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let index = free.pop().unwrap_or(pairs.len());
                    if index == pairs.len() {
                        pairs.push(None);
                    }
                    match open_pair(epoll, client, backend, index) {
                        Ok(pair) => pairs[index] = Some(pair),
                        Err(_) => free.push(index),
                    }
                }
                continue;
            }
            // An event of a pair that ended earlier in this batch finds nothing, or a new pair
            // in its place, for which it is a harmless wake without cause.
            let (index, side) = (token as usize / 2, token as usize % 2);
            let Some(pair) = pairs[index].as_mut() else {
                continue;
            };
            if pair.on_event(side, flags, &mut scratch).is_err() || pair.is_over() {
                pairs[index] = None;
                free.push(index);
            }
        }
    }
}
