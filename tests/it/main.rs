//! Integration tests: the proxy between real sockets, one file a behaviour.
//!
//! `harness` holds scripted backends, raw clients and the proxy itself, in this process or as the
//! real program. Names are sentences; a test waits for events, never for a time to pass.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "scripted peers are threads on the real clock, whose delays are what is tested; a \
              test prints what it measured"
)]
#![allow(missing_docs, reason = "names of tests are sentences")]

mod harness;

mod accept;
mod activation;
mod admin;
mod admin_pages;
mod audit;
mod cli;
mod cli_check;
mod dashboard;
mod diffs;
mod direct;
mod dns;
mod dns_services;
mod dns_start;
mod docs;
mod docs_made;
mod drain;
mod endpoints;
mod failover;
mod faults;
mod guard;
mod guard_baseline;
mod guard_cli;
mod guard_kill;
mod guard_latch;
mod http2;
mod http2_drain;
mod http2_errors;
mod http2_hostile;
mod http2_port;
mod http2_refused;
mod http2_siblings;
mod http2_tunnel;
mod http2_upstream;
mod http2_upstream_faults;
mod http2_upstream_pool;
mod interim;
mod log;
mod loop_probe;
mod mirror;
mod mirror_faults;
mod mirror_findings;
mod overload;
mod packaging;
mod path_drain;
mod proxy_protocol;
mod queue;
mod ramp;
mod reload;
mod retry;
mod service;
mod split;
mod stream;
mod takeover;
mod tidy;
mod tls;
mod tls_config;
mod tls_ends;
mod tls_upstream;
mod trace;
mod trace_collectors;
mod tunnel;
mod upgrade;
mod wire;
mod wire_broken;
mod wire_deviations;
mod wire_ends;
mod wire_framed;
mod wire_http2;
mod wire_http2_replies;
mod wire_invalid;
mod wire_refused;
mod wire_requests;
mod wire_responses;
mod wire_suite;
mod wire_targets;
