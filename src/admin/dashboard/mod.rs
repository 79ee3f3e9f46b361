//! The dashboard: one page of what the status says and what may be ordered, and the events that keep it
//! up to date.
//!
//! The server writes the markup, so that the figures can be read without JavaScript too. Once a second it
//! reads the counters; if anyone watches it makes one frame, for all viewers. One that loads the page has a
//! frame made for it. The page loads nothing from elsewhere and runs no script but its own, and no other page
//! may frame it.

mod draw;
mod markup;
mod panels;
pub(super) mod pulse;
pub(super) mod viewers;
mod words;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, HeaderName, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::dashboard::panels::{DIFFERENCES_MAX, Facts, Panels, panels};
use crate::admin::dashboard::pulse::{Now, Pulse, Reading, SPAN_SECONDS};
use crate::admin::dashboard::viewers::{STALE_MS, Viewers};
use crate::admin::diffs;
use crate::admin::office::{Answer, Body, Office, problem, reply};
use crate::admin::status;
use crate::drain::Phase;
use crate::guard::counts::{Counts, TICK};
use crate::guard::history::latencies;
use crate::vocab::{PerSide, RouteId, Side};

/// Where the events are.
pub(super) const EVENTS: &str = "/api/v1/events";
/// Where the page and its parts are.
pub(super) const PAGES: [&str; 3] = ["/", "/dashboard.css", "/dashboard.js"];

/// Between two readings, and so between two frames.
const BEAT: Duration = Duration::from_secs(1);
/// When one that was refused may ask again, in seconds.
const AGAIN_SECONDS: &str = "5";

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Only what the page itself brings, from here; a picture may only be the empty one of its tab.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The dashboard.
#[derive(Debug, Default)]
pub(super) struct Dashboard {
    viewers: Viewers,
    pulse: Mutex<Pulse>,
}

/// What the page shows at one moment.
struct Frame {
    /// On the clock, UTC.
    time: String,
    panels: Panels,
    orders: Value,
}

impl Dashboard {
    /// Reads the counters and feeds the viewers, until the proxy's end.
    pub(super) async fn run(&self, office: &Office) {
        let mut phase = office.phase.clone();
        let began = tokio::time::Instant::now();
        let mut beat = interval(BEAT);
        // After a pause of the machine there is one frame and not one for each second of it.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = Panels::new();
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                _ = phase.wait_for(|phase| *phase == Phase::Closed) => {
                    self.viewers.end();
                    // Dropped with its listener.
                    return std::future::pending().await;
                }
            }
            self.pulse().add(reading(office, began.elapsed()));
            if !self.viewers.is_any() {
                continue;
            }
            let frame = self.frame(office);
            self.viewers.send(&frame.event(), frame.panels != shown);
            shown = frame.panels;
        }
    }

    /// Ends the events.
    pub(super) fn end(&self) {
        self.viewers.end();
    }

    /// What is at one of [`PAGES`].
    pub(super) fn page(&self, office: &Office, path: &str) -> Answer {
        let answer = match path {
            "/dashboard.css" => reply(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/dashboard.js" => reply(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            _ => {
                let has_token = office.publisher.current().config.admin.token_file.is_some();
                let page = self.frame(office).page(has_token);
                reply(StatusCode::OK, "text/html; charset=utf-8", page)
            }
        };
        guarded(answer)
    }

    /// The events, for one viewer more.
    pub(super) fn watch(&self) -> Answer {
        let Some(stream) = self.viewers.admit() else {
            let mut answer =
                problem(StatusCode::SERVICE_UNAVAILABLE, "There are too many viewers.");
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(AGAIN_SECONDS));
            return answer;
        };
        let mut answer = Response::new(Body::Right(stream));
        let kind = HeaderValue::from_static("text/event-stream");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        guarded(answer)
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frame(&self, office: &Office) -> Frame {
        let now = self.pulse().now();
        let facts = facts(office, now);
        Frame {
            time: crate::record::now().chars().skip(11).take(8).collect(),
            panels: panels(&facts),
            orders: orders(&facts.status["guard"]),
        }
    }
}

