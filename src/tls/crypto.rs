//! The one provider of cryptography, and the order of its cipher suites.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub(super) const AES_128_GCM: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// The one provider. AES-128-GCM comes first: most servers have its SHA-256 in hardware,
/// but not the SHA-384 of AES-256-GCM.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !AES_128_GCM.contains(&suite.suite()));
    Arc::new(provider)
}

/// Why no version of TLS can be missing from the provider.
pub(super) const HAS_BOTH: &str = "aws-lc-rs has cipher suites of TLS 1.2 and of TLS 1.3";
