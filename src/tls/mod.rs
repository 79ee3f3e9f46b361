//! TLS: certificates, keys and roots read from files, checked, and made into what rustls works with.
//!
//! Nothing here opens a socket or reads a config. Time is an argument. What a file holds is never
//! shown: not in errors, not in `Debug`.

pub mod client;
pub mod crypto;
pub mod file;
pub mod pair;
pub mod roots;
pub mod server;
mod sni;
mod validity;

#[cfg(test)]
pub(crate) mod tests;

pub use crate::tls::client::{ClientTls, NoServerName};
pub use crate::tls::file::{FileError, Fingerprint, Stamp};
pub use crate::tls::pair::Certificate;
pub use crate::tls::server::{ServerTls, Settings};
