//! Where the endpoints of a configured origin are: at its address, or at what DNS answered.
//!
//! Pure. A host name stands for all of its addresses, each an endpoint of its own, as its hosts fail
//! one by one. An IPv6 and an IPv4 address are taken for one host with two ways to it, as long as
//! there are both: which belong together DNS does not say, and as all prefer the one family, each
//! host still gets its share.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::config::endpoint::{EndpointConfig, Origin};

/// The most endpoints of one path, over all of its origins: what bounds tables, pools and probes.
pub const MEMBERS_MAX: usize = 256;

/// Where one endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its addresses, the preferred one first; one or two.
    pub addresses: Vec<SocketAddr>,
    /// Host and port by which it is known.
    pub authority: String,
    /// Whether it is spoken to over TLS.
    pub is_tls: bool,
    /// Its share relative to the others of its origin.
    pub weight: u32,
    /// Lower ones go first.
    pub priority: u16,
}

/// What DNS last answered for each name.
pub type Answers = HashMap<Origin, Vec<Host>>;

/// A host that DNS has named: the one of a host name, or one of a service's (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Lower ones go first.
    pub priority: u16,
    /// Its share; 0 is hardly any.
    pub weight: u16,
    /// Its IPv6 addresses; `None` if that could not be told.
    pub v6: Option<Vec<IpAddr>>,
    /// Its IPv4 addresses; `None` if that could not be told.
    pub v4: Option<Vec<IpAddr>>,
}

impl Host {
    /// Takes over from what was known of it before what could not be told now.
    pub fn keep(&mut self, known: &[Self]) {
        let same = known.iter().find(|old| (&old.name, old.port) == (&self.name, self.port));
        if let Some(old) = same {
            self.v6 = self.v6.take().or_else(|| old.v6.clone());
            self.v4 = self.v4.take().or_else(|| old.v4.clone());
        }
    }

    fn locations(&self) -> impl Iterator<Item = Location> {
        let authority = format!("{}:{}", self.name.trim_end_matches('.'), self.port);
        let (weight, priority) = (u32::from(self.weight.max(1)), self.priority);
        pairs(self).into_iter().map(move |addresses| Location {
            addresses,
            authority: authority.clone(),
            is_tls: false,
            weight,
            priority,
        })
    }
}

/// The endpoints of one entry of the config. A name that was never answered has none.
#[must_use]
pub fn locate(endpoint: &EndpointConfig, answers: &Answers) -> Vec<Location> {
    let mut locations = match &endpoint.origin {
        Origin::Address(address) => vec![Location {
            addresses: vec![*address],
            authority: address.to_string(),
            is_tls: false,
            weight: 1,
            priority: 0,
        }],
        origin @ (Origin::Host { .. } | Origin::Service { .. }) => {
            answers.get(origin).map(|hosts| of_hosts(hosts)).unwrap_or_default()
        }
    };
    for location in &mut locations {
        location.weight *= u32::from(endpoint.weight);
        location.is_tls = endpoint.is_tls;
    }
    locations
}

/// The endpoints of these hosts, in an order that an answer in another order does not change.
#[must_use]
pub fn of_hosts(hosts: &[Host]) -> Vec<Location> {
    let mut located: Vec<_> = hosts.iter().flat_map(Host::locations).collect();
    located.sort_by(|a, b| (a.priority, &a.addresses).cmp(&(b.priority, &b.addresses)));
    located.dedup_by(|a, b| a.addresses == b.addresses);
    located
}

