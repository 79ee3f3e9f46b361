//! Listening sockets: bound anew, or given by systemd or by the process before this one.
//!
//! Each worker has sockets of its own (SO_REUSEPORT). What is given is taken as it is, for what waits in
//! its accept queue is lost with the socket: a worker takes several where there are too many, and where
//! there are too few the rest is bound beside them, but hears nothing before all else is done.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::handover::{Label, Role};

/// Handshakes that the kernel may hold for us; it cuts this to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;

/// One address, bound once for each worker, and the lock that keeps a second copy away.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the port that was chosen.
    pub address: SocketAddr,
    /// Whether its sockets were given.
    pub is_given: bool,
    sockets: Vec<BoundSocket>,
    configured: SocketAddr,
}

/// One worker's socket. The lock goes with the last socket of its address, not with the process:
/// a successor may listen while this one still drains.
#[derive(Debug)]
pub struct BoundSocket {
    /// The socket.
    pub listener: TcpListener,
    /// Whether systemd keeps it, too: it must not be made deaf, and need not be emptied.
    pub is_kept: bool,
    /// The lock.
    pub lock: Option<Arc<UnixListener>>,
}

/// A socket, and what it is.
#[derive(Debug)]
pub struct Labelled {
    /// What it is.
    pub label: Label,
    /// The socket.
    pub socket: OwnedFd,
}

/// Sockets that were given to this process.
#[derive(Debug, Default)]
pub struct Stock(Vec<Labelled>);

impl Bound {
    /// Each of `workers` workers' sockets: as good as equally many.
    #[must_use]
    pub fn share_out(self, workers: usize) -> Vec<Vec<BoundSocket>> {
        let mut shares: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        for (index, socket) in self.sockets.into_iter().enumerate() {
            shares[index % workers].push(socket);
        }
        shares
    }

    /// Its sockets and its lock once more, to be handed on.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn copies(&self) -> io::Result<Vec<Labelled>> {
        let label = |role, is_kept| Label {
            role,
            configured: self.configured.to_string(),
            bound: self.address.to_string(),
            is_kept,
        };
        let copy = |role, is_kept, socket: &dyn AsFd| {
            let socket = socket.as_fd().try_clone_to_owned()?;
            Ok(Labelled { label: label(role, is_kept), socket })
        };
        let lock = self.sockets.first().and_then(|socket| socket.lock.as_ref());
        let lock = lock.map(|lock| copy(Role::Lock, false, lock));
        let sockets = self.sockets.iter();
        let sockets = sockets.map(|own| copy(Role::Listen, own.is_kept, &own.listener));
        sockets.chain(lock).collect()
    }
}

/// Binds `address` once for each of `workers` workers; what is not to listen yet does so in a worker's hands.
///
/// # Errors
/// When the address is taken, by this program or another.
pub fn bind(address: SocketAddr, workers: usize, listens: bool) -> io::Result<Bound> {
    let configured = address;
    let lock = if address.port() == 0 { None } else { Some(Arc::new(lock(address)?)) };
    let one = |address| if listens { bind_one(address) } else { reserve(address) };
    let first = one(address)?;
    let address = first.local_addr()?;
    let others = (1..workers).map(|_| one(address));
    let sockets = std::iter::once(Ok(first))
        .chain(others)
        .map(|listener| Ok(BoundSocket { listener: listener?, is_kept: false, lock: lock.clone() }))
        .collect::<io::Result<_>>()?;
    Ok(Bound { address, is_given: false, sockets, configured })
}

/// SO_REUSEPORT would let a second copy of this program silently take half of the connections. An
/// abstract unix socket lives in the same network namespace as the port, and dies with us.
fn lock(address: SocketAddr) -> io::Result<UnixListener> {
    let name = format!("cutover-listen-{address}");
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            io::Error::new(error.kind(), "another cutover process listens here already")
        }
        _ => error,
    })
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = reserve(address)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

/// A socket that is bound, but does not listen: the kernel gives it nothing yet.
fn reserve(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Accepted sockets inherit both: a system call less for each connection.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_nonblocking(true)
}

// === Given ===

impl Stock {
    /// What was given.
    ///
    /// # Errors
    /// When one of them does not listen.
    pub fn new(given: Vec<Labelled>) -> anyhow::Result<Self> {
        for Labelled { label, socket } in &given {
            let listens = SockRef::from(socket).is_listener().unwrap_or(false);
            if !listens && label.role != Role::Errors {
                bail!("the socket given for {} does not listen", label.bound);
            }
        }
        Ok(Self(given))
    }

