//! Any bytes as a backend's reply to a sound request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::backend_reply::check(data));
