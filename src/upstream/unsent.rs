//! Why a request got no response head, and whether it may have been processed.

use std::time::Duration;

use crate::error::PathFault;

/// A close that came later after the request is no race with it: the request was being processed.
pub const STALE_WITHIN: Duration = Duration::from_secs(1);

/// Why a request got no response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The backend says that it has not processed the request (RFC 9113 section 8.7).
    Unprocessed,
    /// The request may have been processed.
    Failed(PathFault),
}
