//! The panels of the dashboard: the status, and the last seconds, as markup.
//!
//! Pure. The status is the document of the API, so the page says what the API says. Names of routes and
//! endpoints are whatever a config says, and places of differences whatever a backend answered: each text
//! from elsewhere goes through `safe`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::admin::dashboard::draw::{bars, gauge, largest, plot};
use crate::admin::dashboard::markup::{
    END, entries, head, list, nothing, number, or_nothing, row, safe, word,
};
use crate::admin::dashboard::pulse::{MOMENTS_MAX, Now, QUANTILES};
use crate::admin::dashboard::words::{Tone, drain, plain, reasons, verdict};
use crate::compare::view::DiffLine;
use crate::guard::counts::Counts;
use crate::report::html::escape;
use crate::report::story::{count, millis, rate, share, when};
use crate::vocab::{PerSide, RouteId, Side};

/// Differences that are shown, the worst first.
pub(super) const DIFFERENCES_MAX: usize = 10;

/// What the panels show.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// `/api/v1/status`.
    pub(super) status: Value,
    /// The last seconds.
    pub(super) now: Now,
    /// What the guard counted in them.
    pub(super) counts: PerSide<Counts>,
    /// Routes by name.
    pub(super) routes: BTreeMap<String, RouteId>,
    /// The worst differences.
    pub(super) differences: Vec<DiffLine>,
}

/// The markup of each panel, by its name.
pub(super) type Panels = BTreeMap<&'static str, String>;

/// All panels.
pub(super) fn panels(facts: &Facts) -> Panels {
    let guard = &facts.status["guard"];
    let (tone, line) = verdict(guard);
    Panels::from([
        ("summary", summary(&facts.status)),
        ("verdict", format!("<span class=\"{}\">{}</span>", tone.name(), safe(&line))),
        ("reasons", list(&reasons(guard), "Nothing speaks against it, and nothing is missing.")),
        ("ramp", ramp(guard)),
        ("weights", weights(facts)),
        ("paths", paths(facts)),
        ("latency", latency(facts)),
        ("plots", plots(facts)),
        ("evidence", evidence(guard)),
        ("endpoints", endpoints(&facts.status["paths"])),
        ("stalls", stalls(guard)),
        ("drain", drains(&facts.status)),
        ("differences", differences(facts)),
        ("decision", decision(&guard["last_decision"])),
    ])
}

fn summary(status: &Value) -> String {
    let is_ready = status["ready"] == true;
    let ready = if is_ready { "ready" } else { "not ready" };
    let mut text = format!(
        "<span class=\"{}\"><strong>{}</strong>, {ready}</span><span>version {}</span>\
         <span>config {}</span><span>{} connections</span>",
        if is_ready { "plain" } else { "warn" },
        safe(word(&status["phase"])),
        safe(word(&status["version"])),
        safe(&word(&status["config"]["hash"]).chars().take(12).collect::<String>()),
        number(&status["connections"]),
    );
    for fault in entries(&status["config"]["faults"]).take(3) {
        text.push_str(&format!("<span class=\"fault\">Refused: {}</span>", safe(word(fault))));
    }
    text
}

fn ramp(guard: &Value) -> String {
    let ramp = &guard["ramp"];
    let Some(position) = ramp["position"].as_f64() else {
        return nothing("There is no ramp: the weight is what the config says.");
    };
    let goal = ramp["goal"].as_f64().unwrap_or_default();
    let mut steps = String::new();
    for step in entries(&ramp["steps"]).filter_map(Value::as_f64) {
        // The last one may be beyond the configured weight, where the ramp ends.
        let step = step.min(goal);
        let (class, current) = match step.total_cmp(&position) {
            std::cmp::Ordering::Less => ("done", ""),
            std::cmp::Ordering::Equal => ("now", " aria-current=\"step\""),
            std::cmp::Ordering::Greater => ("ahead", ""),
        };
        let step = format!("<li class=\"{class}\"{current}>{}</li>", share(step));
        if !steps.ends_with(&step) {
            steps.push_str(&step);
        }
    }
    let is_rolled_back = !guard["rollback"].is_null();
    let stands = match ramp["next"].as_f64() {
        Some(next) => format!("At {}, next {}", share(position), share(next)),
        None if is_rolled_back => format!("Begins anew at {} after a resume", share(position)),
        None => format!("At {}, its end", share(position)),
    };
    let paused = if ramp["paused"] == true { ", <strong>paused</strong>" } else { "" };
    let waits = if ramp["awaits_approval"].is_null() { "" } else { ", waits for an approval" };
    format!("<ol>{steps}</ol><p>{stands}{paused}{waits}.</p>")
}

fn weights(facts: &Facts) -> String {
    let mut table = head(&["Route", "#configured", "#effective", "#observed"]);
    for weight in entries(&facts.status["weights"]) {
        let name = word(&weight["route"]);
        let observed = facts.routes.get(name).and_then(|route| facts.now.observed.get(route));
        // Of ten seconds' requests more digits say nothing.
        let observed = observed.map(|part| format!("{:.1} %", part * 100.0));
        let part = |key: &str| or_nothing(weight[key].as_f64().map(share));
        let cells = [part("configured"), part("effective"), or_nothing(observed)];
        table.push_str(&row(&safe(name), &cells.map(|cell| ("number", cell))));
    }
    table + END
}