impl Frame {
    fn event(&self) -> Bytes {
        let Self { time, panels, orders } = self;
        // JSON has no line ends of its own, so it is one line of an event.
        let data = json!({ "time": time, "panels": panels, "orders": orders });
        Bytes::from(format!("event: frame\ndata: {data}\n\n"))
    }

    fn page(&self, has_token: bool) -> String {
        let mut parts = PAGE.split("{{");
        let mut page = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
            page.push_str(match name {
                "time" => &self.time,
                "token" if has_token => "",
                "token" => " hidden",
                "stale" => STALE_MS,
                name => self.panels.get(name).map_or("", String::as_str),
            });
            page.push_str(rest);
        }
        page
    }
}

/// With the headers that keep a browser from doing anything else with it.
fn guarded(mut answer: Answer) -> Answer {
    for (name, value) in [
        (http::header::CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn reading(office: &Office, at: Duration) -> Reading {
    let mut requests = BTreeMap::<RouteId, PerSide<u64>>::new();
    for side in Side::ALL {
        for shard in office.metrics.shards() {
            for (route, cells) in shard.sides.get(side).routes() {
                let ended = cells.codes.iter().map(|(_, number)| number).sum::<u64>();
                *requests.entry(route).or_default().get_mut(side) += ended;
            }
        }
    }
    let latencies = latencies(&office.metrics);
    Reading { at, requests, latencies }
}

fn facts(office: &Office, now: Now) -> Facts {
    let snapshot = office.publisher.current();
    let routes = snapshot.rules.targets().map(|target| (target.name.clone(), target.route));
    let mut differences = diffs::diffs(office).differences;
    differences.truncate(DIFFERENCES_MAX);
    Facts {
        status: status::status(office),
        now,
        counts: counts(office),
        routes: routes.collect(),
        differences,
    }
}

/// What the guard counted in the last seconds.
fn counts(office: &Office) -> PerSide<Counts> {
    let ticks = SPAN_SECONDS as u128 * 1000 / TICK.as_millis();
    let live = office.guard.live();
    let last = live.ticks.iter().rev().zip(0..ticks);
    let groups = last.flat_map(|(tick, _)| &tick.groups);
    groups.fold(PerSide::default(), |mut sum, group| {
        for side in Side::ALL {
            *sum.get_mut(side) += *group.paths.get(side);
        }
        sum
    })
}

/// What may be ordered: where, and why not now.
fn orders(guard: &Value) -> Value {
    let (ramp, latch) = (&guard["ramp"], guard["rollback"]["id"].as_str());
    let is_paused = ramp["paused"] == true;
    let no_ramp = ramp.is_null().then_some("There is no ramp in the config.");
    let unless = |is: bool, why: &'static str| (!is).then_some(why);
    let pause = no_ramp.or_else(|| unless(!is_paused, "The ramp is paused already."));
    let go_on = no_ramp.or_else(|| unless(is_paused, "The ramp is not paused."));
    let waits = !ramp["awaits_approval"].is_null();
    let approve = no_ramp.or_else(|| unless(waits, "No step waits for an approval."));
    let roll_back = unless(latch.is_none(), "A rollback is in force already.");
    let resume = unless(latch.is_some(), "No rollback is in force.");
    let order = |path: String, why_not: Option<&str>| json!({ "path": path, "why_not": why_not });
    json!({
        "pause": order("/api/v1/ramp/pause".to_owned(), pause),
        "continue": order("/api/v1/ramp/continue".to_owned(), go_on),
        "approve": order("/api/v1/ramp/approve".to_owned(), approve),
        "rollback": order("/api/v1/rollback".to_owned(), roll_back),
        "resume": order(format!("/api/v1/resume/{}", latch.unwrap_or_default()), resume),
    })
}