/// IPv6 first (RFC 6724), each with an IPv4 address to fall back to.
fn pairs(host: &Host) -> Vec<Vec<SocketAddr>> {
    let sorted = |addresses: &Option<Vec<IpAddr>>| {
        let found = addresses.iter().flatten().map(|ip| SocketAddr::new(*ip, host.port));
        found.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let (v6, v4) = (sorted(&host.v6), sorted(&host.v4));
    let pair = |index: usize| v6.get(index).into_iter().chain(v4.get(index)).copied().collect();
    (0..v6.len().max(v4.len())).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(locations: &[Location]) -> Vec<String> {
        let show = |location: &Location| {
            let addresses: Vec<_> = location.addresses.iter().map(ToString::to_string).collect();
            format!("{}*{} p{}", addresses.join("|"), location.weight, location.priority)
        };
        locations.iter().map(show).collect()
    }

    fn host(addresses: &[&str]) -> Host {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let (v6, v4) = addresses.iter().partition(|address| address.is_ipv6());
        let name = "h.".to_owned();
        Host { name, port: 80, priority: 0, weight: 1, v6: Some(v6), v4: Some(v4) }
    }

    #[test]
    fn each_address_is_an_endpoint_and_two_families_are_two_ways_to_one() {
        for (addresses, expected) in [
            (&[][..], &[][..]),
            (&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &["10.0.0.1:80*1 p0", "10.0.0.2:80*1 p0"]),
            (&["::2", "::1"], &["[::1]:80*1 p0", "[::2]:80*1 p0"]),
            (&["127.0.0.1", "::1"], &["[::1]:80|127.0.0.1:80*1 p0"]),
            (&["10.0.0.1", "::1", "10.0.0.2"], &["10.0.0.2:80*1 p0", "[::1]:80|10.0.0.1:80*1 p0"]),
        ] {
            assert_eq!(shown(&of_hosts(&[host(addresses)])), expected, "{addresses:?}");
        }
    }

    #[test]
    fn a_service_has_ports_weights_and_priorities() {
        let target =
            |port, priority, weight, address| Host { port, priority, weight, ..host(&[address]) };
        let targets = [
            target(81, 20, 5, "10.0.0.3"),
            target(80, 10, 60, "10.0.0.1"),
            target(80, 10, 0, "10.0.0.2"),
            target(80, 10, 60, "10.0.0.1"),
        ];
        let located = of_hosts(&targets);
        assert_eq!(
            shown(&located),
            ["10.0.0.1:80*60 p10", "10.0.0.2:80*1 p10", "10.0.0.3:81*5 p20"]
        );
        assert_eq!(located[0].authority, "h:80");
    }

    #[test]
    fn what_could_not_be_told_is_as_it_was() {
        let known = [host(&["::1", "10.0.0.1"]), Host { port: 81, ..host(&["::9"]) }];
        let mut half = Host { v4: None, ..host(&["::2"]) };
        half.keep(&known);
        assert_eq!(shown(&of_hosts(&[half])), ["[::2]:80|10.0.0.1:80*1 p0"]);
        // "None" is an answer, too.
        let mut without = host(&["::2"]);
        without.keep(&known);
        assert_eq!(shown(&of_hosts(&[without])), ["[::2]:80*1 p0"]);
        let mut other = Host { port: 82, v6: None, v4: None, ..host(&[]) };
        other.keep(&known);
        assert_eq!(of_hosts(&[other]), []);
    }

    fn plain(origin: Origin) -> EndpointConfig {
        EndpointConfig { origin, is_tls: false, weight: 1, usage: None }
    }

    #[test]
    fn weight_and_scheme_of_an_entry_are_those_of_each_of_its_endpoints() {
        let origin = Origin::Host { name: "h".to_owned(), port: 80 };
        let endpoint = EndpointConfig { is_tls: true, weight: 3, ..plain(origin.clone()) };
        assert!(locate(&endpoint, &Answers::new()).is_empty());
        let answers = Answers::from([(origin, vec![host(&["10.0.0.1", "10.0.0.2"])])]);
        let located = locate(&endpoint, &answers);
        assert_eq!(shown(&located), ["10.0.0.1:80*3 p0", "10.0.0.2:80*3 p0"]);
        assert!(located.iter().all(|location| location.is_tls));
        let origin = "http://127.0.0.1:9".parse().unwrap();
        let fixed = EndpointConfig { weight: 2, ..plain(origin) };
        let located = locate(&fixed, &answers);
        assert_eq!(shown(&located), ["127.0.0.1:9*2 p0"]);
        assert!(!located[0].is_tls);
    }
}
