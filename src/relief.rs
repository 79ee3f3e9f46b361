//! Whether another process has taken over the listening sockets of this one.
//!
//! What is shared must then not be touched any more: a filter on such a socket, or an empty accept queue,
//! would be the successor's.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

/// How long a successor may take until it is ready, unless told otherwise: its config, and the names in it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The process that has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Successor {
    /// Its id.
    pub pid: u32,
    /// From its start until it took over, in seconds.
    pub seconds: f64,
}

/// Why there was no upgrade.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There can be none now, or never: nothing was tried.
    #[error("{0}")]
    Refused(&'static str),
    /// The successor did not come up.
    #[error("the new process {0}")]
    Failed(String),
}

/// Tells once that a successor has taken over. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Relief(Arc<watch::Sender<Option<Taken>>>);

#[derive(Clone, Debug)]
struct Taken {
    successor: Successor,
    addresses: HashSet<SocketAddr>,
}

impl Default for Relief {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Relief {
    /// From now on `successor` accepts from the sockets that are bound to `addresses`.
    pub fn complete(&self, successor: Successor, addresses: HashSet<SocketAddr>) {
        self.0.send_replace(Some(Taken { successor, addresses }));
    }

    /// Who has taken over, if anyone has.
    #[must_use]
    pub fn successor(&self) -> Option<Successor> {
        self.0.borrow().as_ref().map(|taken| taken.successor)
    }

    /// Whether the sockets that are bound to `address` are a successor's now.
    #[must_use]
    pub fn has_taken(&self, address: SocketAddr) -> bool {
        self.0.borrow().as_ref().is_some_and(|taken| taken.addresses.contains(&address))
    }

    /// Waits until a successor has taken over. Cancel safe.
    pub async fn wait(&self) -> Successor {
        let mut taken = self.0.subscribe();
        loop {
            if let Some(successor) = self.successor() {
                return successor;
            }
            // The sender is ours, so it is there.
            let _ = taken.changed().await;
        }
    }
}
