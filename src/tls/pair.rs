//! A certificate with its chain and its key, checked: valid now, and belonging together.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::crypto::provider;
use crate::tls::file::{self, FileError, Fingerprint, Stamp};
use crate::tls::validity::Validity;

/// What is shown of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its file, as the config names it.
    pub file: String,
    /// The host names that it is for, in lower case; some may begin with `*.`.
    pub names: Vec<String>,
    /// The last moment at which it and all of its chain are valid.
    pub not_after: Timestamp,
}

/// A chain from a file: the certificate itself first.
#[derive(Debug)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    shown: Certificate,
    stamp: Stamp,
}

/// A key from a file.
#[derive(Debug)]
pub struct Key {
    // Its `Debug` elides the secret.
    der: PrivateKeyDer<'static>,
    stamp: Stamp,
}

/// A chain and its key.
pub struct Pair {
    /// What is shown of it.
    pub certificate: Certificate,
    pub(super) certified: Arc<CertifiedKey>,
    stamps: [Stamp; 2],
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Chain {
    /// Reads a chain that the config calls `name`. Each of its certificates must be valid `now`: with
    /// one that is not, clients that need it would refuse the chain.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(path: &Path, name: &str, now: Timestamp) -> Result<Self, FileError> {
        let (content, stamp) = file::read_stamped(path)?;
        let certificates = file::certificates(&content, path)?;
        let mut not_after = Timestamp::MAX;
        for (nth, certificate) in (1..).zip(&certificates) {
            not_after = not_after.min(valid(certificate, path, nth, now)?);
        }
        let names = names(&certificates, path)?;
        let shown = Certificate { file: name.to_owned(), names, not_after };
        Ok(Self { certificates, shown, stamp })
    }
}

/// Until when a certificate is valid, if it is `now`.
fn valid(
    certificate: &CertificateDer<'_>,
    path: &Path,
    nth: usize,
    now: Timestamp,
) -> Result<Timestamp, FileError> {
    let Some(Validity { not_before, not_after }) = Validity::of(certificate) else {
        return Err(FileError::Unreadable { file: path.to_owned(), nth });
    };
    if now < not_before {
        return Err(FileError::not_yet(path, nth, not_before, now));
    }
    // A certificate is valid up to the end of the second that it names.
    if now.as_second() > not_after.as_second() {
        return Err(FileError::Expired { file: path.to_owned(), nth, not_after });
    }
    Ok(not_after)
}

/// The host names of the first certificate.
fn names(chain: &[CertificateDer<'_>], path: &Path) -> Result<Vec<String>, FileError> {
    let unreadable = || FileError::Unreadable { file: path.to_owned(), nth: 1 };
    let first = chain.first().ok_or_else(unreadable)?;
    let certificate = webpki::EndEntityCert::try_from(first).map_err(|_| unreadable())?;
    Ok(certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

impl Key {
    /// Reads the first key of a file: PKCS #8, PKCS #1 or SEC 1. It may be the certificate's file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let (content, stamp) = file::read_stamped(path)?;
        let file = path.to_owned();
        let mut found = PrivateKeyDer::pem_slice_iter(&content);
        match found.next() {
            Some(Ok(der)) => Ok(Self { der, stamp }),
            // What PEM's reader says may repeat a line of the key.
            Some(Err(_)) => Err(FileError::Pem { file }),
            None if is_encrypted(&content) => Err(FileError::EncryptedKey { file }),
            None => Err(FileError::NoKey { file }),
        }
    }
}

/// Whether PEM has a key of PKCS #8 under a passphrase (RFC 7468 section 11).
fn is_encrypted(content: &[u8]) -> bool {
    memchr::memmem::find(content, b"-----BEGIN ENCRYPTED PRIVATE KEY-----").is_some()
}

impl Pair {
    /// Joins a chain and its key.
    ///
    /// # Errors
    /// When the key can't be used, or does not match the certificate.
    pub fn new(chain: Chain, key: Key) -> Result<Self, FileError> {
        let (certificate, of_key) = (chain.stamp.path.clone(), key.stamp.path.clone());
        let signing = provider()
            .key_provider
            .load_private_key(key.der)
            .map_err(|_| FileError::UnusableKey { file: of_key.clone() })?;
        let certified = CertifiedKey::new(chain.certificates, signing);
        // Each kind of key that aws-lc-rs has tells its public part: not to know is not to match.
        certified.keys_match().map_err(|_| FileError::Mismatch { key: of_key, certificate })?;
        let stamps = [chain.stamp, key.stamp];
        Ok(Self { certificate: chain.shown, certified: Arc::new(certified), stamps })
    }

    /// That some client can ask for it.
    ///
    /// # Errors
    /// When it is for no host: then only who asks for none can get it.
    pub fn check_hosts(&self) -> Result<(), FileError> {
        let is_for_some = !self.certificate.names.is_empty();
        let [certificate, _] = &self.stamps;
        is_for_some
            .then_some(())
            .ok_or_else(|| FileError::NoHost { file: certificate.path.clone() })
    }

    /// The files that it was read from: the certificate's and the key's.
    pub(super) fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    /// What the files held, each with what it is for.
    pub(super) fn fingerprints(&self) -> [(&'static str, Fingerprint); 2] {
        let [certificate, key] = &self.stamps;
        [("certificate", certificate.fingerprint), ("key", key.fingerprint)]
    }
}
