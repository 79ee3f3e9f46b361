//! What hostile bytes do to cutover: one module for each fuzz target, with its invariants as assertions.
//!
//! The targets in `fuzz_targets/` hand libFuzzer's bytes to `check` here. A panic anywhere in the
//! process, also one of a worker's thread, ends it and is a finding: libfuzzer-sys aborts on it.

pub mod backend_reply;
pub mod client_connection;
pub mod compare;
pub mod config;
pub mod forwarded;
pub mod http1;
pub mod http2;
pub mod peers;
pub mod proxy_protocol;
pub mod route_template;
pub mod scripted_backend;
pub mod sound_backend;
pub mod stage;
