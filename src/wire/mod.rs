//! What goes over the wire, to and from clients and backends: checks, header rules, bodies, sockets,
//! tunnels, and what lies between HTTP/1 and HTTP/2.

pub mod body;
pub mod check;
pub mod chunks;
pub mod date;
pub mod decode;
pub mod duplex;
pub mod encode;
pub mod exchange;
pub mod fields;
pub mod forwarded;
pub mod frames;
pub mod headers;
pub mod host;
pub mod inflow;
pub mod input;
pub mod interim;
pub mod joined;
pub mod length;
pub mod link;
pub mod outflow;
pub mod present;
pub mod scan;
pub mod socket;
pub mod trace;
pub mod translate;
pub mod transport;
pub mod upgrade;
pub mod upload;
