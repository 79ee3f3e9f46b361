//! Any bytes as a client's connection, HTTP/1 or HTTP/2, before a sound backend.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::client_connection::check(data));
