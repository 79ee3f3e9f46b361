//! What a config says of TLS, made: each file that it names is read and checked, and every fault of
//! one is a fault of the key that names it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use toml::Spanned;

use crate::config::endpoint::{EndpointConfig, Origin};
use crate::config::raw::Raw;
use crate::config::raw::tls::{self as raw, File};
use crate::config::section::Faults;
use crate::config::values::Protocol;
use crate::tls::client::server_name;
use crate::tls::pair::{Chain, Key, Pair};
use crate::tls::roots::Roots;
use crate::tls::{ClientTls, FileError, Fingerprint, ServerTls, Stamp, file};

/// Where the files of a config are, and when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The directory that relative names are relative to: the config file's.
    pub(crate) dir: &'a Path,
    /// The time at which certificates must be valid.
    pub(crate) now: Timestamp,
    /// The files in force. A certificate that expires while it is served must not keep an operator from
    /// changing a weight.
    pub(crate) in_force: &'a [Stamp],
}

/// Each file of TLS that a config names.
pub(crate) fn named_files(raw: &Raw, dir: &Path) -> Vec<PathBuf> {
    let of_pair = |pair: &raw::Pair| [dir.join(name(&pair.certificate)), dir.join(name(&pair.key))];
    let listen = raw.listen.tls.iter().flat_map(|tls| {
        let client_ca = tls.client_ca.as_ref().map(|file| dir.join(name(file)));
        tls.pairs.iter().flat_map(of_pair).chain(client_ca)
    });
    let paths = [&raw.legacy.tls, &raw.async_.tls].into_iter().flat_map(|tls| {
        let ca = tls.ca.as_ref().map(|file| dir.join(name(file)));
        tls.pair.iter().flat_map(of_pair).chain(ca)
    });
    listen.chain(paths).collect()
}

fn name(file: &File) -> &str {
    file.name.get_ref()
}

/// What is wrong is among the faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told;

impl Place<'_> {
    /// TLS towards clients.
    pub(crate) fn server(
        &self,
        raw: &raw::ServerTls,
        http2: bool,
        faults: &Faults<'_>,
    ) -> Result<ServerTls, Told> {
        // All are read before any is missed: each fault is to be told.
        let pairs: Vec<_> = raw.pairs.iter().map(|pair| self.pair(pair, faults)).collect();
        let clients = raw.client_ca.as_ref().map(|file| self.roots(file, faults)).transpose();
        let pairs = pairs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let more = raw.pairs.iter().zip(&pairs).skip(1);
        for (raw, pair) in more {
            pair.check_hosts().map_err(|error| fault(&raw.certificate, &error, faults))?;
        }
        let mut pairs = pairs.into_iter();
        // A table without any is a fault already.
        let first = pairs.next().ok_or(Told)?;
        ServerTls::new(first, pairs.collect(), clients?, http2).map_err(|error| {
            let file = &raw.pairs[0].certificate;
            faults.add(file.name.span(), file.key.clone(), error.to_string());
            Told
        })
    }

    /// TLS towards the endpoints of the path `side`, which may have none that needs it.
    pub(crate) fn client(
        &self,
        raw: &raw::ClientTls,
        (side, protocol): (&str, Protocol),
        endpoints: &[Spanned<EndpointConfig>],
        faults: &Faults<'_>,
    ) -> Result<ClientTls, Told> {
        check_use(raw, side, endpoints, faults);
        let name = raw.server_name.as_ref().map(|name| {
            server_name(name.get_ref()).map_err(|error| {
                faults.add(name.span(), format!("{side}.tls.server_name"), error.to_string());
                Told
            })
        });
        if name.is_none() {
            check_hosts(side, endpoints, faults);
        }
        let roots = raw.ca.as_ref().map(|file| self.roots(file, faults)).transpose();
        let pair = raw.pair.as_ref().map(|pair| self.pair(pair, faults)).transpose();
        let roots = roots?.unwrap_or_else(Roots::public);
        Ok(ClientTls::new(roots, name.transpose()?, pair?, protocol))
    }

    fn pair(&self, raw: &raw::Pair, faults: &Faults<'_>) -> Result<Pair, Told> {
        let certificate = name(&raw.certificate);
        let path = self.dir.join(certificate);
        let chain = match Chain::load(&path, certificate, self.now) {
            Err(FileError::Expired { not_after, .. }) if self.has_in_force(&path) => {
                tracing::warn!(%not_after, certificate, "is served although it has expired");
                Chain::load(&path, certificate, not_after)
            }
            loaded => loaded,
        };
        let chain = chain.map_err(|error| fault(&raw.certificate, &error, faults));
        let key = Key::load(&self.dir.join(name(&raw.key)));
        let key = key.map_err(|error| fault(&raw.key, &error, faults));
        Pair::new(chain?, key?).map_err(|error| fault(&raw.key, &error, faults))
    }

    fn has_in_force(&self, path: &Path) -> bool {
        let Ok(content) = file::read(path) else {
            return false;
        };
        let fingerprint = Fingerprint::of(&content);
        self.in_force.iter().any(|stamp| stamp.path == path && stamp.fingerprint == fingerprint)
    }

    fn roots(&self, file: &File, faults: &Faults<'_>) -> Result<Roots, Told> {
        let roots = Roots::load(&self.dir.join(name(file)));
        roots.map_err(|error| fault(file, &error, faults))
    }
}

/// What is said of TLS where nothing speaks it is a mistake: an endpoint lacks its `s`.
fn check_use(
    raw: &raw::ClientTls,
    side: &str,
    endpoints: &[Spanned<EndpointConfig>],
    faults: &Faults<'_>,
) {
    // Without endpoints their list is faulty itself.
    let is_useless = endpoints.iter().all(|endpoint| !endpoint.get_ref().is_tls);
    let given = raw.first_given().filter(|_| is_useless && !endpoints.is_empty());
    if let Some((key, span)) = given {
        let message = "is of no use: no endpoint is https://";
        faults.add(span, format!("{side}.tls.{key}"), message);
    }
}

/// The certificate of an endpoint must be for its host, if nothing else is said.
fn check_hosts(side: &str, endpoints: &[Spanned<EndpointConfig>], faults: &Faults<'_>) {
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.get_ref().is_tls) {
        let host = match &endpoint.get_ref().origin {
            Origin::Address(_) => continue,
            Origin::Host { name, .. } | Origin::Service { name } => name,
        };
        if let Err(error) = server_name(host) {
            faults.add(endpoint.span(), format!("{side}.endpoints"), error.to_string());
        }
    }
}

fn fault(file: &File, error: &FileError, faults: &Faults<'_>) -> Told {
    let (span, key, message) = (file.name.span(), file.key.clone(), error.to_string());
    if error.is_passing() {
        faults.add_passing(span, key, message);
    } else {
        faults.add(span, key, message);
    }
    Told
}
