//! Any bytes as a PROXY protocol header, whole and cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::proxy_protocol::check(data));
