//! Where the endpoints of a configured origin are: at its address, or at what DNS answered.
//!
//! Pure. A host name stands for all of its addresses, each an endpoint of its own, as its hosts fail
//! one by one. An IPv6 and an IPv4 address are taken for one host with two ways to it, as long as
//! there are both: which belong together DNS does not say, and as all prefer the one family, each
//! host still gets its share.

use std::collections::HashMap;
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
    /// Its share relative to the others of its origin.
    pub weight: u32,
    /// Lower ones go first.
    pub priority: u16,
}

/// What DNS last answered for each name.
pub type Answers = HashMap<Origin, Vec<Location>>;

/// A target of a service (RFC 2782), with its addresses.
#[derive(Clone, Debug)]
pub struct ServiceTarget {
    /// Its host name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Lower ones go first.
    pub priority: u16,
    /// Its share; 0 is hardly any.
    pub weight: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The endpoints of one entry of the config. A name that was never answered has none.
#[must_use]
pub fn locate(endpoint: &EndpointConfig, answers: &Answers) -> Vec<Location> {
    let mut locations = match &endpoint.origin {
        Origin::Address(address) => vec![Location {
            addresses: vec![*address],
            authority: address.to_string(),
            weight: 1,
            priority: 0,
        }],
        origin @ (Origin::Host { .. } | Origin::Service { .. }) => {
            answers.get(origin).cloned().unwrap_or_default()
        }
    };
    for location in &mut locations {
        location.weight *= u32::from(endpoint.weight);
    }
    locations
}

/// The endpoints of a host with these addresses.
#[must_use]
pub fn of_host(name: &str, port: u16, addresses: &[IpAddr]) -> Vec<Location> {
    let authority = format!("{name}:{port}");
    let location =
        |addresses| Location { addresses, authority: authority.clone(), weight: 1, priority: 0 };
    pairs(port, addresses).into_iter().map(location).collect()
}

/// The endpoints of a service with these targets.
#[must_use]
pub fn of_service(targets: &[ServiceTarget]) -> Vec<Location> {
    let located = targets.iter().flat_map(|target| {
        let locations = of_host(target.name.trim_end_matches('.'), target.port, &target.addresses);
        let ServiceTarget { priority, weight, .. } = *target;
        let weight = u32::from(weight.max(1));
        locations.into_iter().map(move |location| Location { weight, priority, ..location })
    });
    let mut located: Vec<_> = located.collect();
    located.sort_by(|a, b| (a.priority, &a.addresses).cmp(&(b.priority, &b.addresses)));
    located.dedup_by(|a, b| a.addresses == b.addresses);
    located
}

/// IPv6 first (RFC 6724), each with an IPv4 address to fall back to; sorted, so that an answer in
/// another order is the same answer.
fn pairs(port: u16, addresses: &[IpAddr]) -> Vec<Vec<SocketAddr>> {
    let family = |is_v6: bool| {
        let of_family = addresses.iter().filter(|address| address.is_ipv6() == is_v6);
        let mut found: Vec<_> = of_family.map(|ip| SocketAddr::new(*ip, port)).collect();
        found.sort();
        found.dedup();
        found
    };
    let (v6, v4) = (family(true), family(false));
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

    fn host(addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        shown(&of_host("h", 80, &addresses))
    }

    #[test]
    fn each_address_is_an_endpoint_and_two_families_are_two_ways_to_one() {
        for (addresses, expected) in [
            (&[][..], &[][..]),
            (&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &["10.0.0.1:80*1 p0", "10.0.0.2:80*1 p0"]),
            (&["::2", "::1"], &["[::1]:80*1 p0", "[::2]:80*1 p0"]),
            (&["127.0.0.1", "::1"], &["[::1]:80|127.0.0.1:80*1 p0"]),
            (&["10.0.0.1", "::1", "10.0.0.2"], &["[::1]:80|10.0.0.1:80*1 p0", "10.0.0.2:80*1 p0"]),
        ] {
            assert_eq!(host(addresses), expected, "{addresses:?}");
        }
    }

    #[test]
    fn a_service_has_ports_weights_and_priorities() {
        let target = |port, priority, weight, address: &str| ServiceTarget {
            name: "a.".to_owned(),
            port,
            priority,
            weight,
            addresses: vec![address.parse().unwrap()],
        };
        let targets = [
            target(81, 20, 5, "10.0.0.3"),
            target(80, 10, 60, "10.0.0.1"),
            target(80, 10, 0, "10.0.0.2"),
            target(80, 10, 60, "10.0.0.1"),
        ];
        let located = of_service(&targets);
        assert_eq!(
            shown(&located),
            ["10.0.0.1:80*60 p10", "10.0.0.2:80*1 p10", "10.0.0.3:81*5 p20"]
        );
        assert_eq!(located[0].authority, "a:80");
    }

    #[test]
    fn the_weight_of_an_entry_is_that_of_each_of_its_endpoints() {
        let origin = Origin::Host { name: "h".to_owned(), port: 80 };
        let endpoint = EndpointConfig { origin: origin.clone(), weight: 3 };
        assert!(locate(&endpoint, &Answers::new()).is_empty());
        let addresses = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let answers = Answers::from([(origin, of_host("h", 80, &addresses))]);
        assert_eq!(shown(&locate(&endpoint, &answers)), ["10.0.0.1:80*3 p0", "10.0.0.2:80*3 p0"]);
        let origin = "http://127.0.0.1:9".parse().unwrap();
        let fixed = EndpointConfig { origin, weight: 2 };
        assert_eq!(shown(&locate(&fixed, &answers)), ["127.0.0.1:9*2 p0"]);
    }
}
