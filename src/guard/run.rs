//! The guard's tasks on the control plane: its beat, the readings of backends, and the webhook.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::guard::counts::TICK;
use crate::guard::decision::Decision;
use crate::guard::desk::Guard;
use crate::guard::{fetch, usage};

/// How often backends are asked what they take.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// How often an event is offered to the webhook, and how long after the first time again.
const DELIVERIES_MAX: u32 = 3;
const DELIVERY_PAUSE: Duration = Duration::from_secs(1);

/// Keeps guard. Never ends.
pub async fn run(guard: Arc<Guard>) {
    tokio::join!(beat(&guard), read_usage(&guard), deliver(&guard));
}

async fn beat(guard: &Arc<Guard>) {
    let mut beat = interval(TICK);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let guard = guard.clone();
        if spawn_blocking(move || guard.beat()).await.is_err() {
            tracing::error!("the guard panicked; it goes on with the next tick");
        }
    }
}

async fn read_usage(guard: &Arc<Guard>) {
    let mut every = interval(USAGE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let guard = guard.clone();
        // One that panics reads nothing; the next one tries again.
        let _ = spawn_blocking(move || {
            let snapshot = guard.publisher().current();
            let usage = usage::read(&snapshot.config);
            for (side, reading) in usage.iter() {
                if let Some(reading) = reading {
                    guard.publisher().metrics().guard.memory(side, reading.rss_bytes);
                }
            }
            guard.live().usage = usage;
        })
        .await;
    }
}

/// Sends decisions to the webhook, one after another. Its failure never moves the ramp.
async fn deliver(guard: &Arc<Guard>) {
    let Some(mut inbox) = guard.take_inbox() else {
        return;
    };
    while let Some(decision) = inbox.recv().await {
        let is_delivered = offer(guard, &decision).await;
        guard.publisher().metrics().guard.webhook(is_delivered);
        guard.undelivered.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn offer(guard: &Arc<Guard>, decision: &Decision) -> bool {
    let snapshot = guard.publisher().current();
    let Some(url) = snapshot.config.webhook().map(str::to_owned) else {
        return false;
    };
    let document = serde_json::to_string(decision).unwrap_or_default();
    for delivery in 0..DELIVERIES_MAX {
        sleep(DELIVERY_PAUSE * delivery).await;
        let (url, document) = (url.clone(), document.clone());
        match spawn_blocking(move || fetch::post(&url, &document)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(error, id = decision.id, "webhook"),
            Err(_panicked) => return false,
        }
    }
    false
}
