//! Copies of heads and bodies: they share no memory with what they are copies of.
//!
//! A shared value would keep a reader's whole buffer alive for as long as the mirror takes, and count
//! its references from two threads.

use http::{HeaderMap, HeaderValue, Uri};

use crate::mirror::stock::Holding;

/// What a field takes beside its own bytes: an entry of the map and two allocations.
const FIELD_COST: usize = 128;

/// A copy of a target, accounted for in `holding` twice, as it is copied again to be compared; `None` if
/// there is no room.
#[must_use]
pub fn copy_target(target: &Uri, holding: &mut Holding) -> Option<Uri> {
    let text = target.to_string();
    if !holding.grow(2 * text.len()) {
        return None;
    }
    // It was read from such a text, so it can be again.
    Some(Uri::try_from(text).unwrap_or_else(|_| target.clone()))
}

/// A copy of these fields, accounted for in `holding`; `None` if there is no room.
#[must_use]
pub fn copy_fields(fields: &HeaderMap, holding: &mut Holding) -> Option<HeaderMap> {
    let bytes = |(name, value): (&http::HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + FIELD_COST
    };
    if !holding.grow(fields.iter().map(bytes).sum()) {
        return None;
    }
    let mut copy = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        // The name is one that the http crate knows, or shared: it is a few bytes.
        if let Ok(mut own) = HeaderValue::from_bytes(value.as_bytes()) {
            own.set_sensitive(value.is_sensitive());
            copy.append(name, own);
        }
    }
    Some(copy)
}
