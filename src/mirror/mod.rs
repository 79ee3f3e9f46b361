//! The mirror: a share of requests is answered by the other path too, and both answers are compared.
//!
//! Workers copy and hand over, without ever waiting: what does not fit is left out and counted. One
//! thread of its own asks, with its own connections, and compares; a client sees nothing of it. Its
//! pure parts are [`eligible`], [`skip`], [`breaker`] and [`harm`].

pub mod ask;
pub mod breaker;
pub mod capture;
pub mod copy;
pub mod eligible;
pub mod harm;
pub mod hub;
pub mod lane;
pub mod order;
pub mod plan;
pub mod run;
pub mod select;
pub mod skip;
pub mod stock;
pub mod upload;
pub mod watch;
