//! Names become addresses, off the data plane, and again each time an answer has had its time.
//!
//! A failure keeps the last answer: a resolver that is down, or says for a moment that a name does
//! not exist, must not take a service away that runs. Removed addresses drain like any endpoint that
//! a reload removes.

pub mod lookup;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::config::endpoint::Origin;
use crate::dns::lookup::lookup;
use crate::publisher::Publisher;

/// Keeps the answers of all names in force fresh. Never ends; `first` is called once all have been
/// asked for the first time.
pub async fn run(publisher: Arc<Publisher>, first: impl FnOnce()) {
    let mut first = Some(first);
    let mut published = publisher.follow();
    let mut due: HashMap<Origin, Instant> = HashMap::new();
    // Names whose last lookup failed: told once, not each time.
    let mut failing: HashMap<Origin, bool> = HashMap::new();
    loop {
        // Whatever is published from here on ends the wait below.
        published.borrow_and_update();
        let dns = publisher.current().config.dns.clone();
        let names = publisher.names();
        due.retain(|name, _| names.contains_key(name));
        failing.retain(|name, _| names.contains_key(name));
        let now = Instant::now();
        for (name, is_answered) in names {
            // One that a reload brought was asked just now.
            let at = if is_answered { now + dns.ttl_min } else { now };
            due.entry(name).or_insert(at);
        }
        let asked: Vec<_> =
            due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        let answers = join_all(asked.iter().map(|name| lookup(name, &dns))).await;
        let mut fresh = Vec::new();
        for (name, answer) in asked.into_iter().zip(answers) {
            let failed = answer.is_err();
            publisher.metrics().dns_lookup(!failed);
            let had_failed = failing.insert(name.clone(), failed).unwrap_or(false);
            let ttl = match answer {
                Ok(answer) => {
                    if had_failed {
                        tracing::info!(%name, "resolved again");
                    }
                    fresh.push((name.clone(), answer.locations));
                    answer.ttl
                }
                Err(error) => {
                    if !had_failed {
                        tracing::warn!(%error, "the last answer stays in force");
                    }
                    dns.ttl_min
                }
            };
            due.insert(name, Instant::now() + ttl);
        }
        if !fresh.is_empty() {
            publisher.resolved(fresh);
        }
        if let Some(first) = first.take() {
            first();
        }
        let next = due.values().min().copied();
        tokio::select! {
            () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
            // A publisher that is gone ends the control plane anyway.
            _ = published.changed() => {}
        }
    }
}
