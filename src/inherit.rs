//! What this process was given at its start: sockets by systemd, or by the process that it succeeds.
//!
//! Read once, before any thread: what tells of it leaves the environment, or is good for this process
//! alone, and every descriptor is closed on exec.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use rustix::net::SocketType;

use crate::config::values::AdminAddress;
use crate::handover::{Bequest, Label, Line, Message, Role, SUCCEEDS, VERSION};
use crate::sockets::{Labelled, Stock};

/// What this process was given.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Sockets.
    pub stock: Stock,
    /// The process that this one succeeds, if it does.
    pub predecessor: Option<Predecessor>,
}

/// The process that this one succeeds.
#[derive(Debug)]
pub struct Predecessor {
    line: Line,
    errors: Option<OwnedFd>,
}

impl Inheritance {
    /// What this process was given. To be called once, before any thread is started.
    ///
    /// # Errors
    /// When a socket is not one that can be listened on.
    pub fn take() -> anyhow::Result<Self> {
        if has_predecessor() {
            return succeed().context("can't take over from the process before");
        }
        // A child of a successor has the variable too, but not the socket.
        let kind = rustix::net::sockopt::socket_type(io::stdin());
        if std::env::var_os(SUCCEEDS).is_some() && kind == Ok(SocketType::SEQPACKET) {
            bail!("the process before is gone: there is nothing to take over");
        }
        Ok(Self { stock: activated()?, predecessor: None })
    }
}

/// Whether the process that this one succeeds is still there: its parent, until that ends.
#[must_use]
pub fn has_predecessor() -> bool {
    std::env::var(SUCCEEDS).is_ok_and(|id| id == parent_id().to_string())
}

fn succeed() -> anyhow::Result<Inheritance> {
    let line = Line::new(io::stdin().as_fd().try_clone_to_owned()?);
    // Nothing else may hold it open.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut given = Vec::new();
    loop {
        let (Message::Sockets { version: VERSION, labels, more }, sockets) = line.hear()? else {
            bail!("the process before speaks another version");
        };
        let labelled = labels.into_iter().zip(sockets);
        given.extend(labelled.map(|(label, socket)| Labelled { label, socket }));
        if !more {
            break;
        }
    }
    let mut stock = Stock::new(given)?;
    let errors = stock.errors();
    Ok(Inheritance { stock, predecessor: Some(Predecessor { line, errors }) })
}

/// Sockets of systemd (sd_listen_fds(3)). They are told apart by their addresses; their names are for people.
fn activated() -> anyhow::Result<Stock> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let given = (0..sockets.len()).map(|index| {
        let name = names.next().unwrap_or_default();
        let (address, socket) = activated_one(&mut sockets, index)
            .with_context(|| format!("socket {index} of LISTEN_FDS, {name:?}"))?;
        let label = Label {
            role: Role::Any,
            configured: address.to_string(),
            is_kept: true,
            bound: if name.is_empty() {
                address.to_string()
            } else {
                format!("{address} ({name})")
            },
        };
        Ok(Labelled { label, socket })
    });
    Stock::new(given.collect::<anyhow::Result<_>>()?)
}

fn activated_one(sockets: &mut ListenFd, index: usize) -> anyhow::Result<(AdminAddress, OwnedFd)> {
    if let Ok(Some(listener)) = sockets.take_tcp_listener(index) {
        return Ok((AdminAddress::Tcp(listener.local_addr()?), listener.into()));
    }
    let listener = sockets.take_unix_listener(index)?.context("taken twice")?;
    let address = listener.local_addr()?;
    let path = address.as_pathname().context("it has no path")?;
    Ok((AdminAddress::Unix(path.to_owned()), listener.into()))
}

impl Predecessor {
    /// Where the log is to be written once this process has taken over.
    #[must_use]
    pub fn errors(&self) -> Option<&OwnedFd> {
        self.errors.as_ref()
    }

    /// Says that the config is sound and the addresses are bound, and waits until the state directory may be
    /// read; what else is to be known then.
    ///
    /// # Errors
    /// When the process before is gone: then this one must not be either.
    pub fn prepared(&self) -> anyhow::Result<Bequest> {
        match self.ask(&Message::Prepared)? {
            Message::Go(bequest) => Ok(bequest),
            other => bail!("the process before says {other:?}"),
        }
    }

    /// Says that nothing is left that could fail, and waits until all is this process's. From then on the log goes
    /// where the one before wrote it.
    ///
    /// # Errors
    /// When the process before is gone: then this one must not be either.
    pub fn take_over(self, taken: Vec<SocketAddr>) -> anyhow::Result<()> {
        match self.ask(&Message::Ready { taken })? {
            Message::Commit => {}
            other => bail!("the process before says {other:?}"),
        }
        if let Some(errors) = self.errors
            && let Err(error) = rustix::stdio::dup2_stderr(errors)
        {
            // There is no way back, and clients are served without a log too.
            tracing::error!(%error, "the log ends with the process before");
        }
        Ok(())
    }

    fn ask(&self, message: &Message) -> anyhow::Result<Message> {
        let heard = self.line.say(message, &[]).and_then(|()| self.line.hear());
        Ok(heard.context("the process before is gone")?.0)
    }
}