fn paths(facts: &Facts) -> String {
    let status = |side: Side| &facts.status["paths"][side.name()];
    let mut table = head(&["Last 10 s", "#legacy", "#async"]);
    let mut add = |name: &str, cell: &dyn Fn(Side) -> (&'static str, String)| {
        let cells = Side::ALL.map(cell).map(|(tone, text)| (format!("number {tone}"), text));
        table.push_str(&row(name, &cells.each_ref().map(|(class, text)| (&**class, text.clone()))));
    };
    add("Requests/s", &|side| {
        ("", or_nothing(facts.now.per_second.get(side).map(|rate| format!("{rate:.1}"))))
    });
    let failed =
        |events: u64, n: u64| (if events > 0 { "bad" } else { "" }, or_nothing(rate(events, n)));
    add("Errors", &|side| failed(facts.counts.get(side).err, facts.counts.get(side).n));
    add("Timeouts", &|side| failed(facts.counts.get(side).tmo, facts.counts.get(side).n));
    add("In flight", &|side| ("", number(&status(side)["in_flight"])));
    add("In the queue", &|side| ("", number(&status(side)["queue_depth"])));
    add("Tunnels", &|side| ("", number(&status(side)["tunnels"])));
    add("Endpoints up", &|side| {
        let endpoints = status(side)["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        let up = endpoints.iter().filter(|endpoint| endpoint["up"] == true).count();
        (if up < endpoints.len() { "bad" } else { "" }, format!("{up} of {}", endpoints.len()))
    });
    add("Requests in all", &|side| ("", number(&status(side)["requests"])));
    add("Cut off in all", &|side| ("", number(&status(side)["cut"])));
    table + END
}

/// Legacy's baseline of each quantile, in milliseconds.
fn norms(facts: &Facts) -> [Option<f64>; 3] {
    let legacy = &facts.status["guard"]["baseline"]["paths"]["legacy"];
    [&legacy["p50_ms"], &legacy["p95"]["value_ms"], &legacy["p99"]["value_ms"]].map(Value::as_f64)
}

fn latency(facts: &Facts) -> String {
    let (norms, quantiles) = (norms(facts), &facts.now.quantiles_ms);
    let known = quantiles.iter().flat_map(|(_, of)| of.iter().flatten()).copied();
    let full = largest(known.chain(norms.into_iter().flatten()), 1.0);
    let mut table = head(&["Last 10 s", "#legacy", "#async", "#baseline"]);
    for (place, (_, name)) in QUANTILES.into_iter().enumerate() {
        let values = PerSide::from_fn(|side| quantiles.get(side)[place]);
        let cells = [values.legacy, values.async_, norms[place]];
        let cells = cells.map(|ms| ("number", or_nothing(ms.map(millis))));
        let drawn = bars(&values, norms[place], full);
        let drawn = format!("<tr class=\"bars\"><td colspan=\"4\">{drawn}</td></tr>");
        table.push_str(&(row(name, &cells) + &drawn));
    }
    let baseline = &facts.status["guard"]["baseline"];
    let about = match baseline["recorded_at"].as_str() {
        Some(time) => {
            let stale = entries(&baseline["stale"]).next().is_some();
            let stale = if stale { " It is stale." } else { "" };
            format!(
                "The line across the bars is legacy's baseline of {}.{stale}",
                safe(&when(time))
            )
        }
        None => "No baseline was recorded: <code>cutover baseline record</code>.".to_owned(),
    };
    format!("{table}{END}<p class=\"nothing\">{about}</p>")
}

fn plots(facts: &Facts) -> String {
    let moments = &facts.now.moments;
    let of = |value: fn(&PerSide<Option<f64>>, Side) -> Option<f64>| {
        PerSide::from_fn(|side| moments.iter().map(|m| value(&m.p95_ms, side)).collect::<Vec<_>>())
    };
    let norms: Vec<f64> = norms(facts)[1].into_iter().collect();
    let p95 = of(|p95, side| *p95.get(side));
    let rates = PerSide::from_fn(|side| {
        moments.iter().map(|moment| Some(*moment.per_second.get(side))).collect::<Vec<_>>()
    });
    let dashed = if norms.is_empty() { "" } else { " Dashed: legacy's baseline." };
    figure("P95", &p95, &norms, &|full| format!("{}.{dashed}", millis(full)))
        + &figure("Requests/s", &rates, &[], &|full| format!("{full:.1}."))
}

/// A plot of the last two minutes; `top` says what its upper edge is.
fn figure(
    name: &str,
    lines: &PerSide<Vec<Option<f64>>>,
    norms: &[f64],
    top: &dyn Fn(f64) -> String,
) -> String {
    let known = lines.iter().flat_map(|(_, line)| line.iter().flatten()).chain(norms).copied();
    // So that a line at the top is seen whole.
    let full = largest(known, 1.0) * 1.05;
    let drawn = plot(lines, norms, MOMENTS_MAX, full);
    format!(
        "<figure>{drawn}<figcaption>{name} of <span class=\"key legacy\">legacy</span> and \
         <span class=\"key async\">async</span>, last two minutes; upper edge {}</figcaption></figure>",
        top(full)
    )
}

fn evidence(guard: &Value) -> String {
    let limit = guard["evidence_limit"].as_f64().unwrap_or_default();
    let mut table = head(&["Check", "test", "#nats", "limit"]);
    let mut is_any = false;
    for entry in entries(&guard["evidence"]) {
        is_any = true;
        let nats = entry["nats"].as_f64().unwrap_or_default();
        let tone = if nats >= limit { Tone::Bad } else { Tone::Warn };
        let bar = gauge(nats, tone.name(), limit, limit * 1.25);
        let cells = [("", safe(word(&entry["test"]))), ("number", format!("{nats:.1}")), ("", bar)];
        table.push_str(&row(&safe(&plain(word(&entry["check"]))), &cells));
    }
    if !is_any {
        return nothing("Nothing is judged yet.");
    }
    let about = "A: against legacy, now. B: against the baseline. A check fails at the line,";
    format!("{table}{END}<p class=\"nothing\">{about} {limit} nats.</p>")
}

fn endpoints(paths: &Value) -> String {
    let mut table = head(&["Endpoint", "path", "state", "#weight"]);
    for side in Side::ALL {
        for endpoint in entries(&paths[side.name()]["endpoints"]) {
            let mut state = plain(word(&endpoint["health"]));
            if endpoint["ejected"] == true {
                state.push_str(", ejected");
            }
            let is_up = endpoint["up"] == true;
            let (class, up) = if is_up { ("good", "up") } else { ("bad", "down") };
            let weight = &endpoint["weight"];
            let cells = [
                ("", side.name().to_owned()),
                (class, safe(&format!("{up} ({state})"))),
                ("number", safe(&weight.to_string())),
            ];
            table.push_str(&row(&safe(word(&endpoint["endpoint"])), &cells));
        }
        if paths[side.name()]["panic"] == true {
            let text = "Too few are up: all of them get requests.".to_owned();
            table.push_str(&row(side.name(), &[("", String::new()), ("bad", text)]));
        }
    }
    table + END
}

fn stalls(guard: &Value) -> String {
    let lines: Vec<String> =
        entries(&guard["stalls"]).map(|stall| word(&stall["text"]).to_owned()).collect();
    list(&lines, "No route is seen to block an event loop.")
}

fn drains(status: &Value) -> String {
    let mut table = head(&["What", "state"]);
    let phase = safe(word(&status["phase"]));
    table.push_str(&row("The proxy", &[("", phase)]));
    for side in Side::ALL {
        let (tone, text) = drain(&status["guard"]["drains"][side.name()]);
        table.push_str(&row(side.name(), &[(tone.name(), safe(&text))]));
    }
    table + END
}

fn differences(facts: &Facts) -> String {
    let mirror = &facts.status["mirror"];
    let Some(mirrored) = mirror["share"].as_f64() else {
        return nothing("Nothing is mirrored.");
    };
    let gate = &mirror["gate"];
    let (tone, state) =
        if gate["open"] == true { (Tone::Good, "open") } else { (Tone::Warn, "closed") };
    let mut text = format!(
        "<p>{} mirrored; gate <span class=\"{}\">{state}</span>; {} answers compared, {} differ.</p>",
        share(mirrored),
        tone.name(),
        number(&gate["compared"]),
        number(&gate["differing"]),
    );
    if !mirror["switched_off"].is_null() {
        text.push_str("<p class=\"bad\">Switched off: requests that it copied took longer.</p>");
    }
    if facts.differences.is_empty() {
        return text + &nothing("They differ nowhere.");
    }
    text.push_str(&head(&["Where", "route", "in", "finding", "#of answers"]));
    for line in facts.differences.iter().take(DIFFERENCES_MAX) {
        let place = if line.place.is_empty() { "the whole answer" } else { &line.place };
        let class = if line.is_regression() { "bad" } else { "" };
        let cells = [
            ("", safe(&line.route)),
            ("", line.kind.name().to_owned()),
            (class, safe(&line.finding)),
            ("number", format!("{} of {}", count(line.differed), count(line.compared))),
        ];
        text.push_str(&row(&safe(place), &cells));
    }
    text + END
}

fn decision(decision: &Value) -> String {
    match decision["text"].as_str() {
        // Its lines are its own; no name in it is cut.
        Some(text) => {
            let time = decision["time"].as_str().map(when).unwrap_or_default();
            format!("<p class=\"nothing\">{} UTC</p><pre>{}</pre>", safe(&time), escape(text))
        }
        None => nothing("Nothing was decided yet."),
    }
}

#[cfg(test)]
mod tests;
