//! Names become addresses, off the data plane, and again each time an answer has had its time.
//!
//! A failure keeps the last answer: a resolver that is down, or says for a moment that a name does
//! not exist, must not take a service away that runs. Removed addresses drain like any endpoint that
//! a reload removes.

pub mod lookup;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::config::Dns;
use crate::config::endpoint::Origin;
use crate::dns::lookup::lookup;
use crate::publisher::Publisher;
use crate::upstream::locate::Location;

/// Keeps the answers of all names in force fresh. Never ends; `first` is called once all have been
/// asked for the first time.
pub async fn run(publisher: Arc<Publisher>, first: impl FnOnce()) {
    let mut first = Some(first);
    let mut published = publisher.follow();
    let mut names = Names::default();
    loop {
        // Whatever is published from here on ends the wait below.
        published.borrow_and_update();
        let dns = publisher.current().config.dns.clone();
        names.adjust(publisher.names(), &dns);
        let fresh = names.ask(&dns, |answered| publisher.metrics().dns_lookup(answered)).await;
        if !fresh.is_empty() {
            publisher.resolved(fresh, first.is_some());
        }
        if let Some(first) = first.take() {
            first();
        }
        let next = names.due.values().min().copied();
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            // A publisher that is gone ends the control plane anyway.
            _ = published.changed() => {}
        }
    }
}

/// The names in force.
#[derive(Default)]
struct Names {
    // When each is asked for next.
    due: HashMap<Origin, Instant>,
    // Those whose last lookup failed: told once, not each time.
    failing: HashSet<Origin>,
}

impl Names {
    /// Takes over which names there are, and whether each has an answer.
    fn adjust(&mut self, names: HashMap<Origin, bool>, dns: &Dns) {
        self.due.retain(|name, _| names.contains_key(name));
        self.failing.retain(|name| names.contains_key(name));
        let now = Instant::now();
        for (name, is_answered) in names {
            // One that a reload brought was asked just now.
            let at = if is_answered { now + dns.ttl_min } else { now };
            self.due.entry(name).or_insert(at);
        }
    }

    /// Asks for those that are due; the answers that came.
    async fn ask(&mut self, dns: &Dns, count: impl Fn(bool)) -> Vec<(Origin, Vec<Location>)> {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let asked: Vec<Origin> = due.map(|(name, _)| name.clone()).collect();
        let answers = join_all(asked.iter().map(|name| lookup(name, dns))).await;
        let mut fresh = Vec::new();
        for (name, answer) in asked.into_iter().zip(answers) {
            count(answer.is_ok());
            let ttl = match answer {
                Ok(answer) => {
                    if self.failing.remove(&name) {
                        tracing::info!(%name, "resolved again");
                    }
                    fresh.push((name.clone(), answer.locations));
                    answer.ttl
                }
                Err(error) => {
                    if self.failing.insert(name.clone()) {
                        tracing::warn!(%error, "no answer; the last one, if any, stays in force");
                    }
                    dns.ttl_min
                }
            };
            self.due.insert(name, Instant::now() + ttl);
        }
        fresh
    }
}
