//! Fields as the parser finds them become a header map (RFC 9112 section 5).
//!
//! Values are slices of the bytes that came, not copies.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most fields of one head, or of one trailer section.
pub const FIELDS_MAX: usize = 100;

/// Not HTTP/1, or nothing that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Whether all names are tokens (RFC 9110 section 5.6.2). HTTP/2's decoder lets a double quote pass,
/// which no peer takes in HTTP/1.1.
#[must_use]
pub fn are_tokens(headers: &HeaderMap) -> bool {
    headers.keys().all(|name| !name.as_str().contains('"'))
}

/// Adds `fields`, which were found in `bytes`, to `headers`.
///
/// # Errors
/// When a name or a value has octets that it must not have.
pub fn append(
    headers: &mut HeaderMap,
    bytes: &Bytes,
    fields: &[httparse::Header<'_>],
) -> Result<(), Malformed> {
    headers.reserve(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        headers.append(name, value.map_err(|_| Malformed)?);
    }
    Ok(())
}
