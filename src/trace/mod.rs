//! The spans of requests: which are recorded, what is kept of each, and their way to a collector.
//!
//! With `trace.otlp_endpoint` empty nothing of this is on a request's way. A request that is recorded
//! keeps its spans itself; at its end they are handed on by `try_send` to a thread of their own, which
//! nobody waits for, and which looks for itself: no worker ever wakes it.

mod otlp;
pub mod run;
pub mod span;
pub mod tracer;
