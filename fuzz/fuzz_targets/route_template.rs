//! Any route template, and any requests against it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::route_template::check(data));
