//! Any header fields about where a client is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::forwarded::check(data));
