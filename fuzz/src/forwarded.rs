//! Any header fields about where a client is: an untrusted peer's address always wins.
//!
//! The first byte chooses the peer, each line behind it is a field: `name: value`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cutover::wire::forwarded::{Peer, client_address, set_forwarded};
use cutover::wire::present::Present;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The family, all of which a peer that is not trusted has no say in.
const FAMILY: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
];

/// Reads fields, and asks who the client is.
pub fn check(data: &[u8]) {
    let Some((choice, lines)) = data.split_first() else {
        return;
    };
    let peer = peer(*choice);
    let before = fields(lines);
    let client = client_address(&before, &peer, is_trusted);
    if peer.trusted {
        let named = |address: IpAddr| said(&before).contains(&address);
        assert!(client == peer.address || named(client), "{client} out of nowhere");
    } else {
        assert_eq!(client, peer.address, "an untrusted peer chose its address");
    }
    let mut after = before.clone();
    set_forwarded(&mut after, &peer, Present::of(&before));
    if peer.trusted {
        extended(&before, &after, &peer)
    } else {
        replaced(&after, &peer)
    }
    assert_eq!(others(&before), others(&after), "another field changed");
}

/// The fields that are none of the family; the order of unlike names means nothing.
fn others(map: &HeaderMap) -> BTreeMap<&str, Vec<&[u8]>> {
    let names = map.keys().map(HeaderName::as_str).filter(|name| !FAMILY.contains(name));
    names.map(|name| (name, all(map, name))).collect()
}

fn peer(choice: u8) -> Peer {
    let address: IpAddr = match choice & 4 {
        0 => Ipv4Addr::new(192, 0, 2, 1).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    Peer {
        address,
        address_value: HeaderValue::try_from(address.to_string()).expect("visible characters"),
        trusted: choice & 1 != 0,
        is_secure: choice & 2 != 0,
        certificate: None,
    }
}

/// As in a config with `trusted_proxies = ["10.0.0.0/8", "192.0.2.0/24"]`.
fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [10, ..] | [192, 0, 2, _]),
        IpAddr::V6(_) => false,
    }
}

fn fields(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(100) {
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(end + 1..).unwrap_or_default().trim_ascii();
        let name = HeaderName::from_bytes(&line[..end]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// The addresses that X-Forwarded-For names.
fn said(headers: &HeaderMap) -> Vec<IpAddr> {
    let lines = all(headers, "x-forwarded-for").into_iter().map(String::from_utf8_lossy);
    let entries = lines.flat_map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    entries.filter_map(|entry| entry.trim_ascii().parse().ok()).collect()
}

fn scheme(peer: &Peer) -> &'static [u8] {
    if peer.is_secure { b"https" } else { b"http" }
}

fn replaced(after: &HeaderMap, peer: &Peer) {
    let address = peer.address_value.as_bytes();
    let host: Vec<_> = all(after, "host").into_iter().take(1).collect();
    for (name, expected) in [
        ("forwarded", vec![]),
        ("x-real-ip", vec![]),
        ("x-forwarded-port", vec![]),
        ("x-forwarded-for", vec![address]),
        ("x-forwarded-proto", vec![scheme(peer)]),
        ("x-forwarded-host", host),
    ] {
        assert_eq!(all(after, name), expected, "{name} from an untrusted peer");
    }
}

fn extended(before: &HeaderMap, after: &HeaderMap, peer: &Peer) {
    let mut expected = all(before, "x-forwarded-for");
    expected.push(peer.address_value.as_bytes());
    assert_eq!(all(after, "x-forwarded-for"), expected);
    let mut after_forwarded = all(after, "forwarded");
    if after_forwarded != all(before, "forwarded") {
        let own = after_forwarded.pop().unwrap_or_default();
        let own = String::from_utf8_lossy(own);
        assert!(own.contains(&peer.address.to_string()), "{own:?} does not name the peer");
    }
    assert_eq!(after_forwarded, all(before, "forwarded"));
    if !all(before, "x-forwarded-proto").is_empty() {
        assert_eq!(all(before, "x-forwarded-proto"), all(after, "x-forwarded-proto"));
    }
}
