//! The `Date` of replies that came without one, made once a second.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use httpdate::HttpDate;

thread_local! {
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The present time as RFC 9110 section 5.6.7 writes it, to the second.
#[must_use]
pub fn now() -> HeaderValue {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(made, value)| {
        if *made != second {
            let text = HttpDate::from(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            *value = HeaderValue::try_from(text).expect("digits, letters, commas and colons");
            *made = second;
        }
        value.clone()
    })
}
