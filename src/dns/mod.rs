//! Names become addresses, off the data plane, and again each time an answer has had its time.
//!
//! A failure keeps the last answer: a resolver that is down, or says for a moment that a name does
//! not exist, must not take a service away that runs. Removed addresses drain like any endpoint that
//! a reload removes.

pub mod lookup;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::config::Dns;
use crate::config::endpoint::Origin;
use crate::dns::lookup::{Answer, Unresolved, lookup};
use crate::publisher::Publisher;
use crate::upstream::locate::Host;

/// Keeps the answers of all names in force fresh. Never ends; `first` is called once all have been
/// asked for the first time.
pub async fn run(publisher: Arc<Publisher>, first: impl FnOnce()) {
    let mut first = Some(first);
    let mut unasked: HashSet<Origin> = publisher.names().into_keys().collect();
    let mut published = publisher.follow();
    let mut names = Names::default();
    loop {
        // Whatever is published from here on ends the wait below.
        published.borrow_and_update();
        let dns = publisher.current().config.dns.clone();
        names.adjust(publisher.names(), &dns);
        names.ask(&dns);
        unasked.retain(|name| names.due.contains_key(name));
        if unasked.is_empty()
            && let Some(first) = first.take()
        {
            first();
        }
        let next = names.due.values().min().copied();
        tokio::select! {
            Some(done) = names.lookups.join_next() => {
                // A lookup that panicked is due again, like one that failed.
                if let Ok((name, answer)) = done {
                    unasked.remove(&name);
                    publisher.metrics().dns_lookup(answer.is_ok());
                    if let Some(hosts) = names.answered(&name, answer, &dns) {
                        publisher.resolved(name, hosts, first.is_some());
                    }
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            // A publisher that is gone ends the control plane anyway.
            _ = published.changed() => {}
        }
    }
}

/// The names in force. Each is asked for by itself, so that none waits for another's silence.
#[derive(Default)]
struct Names {
    // When each is asked for next.
    due: HashMap<Origin, Instant>,
    // Those whose last lookup failed: told once, not each time.
    failing: HashSet<Origin>,
    lookups: JoinSet<(Origin, Result<Answer, Unresolved>)>,
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

    /// Asks for those that are due.
    fn ask(&mut self, dns: &Dns) {
        let now = Instant::now();
        // While it is under way a lookup is not due again: it ends by itself before that.
        let again = now + 3 * dns.timeout;
        for (name, at) in self.due.iter_mut().filter(|(_, at)| **at <= now) {
            *at = again;
            let (name, dns) = (name.clone(), dns.clone());
            self.lookups.spawn(async move {
                let answer = lookup(&name, &dns).await;
                (name, answer)
            });
        }
    }

    /// What a lookup brings, if anything.
    fn answered(
        &mut self,
        name: &Origin,
        answer: Result<Answer, Unresolved>,
        dns: &Dns,
    ) -> Option<Vec<Host>> {
        // None if a reload has removed it meanwhile.
        let due = self.due.get_mut(name)?;
        match answer {
            Ok(Answer { hosts, ttl }) => {
                *due = Instant::now() + ttl;
                if self.failing.remove(name) {
                    tracing::info!(%name, "resolved again");
                }
                Some(hosts)
            }
            Err(error) => {
                *due = Instant::now() + dns.ttl_min;
                if self.failing.insert(name.clone()) {
                    tracing::warn!(%error, "no answer; the last one, if any, stays in force");
                }
                None
            }
        }
    }
}
