//! Files of TLS: read whole, with a limit, known by a hash of their content, and what may be wrong
//! with them.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::is_out_of_resources;

/// The largest file that is read, in bytes: a bundle of all public roots has a quarter of it.
const BYTES_MAX: u64 = 1 << 20;
/// How far the clock of whoever signed a certificate may be ahead of ours: so long a certificate that
/// is not valid yet is waited for.
const SKEW_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Why a file can't be used: the operator's fault, or the system's where it can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read, or is over the limit.
    #[error("can't read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not PEM, or broken PEM.
    #[error("{} is not sound PEM", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
    },
    /// It has no certificate.
    #[error("{} has no certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A certificate in it can't be read.
    #[error("{}: certificate {nth} can't be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Which one, from 1.
        nth: usize,
    },
    /// It has expired.
    #[error("{}{} has expired on {not_after}", file.display(), which(*nth))]
    Expired {
        /// The file.
        file: PathBuf,
        /// Which certificate of its chain, from 1.
        nth: usize,
        /// The last moment at which it was valid.
        not_after: Timestamp,
    },
    /// It is not valid yet.
    #[error("{}{} is not valid before {not_before}", file.display(), which(*nth))]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// Which certificate of its chain, from 1.
        nth: usize,
        /// The first moment at which it is valid.
        not_before: Timestamp,
        /// Whether that is soon.
        is_soon: bool,
    },
    /// It has no private key.
    #[error("{} has no private key", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// Its key is encrypted.
    #[error("{} has an encrypted key: it must be without a passphrase", file.display())]
    EncryptedKey {
        /// The file.
        file: PathBuf,
    },
    /// Its key is of no kind that can be used.
    #[error("{} has a key that can't be used: RSA, ECDSA P-256, P-384 and Ed25519 can", file.display())]
    UnusableKey {
        /// The file.
        file: PathBuf,
    },
    /// Certificate and key don't belong together.
    #[error("key {} does not match certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// No client can ask for this certificate, and it is not the first.
    #[error("{} names no host, so no client would ever get it", file.display())]
    NoHost {
        /// The file.
        file: PathBuf,
    },
}

/// The first certificate of a chain is what its file is taken for.
fn which(nth: usize) -> String {
    if nth == 1 { String::new() } else { format!(": certificate {nth} of the chain") }
}

impl FileError {
    /// That a certificate is valid only from `not_before` on.
    pub(super) fn not_yet(file: &Path, nth: usize, not_before: Timestamp, now: Timestamp) -> Self {
        let is_soon = not_before.duration_since(now) <= SKEW_MAX;
        Self::NotYetValid { file: file.to_owned(), nth, not_before, is_soon }
    }

    /// Whether the same file may be fine a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_out_of_resources(source),
            Self::NotYetValid { is_soon, .. } => *is_soon,
            Self::Pem { .. }
            | Self::NoCertificate { .. }
            | Self::Unreadable { .. }
            | Self::Expired { .. }
            | Self::NoKey { .. }
            | Self::EncryptedKey { .. }
            | Self::UnusableKey { .. }
            | Self::Mismatch { .. }
            | Self::NoHost { .. } => false,
        }
    }
}

/// The hash by which a content is known. Keys have one too, so it is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Fingerprint {
    /// That of a content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(xxh3_128(content))
    }

    /// That of several contents in this order, each with what it is for.
    pub(super) fn of_all<'a>(parts: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut bytes = Vec::new();
        for (purpose, Self(hash)) in parts {
            bytes.extend_from_slice(purpose.as_bytes());
            // No purpose contains a zero, so that none runs into its hash.
            bytes.push(0);
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
        Self::of(&bytes)
    }
}

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The file.
    pub path: PathBuf,
    /// What it held.
    pub fingerprint: Fingerprint,
}

/// Reads a whole file of at most 1 MiB.
///
/// # Errors
/// When it can't be read, is no regular file, or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before it is opened: to open a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    let read = fs::File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut content)?;
    if read as u64 > BYTES_MAX {
        return Err(io::Error::other("larger than the limit of 1 MiB"));
    }
    Ok(content)
}

/// Reads a file, with the hash of what it holds.
pub(super) fn read_stamped(path: &Path) -> Result<(Vec<u8>, Stamp), FileError> {
    let content = read(path).map_err(|source| FileError::Read { file: path.to_owned(), source })?;
    let fingerprint = Fingerprint::of(&content);
    Ok((content, Stamp { path: path.to_owned(), fingerprint }))
}

/// The certificates in PEM, at least one; what else is there is passed over.
pub(super) fn certificates(
    content: &[u8],
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    // What PEM's reader says repeats a line of the file, which may hold a key as well.
    let found: Vec<_> = CertificateDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|_| FileError::Pem { file: file.to_owned() })?;
    if found.is_empty() {
        return Err(FileError::NoCertificate { file: file.to_owned() });
    }
    Ok(found)
}