    /// The sockets for `configured`, if any were given: as many as `workers`, or more.
    ///
    /// # Errors
    /// When they can't be used.
    pub fn listeners(
        &mut self,
        configured: SocketAddr,
        workers: usize,
    ) -> anyhow::Result<Option<Bound>> {
        let text = configured.to_string();
        let is_for = |label: &Label| {
            matches!(label.role, Role::Listen | Role::Any) && label.configured == text
        };
        let Some(bound) = self.0.iter().find(|given| is_for(&given.label)) else {
            return Ok(None);
        };
        // Port 0 may be configured more than once.
        let bound = bound.label.bound.clone();
        let lock = match self.take(|label| label.role == Role::Lock && label.bound == bound).pop() {
            Some(given) => Some(Arc::new(UnixListener::from(given.socket))),
            None if configured.port() == 0 => None,
            None => Some(Arc::new(lock(configured)?)),
        };
        let mut sockets = Vec::new();
        for given in self.take(|label| is_for(label) && label.bound == bound) {
            let listener = TcpListener::from(given.socket);
            prepare(&SockRef::from(&listener)).with_context(|| format!("can't use {bound}"))?;
            let is_kept = given.label.is_kept;
            sockets.push(BoundSocket { listener, is_kept, lock: lock.clone() });
        }
        let address = sockets.first().context("no socket")?.listener.local_addr()?;
        let given = sockets.len();
        while sockets.len() < workers {
            let own = &sockets[sockets.len() % given];
            let (listener, is_kept) = match reserve(address) {
                Ok(listener) => (listener, false),
                // Where this user may not bind there, a queue is shared.
                Err(_) => (own.listener.try_clone()?, own.is_kept),
            };
            sockets.push(BoundSocket { listener, is_kept, lock: lock.clone() });
        }
        Ok(Some(Bound { address, is_given: true, sockets, configured }))
    }

    /// The socket for the admin address that is written `configured`, if one was given.
    pub fn admin(&mut self, configured: &str) -> Option<OwnedFd> {
        let is_for = |label: &Label| {
            matches!(label.role, Role::Admin | Role::Any) && label.configured == configured
        };
        self.take(is_for).pop().map(|given| given.socket)
    }

    /// Where errors are written to.
    pub fn errors(&mut self) -> Option<OwnedFd> {
        self.take(|label| label.role == Role::Errors).pop().map(|given| given.socket)
    }

    /// A socket of systemd that is for none of the addresses `named`.
    #[must_use]
    pub fn stranger(&self, named: &[String]) -> Option<&str> {
        let labels = self.0.iter().map(|given| &given.label);
        let mut strange = labels.filter(|label| label.role == Role::Any);
        let stranger = strange.find(|label| !named.contains(&label.configured));
        stranger.map(|label| label.bound.as_str())
    }

    fn take(&mut self, mut is_for: impl FnMut(&Label) -> bool) -> Vec<Labelled> {
        self.0.extract_if(.., |given| is_for(&given.label)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_second_copy_is_kept_away() {
        let first = bind(local(0), 1, true).unwrap();
        // A port that the system chose is not locked; take its number as an operator would.
        let address = first.address;
        drop(first);
        let held = bind(address, 2, true).unwrap();
        assert_eq!(bind(address, 2, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // Whoever is handed the sockets has the lock, too, also when the first has let go of it.
        let mut stock = Stock::new(held.copies().unwrap()).unwrap();
        let taken = stock.listeners(address, 2).unwrap().unwrap();
        drop(held);
        assert_eq!(bind(address, 2, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert!(bind(address, 2, true).is_ok());
    }

    #[test]
    fn each_given_socket_is_served_whatever_the_number_of_workers() {
        let first = bind(local(0), 3, true).unwrap();
        for (workers, expected) in [(1, vec![3]), (2, vec![2, 1]), (3, vec![1; 3]), (5, vec![1; 5])]
        {
            let mut stock = Stock::new(first.copies().unwrap()).unwrap();
            let taken = stock.listeners(local(0), workers).unwrap().unwrap();
            assert_eq!((taken.address, taken.is_given), (first.address, true));
            let shares: Vec<_> = taken.share_out(workers).iter().map(Vec::len).collect();
            assert_eq!(shares, expected, "{workers} workers");
            assert!(stock.listeners(local(0), workers).unwrap().is_none());
        }
    }

    #[test]
    fn what_is_reserved_gets_no_connection_before_it_listens() {
        let first = bind(local(0), 1, true).unwrap();
        let mut stock = Stock::new(first.copies().unwrap()).unwrap();
        let taken = stock.listeners(local(0), 8).unwrap().unwrap();
        for _ in 0..64 {
            std::net::TcpStream::connect(first.address).unwrap();
        }
        for socket in &taken.sockets[1..] {
            assert!(!SockRef::from(&socket.listener).is_listener().unwrap());
        }
        let accepted = std::iter::from_fn(|| taken.sockets[0].listener.accept().ok()).count();
        assert_eq!(accepted, 64);
    }

    #[test]
    fn an_address_takes_what_is_its_own_and_the_rest_is_told() {
        let (one, other) = (bind(local(0), 1, true).unwrap(), bind(local(0), 1, true).unwrap());
        let mut given = one.copies().unwrap();
        given.extend(other.copies().unwrap());
        for (given, address) in given.iter_mut().zip([one.address, other.address]) {
            given.label.role = Role::Any;
            given.label.configured = address.to_string();
        }
        let mut stock = Stock::new(given).unwrap();
        assert!(stock.listeners(local(1), 1).unwrap().is_none());
        assert_eq!(stock.listeners(one.address, 1).unwrap().unwrap().address, one.address);
        assert!(stock.listeners(one.address, 1).unwrap().is_none());
        let (one, other) = (one.address.to_string(), other.address.to_string());
        assert_eq!(stock.stranger(&[one]), Some(&*other));
        assert_eq!(stock.stranger(std::slice::from_ref(&other)), None);
        assert!(stock.admin(&other).is_some());
    }
}
