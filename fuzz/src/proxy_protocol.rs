//! Any bytes as a PROXY protocol header: the same answer wherever they are cut.

use std::net::IpAddr;

use cutover::proxy_protocol::{HEADER_MAX, Parsed, Source, parse};

/// Prefixes that are each tried; of the longer ones, one in so many.
const DENSE: usize = 256;
const STRIDE: usize = 37;

/// Parses `data` as a connection's first bytes, and each of its beginnings.
pub fn check(data: &[u8]) {
    let whole = parse(data);
    match whole {
        Ok(Parsed::Complete { length, source }) => {
            assert!(length <= data.len() && length <= HEADER_MAX, "{length} of {}", data.len());
            assert_eq!(parse(&data[..length]), whole, "it depends on what is behind it");
            said_again(source);
        }
        Ok(Parsed::Partial) => assert!(data.len() < HEADER_MAX, "it asks for more"),
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
    let cuts = (0..data.len().min(DENSE)).chain((DENSE..data.len()).step_by(STRIDE));
    for cut in cuts {
        match parse(&data[..cut]) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete { .. }) => {
                assert_eq!(parse(&data[..cut]), whole, "another answer at {cut}");
            }
            // It is refused again, if for another rule that it breaks as well.
            Err(_) => assert!(whole.is_err(), "{whole:?}, but refused at {cut}"),
        }
    }
}

/// What was understood, written as version 1, is understood again.
fn said_again(source: Source) {
    let Source::Proxied { client, local } = source else {
        return;
    };
    let family = match (client.ip(), local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("two families: {client} {local}")
        }
    };
    let ports = (client.port(), local.port());
    let line = format!("PROXY {family} {} {} {} {}\r\n", client.ip(), local.ip(), ports.0, ports.1);
    let expected = Parsed::Complete { length: line.len(), source };
    assert_eq!(parse(line.as_bytes()), Ok(expected), "{line:?}");
}
