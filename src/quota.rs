//! How many connections each client address may have, over all workers.
//!
//! Takes a lock for each connection, never for a request, and only where a limit is set.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The open connections of each address. Bounded by `max_connections`: an address without one is not
/// in it.
#[derive(Debug, Default)]
pub struct Quota(Mutex<HashMap<IpAddr, usize>>);

/// A connection that counts for its address until it is dropped.
#[derive(Debug)]
pub struct Admission {
    quota: Arc<Quota>,
    address: IpAddr,
}

impl Quota {
    /// One more connection of `address`, if it has fewer than `max`.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Admission> {
        let mut open = self.open();
        let count = open.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Admission { quota: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.quota.open().entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let quota = Arc::<Quota>::default();
        let [one, other] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        let held: Vec<_> = (0..2).filter_map(|_| quota.admit(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(quota.admit(one, 2).is_none() && quota.admit(other, 2).is_some());
        // A limit that was raised holds at once.
        assert!(quota.admit(one, 3).is_some());
        drop(held);
        assert!(quota.open().is_empty());
    }
}
