//! What is a host and port (RFC 3986 section 3.2.2).

/// RFC 3986 section 3.2.2: a registered name or an IP literal, then perhaps a port.
#[must_use]
pub fn is_host(bytes: &[u8]) -> bool {
    let (host, port) = match bytes.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !bytes.ends_with(b"]") => (&bytes[..colon], Some(&bytes[colon + 1..])),
        Some(_) | None => (bytes, None),
    };
    let port_fits = port.is_none_or(|port| {
        port.len() <= 5
            && port.iter().all(u8::is_ascii_digit)
            && port.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= 65_535
    });
    let host_fits = if let Some(literal) = host.strip_prefix(b"[") {
        literal.strip_suffix(b"]").is_some_and(|inner| {
            !inner.is_empty()
                && inner.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
        })
    } else {
        !host.is_empty() && host.iter().all(|byte| REG_NAME[usize::from(*byte)])
    };
    port_fits && host_fits
}

/// The bytes of a registered name, as a table: each request's Host is looked at byte by byte.
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut index = 0;
    while index < 128 {
        let byte = index as u8;
        table[index] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
            );
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_literals_with_perhaps_a_port() {
        for host in ["a", "a.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a_b", "a:"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in
            ["", "a/b", "a@b", ":80", "a:99999", "a:1:2", "[::1", "[zz]:80", "::1", "a\u{e9}"]
        {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
