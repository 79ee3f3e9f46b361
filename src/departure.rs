//! A client's request becomes one for a path: step 6 of a request's way.
//!
//! What a backend must not get, and what it must: the rules of `wire/check.rs` and `wire/headers.rs`, and
//! the request's names.

use h2::ext::Protocol;
use http::{HeaderValue, Request, Uri, Version};

use crate::config::Listen;
use crate::error::ClientFault;
use crate::ids::Ids;
use crate::trace::tracer::Trace;
use crate::wire::check::{self, Checked, Facts};
use crate::wire::forwarded::Peer;
use crate::wire::headers::{self, Origin};
use crate::wire::present::{Field, Present};
use crate::wire::trace::{TRACEPARENT, TRACESTATE, X_REQUEST_ID, traceparent};
use crate::wire::upload::RequestBody;

/// The names of a request.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    /// Its id.
    pub(crate) request_id: &'a HeaderValue,
    /// Its spans, if it is recorded.
    pub(crate) trace: Option<&'a Trace>,
    /// Where those come from that it lacks.
    pub(crate) ids: &'a Ids,
}

/// Whether a request may go on.
///
/// # Errors
/// The client's fault, and the rule that it breaks.
pub(crate) fn check(
    listen: &Listen,
    is_ambiguous: bool,
    request: &Request<RequestBody>,
    present: Present,
) -> Result<Checked, (ClientFault, &'static str)> {
    let facts = Facts {
        ambiguous: is_ambiguous,
        header_count_max: listen.header_count,
        body_bytes_max: listen.body_bytes,
    };
    let request = check::Request {
        method: request.method(),
        uri: request.uri(),
        version: request.version(),
        protocol: request.extensions().get::<Protocol>().map(Protocol::as_str),
        headers: request.headers(),
        present,
    };
    check::check(&request, facts)
}

/// Makes a request what its path gets. `local`: the address that the client reached.
pub(crate) fn clean(
    request: &mut Request<RequestBody>,
    upgrade: Option<HeaderValue>,
    (peer, local, present): (&Peer, &HeaderValue, Present),
    names: Names<'_>,
) {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let is_stream_of_bytes =
        || request.version() == Version::HTTP_2 && !present.has(Field::ContentLength);
    let is_chunked = present.has(Field::TransferEncoding)
        || (!request.body().is_empty() && is_stream_of_bytes());
    let origin = Origin {
        peer,
        version: request.version(),
        authority: uri.authority().map(http::uri::Authority::as_str),
        local,
        present,
        is_chunked,
    };
    let fields = request.headers_mut();
    headers::clean_request(&method, fields, upgrade, &origin);
    fields.insert(X_REQUEST_ID, names.request_id.clone());
    let is_traced = present.has(Field::Traceparent) && traceparent(fields).is_some();
    if !is_traced && present.has(Field::Tracestate) {
        // W3C Trace Context section 3.3: without its traceparent it says nothing.
        fields.remove(TRACESTATE);
    }
    if let Some(trace) = names.trace {
        fields.insert(TRACEPARENT, trace.field());
    } else if !is_traced {
        fields.insert(TRACEPARENT, names.ids.traceparent());
    }
    if uri.scheme().is_some() {
        // RFC 9112 section 3.2.1: towards an origin the target is in origin-form.
        let target = uri.path_and_query().cloned();
        *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    *request.version_mut() = Version::HTTP_11;
}
