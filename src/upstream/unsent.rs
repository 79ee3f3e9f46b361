//! Why a request got no response head, and whether it may have been processed.

use http::Request;

use crate::error::PathFault;
use crate::wire::upload::RequestBody;

/// Why a request got no response head.
#[derive(Debug)]
pub enum SendError {
    /// The connection was closed before anything was sent: the request may go elsewhere.
    NotSent(Box<Request<RequestBody>>),
    /// The backend says that it has not processed the request (RFC 9113 section 8.7).
    Unprocessed,
    /// The request may have been processed.
    Failed(PathFault),
}
