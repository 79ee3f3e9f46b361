//! Which certificate a client gets: by the host that it asks for (SNI, RFC 6066 section 3).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::pair::Pair;

/// Certificates by host. A name that two of them have is the earlier one's.
pub(super) struct ByHost {
    exact: HashMap<String, Arc<CertifiedKey>>,
    // By what follows `*.`: a wildcard stands for one label (RFC 6125 section 6.4.3).
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exact, wildcards) = (self.exact.keys(), self.wildcards.keys());
        f.debug_set().entries(exact).entries(wildcards).finish()
    }
}

impl ByHost {
    /// `first` is for whoever asks for no host, or for one that no certificate has.
    pub(super) fn new(first: &Pair, more: &[Pair]) -> Self {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        for pair in std::iter::once(first).chain(more) {
            for name in &pair.certificate.names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcards, parent),
                    None => (&mut exact, name.as_str()),
                };
                table.entry(name.to_owned()).or_insert_with(|| pair.certified.clone());
            }
        }
        Self { exact, wildcards, first: first.certified.clone() }
    }

    pub(super) fn choose(&self, host: Option<&str>) -> &Arc<CertifiedKey> {
        host.and_then(|host| self.find(host)).unwrap_or(&self.first)
    }

    fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        let parent = || host.split_once('.').map(|(_, parent)| parent);
        self.exact.get(&*host).or_else(|| self.wildcards.get(parent()?))
    }
}

impl ResolvesServerCert for ByHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name()).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{Authority, Files};

    #[test]
    fn the_certificate_is_chosen_by_host() {
        let (files, authority) = (Files::new(), Authority::new());
        let hosts: [&[&str]; 4] = [
            &["10.0.0.1"],
            &["a.test", "*.b.test"],
            &["x.b.test", "A.test"],
            &["*.b.test", "*.c.b.test", "*.test", "b.test"],
        ];
        let pairs = hosts.map(|hosts| files.pair(&authority.issue(hosts)));
        let [first, more @ ..] = pairs;
        let by_host = ByHost::new(&first, &more);
        for (host, expected) in [
            (None, 0),
            (Some("other"), 0),
            (Some(""), 0),
            (Some("."), 0),
            (Some("a.test"), 1),
            (Some("A.TEST"), 1),
            (Some("y.b.test"), 1),
            (Some("Y.B.Test"), 1),
            (Some("x.b.test"), 2),
            (Some("y.c.b.test"), 3),
            (Some("b.test"), 3),
            (Some("z.y.b.test"), 0),
            // Too wide: no client would believe it.
            (Some("c.test"), 0),
            (Some("*.b.test"), 1),
        ] {
            let chosen = by_host.choose(host);
            let of = |pair: &Pair| Arc::ptr_eq(&pair.certified, chosen);
            let index = std::iter::once(&first).chain(&more).position(of);
            assert_eq!(index, Some(expected), "{host:?}");
        }
        assert!(first.check_hosts().is_err() && more.iter().all(|pair| pair.check_hosts().is_ok()));
    }
}
