//! Which of the fields that mean something to a gateway a head has, found in one pass.
//!
//! A look-up in a header map costs a hash, and the rules of a gateway ask for some twenty names of
//! which a usual head has two. One pass over the names that are there answers all of them.

use http::HeaderMap;

/// Fields that some rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `TE`.
    Te,
    /// `Upgrade`.
    Upgrade,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Proxy-Connection`, `Proxy`, `Proxy-Authorization`: nothing for a backend.
    Proxy,
    /// `Expect`.
    Expect,
    /// `Host`.
    Host,
    /// `Via`.
    Via,
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`.
    Forwarded,
    /// `X-Cutover-*`.
    Own,
    /// `X-Request-Id`.
    RequestId,
    /// `traceparent`.
    Traceparent,
    /// `tracestate`.
    Tracestate,
    /// A framing field spelt with an underscore.
    Misspelt,
    /// `Client-Cert`, `Client-Cert-Chain`.
    ClientCert,
    /// What only proxies may say, spelt with an underscore.
    Disguised,
}

/// A set of [`Field`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u32);

impl Present {
    /// The fields of `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            if let Some(field) = field(name.as_str()) {
                present.0 |= 1 << field as u16;
            }
        }
        present
    }

    /// Whether a field is there.
    #[must_use]
    pub const fn has(self, field: Field) -> bool {
        self.0 & (1 << field as u16) != 0
    }
}

/// By length first: most names are told apart by it alone.
fn field(name: &str) -> Option<Field> {
    let field = match name.len() {
        2 if name == "te" => Field::Te,
        3 if name == "via" => Field::Via,
        4 if name == "host" => Field::Host,
        5 if name == "proxy" => Field::Proxy,
        6 if name == "expect" => Field::Expect,
        7 if name == "upgrade" => Field::Upgrade,
        9 if name == "forwarded" || name == "x-real-ip" => Field::Forwarded,
        10 => match name {
            "connection" => Field::Connection,
            "keep-alive" => Field::KeepAlive,
            "tracestate" => Field::Tracestate,
            _ => return None,
        },
        11 if name == "traceparent" => Field::Traceparent,
        11 if name == "client-cert" => Field::ClientCert,
        12 if name == "x-request-id" => Field::RequestId,
        14 if name == "content-length" => Field::ContentLength,
        14 if name == "content_length" => Field::Misspelt,
        16 if name == "proxy-connection" => Field::Proxy,
        17 if name == "transfer-encoding" => Field::TransferEncoding,
        17 if name == "transfer_encoding" => Field::Misspelt,
        17 if name == "client-cert-chain" => Field::ClientCert,
        19 if name == "proxy-authorization" => Field::Proxy,
        _ if name.starts_with("x-forwarded-") => Field::Forwarded,
        _ if name.starts_with("x-cutover-") => Field::Own,
        _ if is_disguised(name) => Field::Disguised,
        _ => return None,
    };
    Some(field)
}

/// Whether a name is one that only proxies may say once each `_` is a `-`: so servers read it that turn
/// names into variables (CGI, RFC 3875 section 4.1.18; WSGI).
#[must_use]
pub fn is_disguised(name: &str) -> bool {
    if !name.contains('_') {
        return false;
    }
    matches!(
        field(&name.replace('_', "-")),
        Some(Field::Forwarded | Field::Own | Field::ClientCert | Field::Proxy)
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn each_name_is_its_field_and_no_other() {
        for (name, expected) in [
            ("te", Some(Field::Te)),
            ("via", Some(Field::Via)),
            ("host", Some(Field::Host)),
            ("proxy", Some(Field::Proxy)),
            ("proxy-connection", Some(Field::Proxy)),
            ("proxy-authorization", Some(Field::Proxy)),
            ("expect", Some(Field::Expect)),
            ("upgrade", Some(Field::Upgrade)),
            ("forwarded", Some(Field::Forwarded)),
            ("x-real-ip", Some(Field::Forwarded)),
            ("x-forwarded-for", Some(Field::Forwarded)),
            ("x-forwarded-proto", Some(Field::Forwarded)),
            ("connection", Some(Field::Connection)),
            ("keep-alive", Some(Field::KeepAlive)),
            ("traceparent", Some(Field::Traceparent)),
            ("tracestate", Some(Field::Tracestate)),
            ("x-request-id", Some(Field::RequestId)),
            ("content-length", Some(Field::ContentLength)),
            ("content_length", Some(Field::Misspelt)),
            ("transfer-encoding", Some(Field::TransferEncoding)),
            ("transfer_encoding", Some(Field::Misspelt)),
            ("client-cert", Some(Field::ClientCert)),
            ("client-cert-chain", Some(Field::ClientCert)),
            ("x_forwarded_for", Some(Field::Disguised)),
            ("x-forwarded_for", Some(Field::Disguised)),
            ("x_real_ip", Some(Field::Disguised)),
            ("client_cert", Some(Field::Disguised)),
            ("x_cutover_shadow", Some(Field::Disguised)),
            ("x_user_id", None),
            ("x-cutover-shadow", Some(Field::Own)),
            ("cookie", None),
            ("accept", None),
            ("user-agent", None),
            ("x-content-length", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("x"));
            let mut wanted = Present::default();
            if let Some(field) = expected {
                wanted.0 = 1 << field as u16;
                assert!(Present::of(&headers).has(field), "{name}");
            }
            assert_eq!(Present::of(&headers), wanted, "{name}");
        }
    }
}
