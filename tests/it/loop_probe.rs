//! Loop probes: the lag of an event loop as a probe sees it, and the stalls that it proves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Backend, Latch, Reply, Setup, eventually, under_load};

/// Longer than `stall_after`.
const BLOCKED: Duration = Duration::from_millis(250);

#[test]
fn a_silence_that_the_probe_shares_is_a_stall_although_no_route_is_convicted() {
    let legacy = Backend::start(|_| Reply::ok("legacy"));
    let frozen = Arc::<Mutex<Option<Latch>>>::default();
    let held = frozen.clone();
    let async_ = Backend::start(move |_| match &*held.lock().unwrap() {
        Some(latch) => Reply::ok("async").held_by(latch),
        None => Reply::ok("async"),
    });
    let proxy = Setup::new(legacy.address, async_.address)
        .weight(1.0)
        .async_("loop_probe = { path = \"/ping\", interval = \"20ms\" }")
        .start();
    let lags = || proxy.scrape().sum("cutover_loop_lag_seconds_count", &[("path", "async")]);
    eventually!(lags() >= 5.0);
    let stalls = |path| {
        let labels = [("path", path), ("route", "unknown")];
        proxy.scrape().sum("cutover_path_stalls_total", &labels)
    };
    under_load(&[proxy.address; 4], || {
        let latch = Latch::default();
        *frozen.lock().unwrap() = Some(latch.clone());
        let began = Instant::now();
        eventually!(began.elapsed() >= BLOCKED);
        *frozen.lock().unwrap() = None;
        latch.open();
        eventually!(stalls("async") >= 1.0, "no stall is seen");
    });
    assert_eq!(stalls("legacy"), 0.0);
    let lag = proxy.scrape().sum("cutover_loop_lag_seconds_sum", &[("path", "async")]);
    assert!(lag >= 0.2, "{lag}");
}
