//! The keys of TLS as they are typed: `[listen.tls]`, and `tls` of a path.

use std::ops::Range;

use toml::Spanned;

use crate::config::section::Section;

/// The most certificates of a listener.
const CERTIFICATES_MAX: usize = 256;

/// A file, with the key that names it.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) key: String,
    pub(crate) name: Spanned<String>,
}

/// `certificate` and `key`
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: File,
    pub(crate) key: File,
}

/// `[listen.tls]`
#[derive(Debug)]
pub(crate) struct ServerTls {
    /// The default first.
    pub(crate) pairs: Vec<Pair>,
    pub(crate) client_ca: Option<File>,
}

/// `tls` of a path
#[derive(Debug, Default)]
pub(crate) struct ClientTls {
    pub(crate) ca: Option<File>,
    pub(crate) server_name: Option<Spanned<String>>,
    pub(crate) pair: Option<Pair>,
}

impl ClientTls {
    /// The first key that says anything, and where.
    pub(crate) fn first_given(&self) -> Option<(&'static str, Range<usize>)> {
        let ca = self.ca.as_ref().map(|file| ("ca", file.name.span()));
        let name = self.server_name.as_ref().map(|name| ("server_name", name.span()));
        let certificate = self.pair.as_ref().map(|pair| &pair.certificate.name);
        let certificate = certificate.map(|name| ("certificate", name.span()));
        [ca, name, certificate].into_iter().flatten().min_by_key(|(_, span)| span.start)
    }
}

/// What is said of a file.
enum Said {
    Nothing,
    Nonsense,
    File(File),
}

impl Said {
    fn file(self) -> Option<File> {
        match self {
            Self::Nothing | Self::Nonsense => None,
            Self::File(file) => Some(file),
        }
    }
}

/// An empty name is none.
fn file(table: &mut Section<'_>, key: &str) -> Said {
    if !table.has(key) {
        return Said::Nothing;
    }
    match table.optional::<String>(key) {
        None => Said::Nonsense,
        Some(name) if name.get_ref().is_empty() => Said::Nothing,
        Some(name) => Said::File(File { key: table.key(key), name }),
    }
}

/// Both or neither; neither is a fault if they are `required`.
fn pair(table: &mut Section<'_>, required: bool) -> Option<Pair> {
    match (file(table, "certificate"), file(table, "key")) {
        (Said::File(certificate), Said::File(key)) => return Some(Pair { certificate, key }),
        (Said::File(_), Said::Nothing) => {
            table.fault(table.span(), "key", "is missing: a certificate needs its key");
        }
        (Said::Nothing, Said::File(_)) => {
            table.fault(table.span(), "certificate", "is missing: a key needs its certificate");
        }
        (Said::Nothing, Said::Nothing) if required => {
            table.fault(table.span(), "certificate", "is missing");
        }
        (Said::Nothing, Said::Nothing) | (Said::Nonsense, _) | (_, Said::Nonsense) => {}
    }
    None
}

/// The keys of `[listen.tls]`.
pub(crate) fn server(mut table: Section<'_>) -> ServerTls {
    let more = table.sections("certificates");
    let mut pairs: Vec<Pair> = pair(&mut table, more.is_empty()).into_iter().collect();
    for mut more in more {
        if pairs.len() == CERTIFICATES_MAX {
            let message = format!("is one certificate too many: the limit is {CERTIFICATES_MAX}");
            more.fault(more.span(), "certificate", message);
        }
        pairs.extend(pair(&mut more, true));
        more.finish();
    }
    let client_ca = file(&mut table, "client_ca").file();
    table.finish();
    ServerTls { pairs, client_ca }
}

/// The keys of a path's `tls`.
pub(crate) fn client(mut table: Section<'_>) -> ClientTls {
    let server_name = table.optional::<String>("server_name");
    let tls = ClientTls {
        ca: file(&mut table, "ca").file(),
        server_name: server_name.filter(|name| !name.get_ref().is_empty()),
        pair: pair(&mut table, false),
    };
    table.finish();
    tls
}
