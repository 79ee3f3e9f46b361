//! `cutover` moves live traffic from a legacy backend to its successor without losing a request.
//!
//! It splits requests between two paths by a weight that reloads while it runs, forwards them,
//! keeps count of each path, and drains on SIGTERM.
//!
//! Two planes. The data plane is one thread per core, each with its own sockets, pools and counters;
//! a request takes no lock and wakes no other thread. The control plane is one thread more: it
//! watches the config, serves the admin API and runs the drain. It publishes one immutable
//! [`snapshot::Snapshot`] that each request loads once.
//!
//! Life of a request: 1 accept ([`listen`]) · 2 first bytes ([`serve::opening`]) · 3 HTTP ([`serve`]) ·
//! 4 load the snapshot, name the request ([`proxy`]) · 5 decide the path ([`route`]) · 6 clean the
//! headers ([`wire::headers`]) · 7 admit, pick, send ([`forward`], [`upstream`]) · 8 stream back,
//! counted ([`wire::body`]) · 9 mirror ([`mirror`]) · 10 record once, at the end ([`journal`]).

// In reading order: what a request meets, then what surrounds it.
pub mod app;
pub mod threads;
pub mod worker;

pub mod listen;
pub mod proxy_protocol;
pub mod quota;
pub mod serve;
pub mod sockets;

mod arrival;
mod departure;
pub mod forward;
pub mod journal;
pub mod proxy;
pub mod view;

pub mod route;
pub mod upstream;
pub mod wire;

pub mod access_log;
pub mod audit;
pub mod compare;
pub mod drain;
pub mod durable;
pub mod error;
pub mod guard;
pub mod handover;
pub mod ids;
pub mod inherit;
pub mod ledger;
pub mod metrics;
pub mod mirror;
pub mod record;
pub mod relief;
pub mod report;
pub mod tick;
pub mod trace;
pub mod upgrade;
pub mod vocab;

pub mod config;
pub mod dns;
pub mod publisher;
pub mod snapshot;
pub mod tls;
pub mod upkeep;

pub mod admin;
pub mod cli;
pub mod demo;
