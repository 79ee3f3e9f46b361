//! The sockets of clients and backends: blocking, and each wait has an end.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::stage::PATIENCE;

/// Where an input is cut: what is behind it is sent a moment later. No text has this byte.
pub const CUT: u8 = 0xf7;

/// Cuts beyond these are no waits, so that an input of nothing else does not take seconds.
const CUTS_MAX: usize = 6;

/// Long enough for a worker that has nothing else to do to read what came before it.
const MOMENT: Duration = Duration::from_micros(300);

/// A connection, and all that came on it.
pub struct Peer {
    stream: TcpStream,
    /// What came.
    pub got: Vec<u8>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.got))
    }
}

/// How a connection's bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Closed in order.
    Closed,
    /// Reset: what came before may be lost.
    Reset,
    /// It goes on.
    Open,
}

impl Peer {
    /// A client that connects from an address of its own, by which its requests are told from those of
    /// other inputs.
    pub fn client(proxy: SocketAddr) -> (Self, Ipv4Addr) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let digit = |unit: u32| 1 + u8::try_from(count / unit % 250).expect("below 250");
        let address = Ipv4Addr::new(127, digit(62_500), digit(250), digit(1));
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from((address, 0)).into()).expect("a loopback address");
            match socket.connect(&proxy.into()) {
                Ok(()) => return (Self::over(socket.into()), address),
                // libFuzzer's clock is a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the proxy does not listen: {error}"),
            }
        }
    }

    /// A connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("over zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("over zero");
        stream.set_nodelay(true).expect("an open socket");
        Self { stream, got: Vec::new() }
    }

    /// Waits for so long only; `None` is for ever.
    pub fn wait_at_most(&self, limit: Option<Duration>) {
        self.stream.set_read_timeout(limit).expect("over zero");
    }

    /// Sends as far as the other side takes it: it may have closed already.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends an input piece by piece, and returns it without its cuts.
    pub fn send_pieces(&mut self, input: &[u8]) -> Vec<u8> {
        let mut held = Vec::new();
        let mut sent = Vec::new();
        let last = input.iter().filter(|byte| **byte == CUT).count();
        for (number, piece) in input.split(|byte| *byte == CUT).enumerate() {
            held.extend_from_slice(piece);
            if number < CUTS_MAX || number == last {
                self.send(&held);
                sent.append(&mut held);
            }
            if number < CUTS_MAX.min(last) {
                moment();
            }
        }
        sent
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        // A connection that is closed already is finished too.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        // A connection that is closed already can't be reset.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Reads once.
    pub fn fill(&mut self) -> Result<(), Ended> {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Ended::Closed),
                Ok(read) => {
                    self.got.extend_from_slice(&piece[..read]);
                    return Ok(());
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Ended::Open),
                    _ => return Err(Ended::Reset),
                },
            }
        }
    }

    /// Reads to the end.
    pub fn fill_up(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.fill() {
                return ended;
            }
        }
    }
}

/// Lets the other side read what was sent.
pub fn moment() {
    #[expect(clippy::disallowed_methods, reason = "how bytes are cut is what is tried")]
    std::thread::sleep(MOMENT);
}
