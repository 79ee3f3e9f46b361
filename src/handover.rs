//! What a process and its successor say to each other in an upgrade, and how sockets go along.
//!
//! One pair of connected sockets with message boundaries: the successor finds its end as its standard
//! input, so nothing but that descriptor is inherited, and all others come as SCM_RIGHTS (unix(7)), closed
//! on exec. Four steps, so that never both write the state directory, and no request is in the hands of a
//! process that may yet be given up: sockets; `Prepared`; `Go`, from which on the old one decides nothing;
//! `Ready`; `Commit`, from which on the new one accepts.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// Tells a process that its standard input is a [`Line`] to the process with this id, its parent.
pub const SUCCEEDS: &str = "CUTOVER_SUCCEEDS";
/// The version of these messages.
pub const VERSION: u32 = 1;
/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
pub const SOCKETS_MAX: usize = 64;
/// The largest message, in bytes: a label of each of its descriptors has some 200.
const MESSAGE_MAX: usize = 32 << 10;
/// How long a message may wait for room. The kernel holds those of a thousand sockets unread.
const SAY_MAX: Duration = Duration::from_secs(5);

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The old one: descriptors, in the order of their labels.
    Sockets {
        /// [`VERSION`].
        version: u32,
        /// What they are.
        labels: Vec<Label>,
        /// Whether another message like this follows.
        more: bool,
    },
    /// The new one: the config is sound, and the addresses are bound.
    Prepared,
    /// The old one: the state directory is yours to read.
    Go(Bequest),
    /// The new one: nothing is left that could fail.
    Ready {
        /// Addresses whose sockets it has taken.
        taken: Vec<SocketAddr>,
    },
    /// The old one: all is yours.
    Commit,
}

/// What a successor has to know beside what lies in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bequest {
    /// Upgrades that have succeeded, with this one.
    pub succeeded: u64,
    /// Upgrades that have failed.
    pub failed: u64,
    /// The paced returns that are under way.
    pub returns: Vec<Return>,
    /// Names of endpoints whose addresses the old one does not know either.
    pub unresolved: Vec<String>,
}

/// A share on its way back to the legacy path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Return {
    /// The route.
    pub route: String,
    /// The weight now.
    pub from: f64,
    /// The weight at its end.
    pub to: f64,
    /// How long it takes until then.
    pub seconds: f64,
}

/// What a socket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// What it is for.
    pub role: Role,
    /// Its address in the config.
    pub configured: String,
    /// The address that it is bound to, with the port that was chosen.
    pub bound: String,
    /// Whether systemd keeps it, too: what waits in it is not lost when all of this program have ended.
    #[serde(default)]
    pub is_kept: bool,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients.
    Listen,
    /// The admin API.
    Admin,
    /// Keeps a second copy away from an address.
    Lock,
    /// Where errors and the log are written.
    Errors,
    /// Not told: whatever is configured at its address.
    Any,
}

/// One end.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Both ends: ours, and the one that becomes the successor's standard input.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        set_socket_timeout(&ours, Timeout::Send, Some(SAY_MAX))?;
        Ok((Self(ours), theirs))
    }

    /// The end that is `socket`.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// How long [`Self::hear`] waits; for ever by default.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn be_patient_for(&self, span: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, Some(span))?)
    }

    /// Says something, with at most [`SOCKETS_MAX`] descriptors.
    ///
    /// # Errors
    /// When the other one is gone, or does not listen in time.
    pub fn say(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many descriptors in one message"));
        }
        // A signal interrupts what has a timeout, and nothing is done again by itself (signal(7)).
        retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// What the other one says next.
    ///
    /// # Errors
    /// `UnexpectedEof` when it is gone, `WouldBlock` when it says nothing in time.
    pub fn hear(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut text = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let heard = retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut text)];
            recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        if heard.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if heard.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut off"));
        }
        Ok((serde_json::from_slice(&text[..heard.bytes])?, sockets))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_whole_with_its_sockets() {
        let (old, new) = Line::pair().unwrap();
        let new = Line::new(new);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        let label = Label {
            role: Role::Listen,
            configured: "127.0.0.1:0".to_owned(),
            bound: bound.to_string(),
            is_kept: true,
        };
        let labels = vec![label; SOCKETS_MAX];
        let message = Message::Sockets { version: VERSION, labels, more: false };
        old.say(&message, &[listener.as_fd(); SOCKETS_MAX]).unwrap();
        old.say(&Message::Commit, &[]).unwrap();
        let (heard, sockets) = new.hear().unwrap();
        assert_eq!((heard, sockets.len()), (message, SOCKETS_MAX));
        for socket in sockets {
            assert_eq!(std::net::TcpListener::from(socket).local_addr().unwrap(), bound);
        }
        assert_eq!(new.hear().unwrap().0, Message::Commit);
    }

    #[test]
    fn one_that_is_gone_is_noticed_and_one_that_is_silent_too() {
        let (old, new) = Line::pair().unwrap();
        old.be_patient_for(Duration::from_millis(10)).unwrap();
        assert_eq!(old.hear().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(new);
        assert_eq!(old.hear().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(old.say(&Message::Commit, &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
