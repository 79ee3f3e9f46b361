//! What goes over the wire to and from clients: checks, header rules, bodies, sockets, tunnels.

pub mod body;
pub mod check;
pub mod exchange;
pub mod forwarded;
pub mod headers;
pub mod host;
pub mod present;
pub mod scan;
pub mod sent;
pub mod socket;
pub mod trace;
pub mod upgrade;
pub mod upload;
