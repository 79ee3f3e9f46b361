//! Simulations of hours, by a seed and in no time: the judge, and who blocks an event loop.
//!
//! A binary of its own, since it takes a core for half a minute, which tests with real sockets beside
//! it would feel.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test prints its seed and figures")]
#![allow(missing_docs, reason = "names of tests are sentences")]

mod event_loop;
mod judge;
mod stalls;
