//! Whose signatures are believed: the certificates of a CA, or those that Mozilla's browsers believe.

use std::path::Path;

use rustls::RootCertStore;

use crate::tls::file::{self, FileError, Stamp};

/// Roots, and the file that they are from, if they are.
#[derive(Clone, Debug)]
pub struct Roots {
    pub(super) store: RootCertStore,
    pub(super) stamp: Option<Stamp>,
}

impl Roots {
    /// Reads the certificates of a CA, at least one. Whether one has expired is not asked: neither
    /// does who verifies a chain with it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let (content, stamp) = file::read_stamped(path)?;
        let mut store = RootCertStore::empty();
        for (nth, certificate) in (1..).zip(file::certificates(&content, path)?) {
            let unreadable = |_| FileError::Unreadable { file: path.to_owned(), nth };
            store.add(certificate).map_err(unreadable)?;
        }
        Ok(Self { store, stamp: Some(stamp) })
    }

    /// The roots of the public web, as they were when this program was built.
    #[must_use]
    pub fn public() -> Self {
        let store = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        Self { store, stamp: None }
    }
}
