//! A path's reply becomes one for the client: step 8 of a request's way, before its body.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};

use crate::error::{PathFault, ProxyError, Refusal};
use crate::forward::{Hold, Reply};
use crate::journal::Record;
use crate::tick::Span;
use crate::wire::body::Source;
use crate::wire::headers::{self, X_CUTOVER_PATH};
use crate::wire::trace::X_REQUEST_ID;

/// Asks the client, or tells it, that its connection ends.
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A reply on its way to the client.
pub(crate) struct Onward {
    pub(crate) head: Parts,
    pub(crate) source: Source,
    pub(crate) kept: Option<Kept>,
}

/// What a backend's reply keeps until its end.
pub(crate) struct Kept {
    pub(crate) hold: Hold,
    pub(crate) keeps_for: Option<Span>,
    pub(crate) switched: bool,
}

/// One second less than the backend says: our request must be there before it closes.
fn keep_span(seconds: u64) -> Span {
    Span::from_duration(std::time::Duration::from_secs(seconds.saturating_sub(1)))
}

/// 8: a path's reply becomes one for the client.
pub(crate) fn arrive(
    record: &mut Record,
    reply: Reply,
    switching: bool,
) -> Result<Onward, ProxyError> {
    let Reply { mut head, source, hold } = reply;
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if switched && !switching {
        // A 101 that nobody asked for (RFC 9110 section 7.8).
        hold.failed(PathFault::Protocol);
        return Err(ProxyError::Path(PathFault::Protocol));
    }
    let Ok(keeps_for) = headers::clean_response(&mut head.headers, switched) else {
        // A transfer coding or a length that can't go on.
        hold.failed(PathFault::Protocol);
        return Err(ProxyError::Path(PathFault::Protocol));
    };
    if switched || head.status == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6: these never have a length, whichever version the client speaks.
        head.headers.remove(CONTENT_LENGTH);
    }
    let keeps_for = keeps_for.map(keep_span);
    head.version = Version::HTTP_11;
    if let Some(primary) = &mut record.mirrored {
        primary.answered(head.status, &head.headers);
    }
    let side = record.side();
    if record.view().snapshot.config.split.expose_path
        && let Some(side) = side
    {
        head.headers.insert(X_CUTOVER_PATH, HeaderValue::from_static(side.name()));
    }
    Ok(Onward { head, source, kept: Some(Kept { hold, keeps_for, switched }) })
}

/// The head of the proxy's own reply.
pub(crate) fn refuse(refusal: &Refusal, request_id: HeaderValue, closes: bool) -> Parts {
    let mut response = Response::new(());
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PLAIN_TEXT);
    headers.insert(PROXY_STATUS, refusal.proxy_status());
    headers.insert(X_REQUEST_ID, request_id);
    if let Some(seconds) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if closes {
        headers.insert(CONNECTION, CLOSE);
    }
    response.into_parts().0
}

/// `Max-Forwards: 0` on OPTIONS (RFC 9110 section 7.6.2).
pub(crate) fn answer_options() -> Onward {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(http::header::ALLOW, allow);
    Onward { head: response.into_parts().0, source: Source::Empty, kept: None }
}
