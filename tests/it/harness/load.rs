//! Requests without a pause, beside whatever else a test does. None may fail.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Client, Ended};

/// Ends the load, also when what goes on beside it fails.
pub(super) struct Done<'a>(pub(super) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks each of `addresses` over one connection while `work` goes on; how many requests each has
/// served, and what came of the work.
pub(crate) fn under_load<T>(addresses: &[SocketAddr], work: impl FnOnce() -> T) -> (Vec<usize>, T) {
    let done = AtomicBool::new(false);
    let load = |address| {
        let mut client = Client::connect(address);
        let mut served = 0;
        while !done.load(Ordering::Relaxed) {
            let response = client.get("/");
            assert_eq!((response.status, response.ended), (200, Ended::Whole));
            served += 1;
        }
        served
    };
    thread::scope(|scope| {
        let ends = Done(&done);
        let load = &load;
        let clients: Vec<_> =
            addresses.iter().map(|address| scope.spawn(move || load(*address))).collect();
        let came_of_it = work();
        drop(ends);
        let served = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (served, came_of_it)
    })
}
