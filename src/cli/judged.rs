//! The guard's part of the status, and the mirror's, in words.

use serde_json::Value;

/// A few lines: the mode, the verdict, the ramp, what blocks, and the last decision.
pub(crate) fn prose(guard: &Value) -> String {
    let mut lines =
        vec![format!("guard {} · {}", plain(&guard["mode"]), verdict(&guard["verdict"]),)];
    if let Some(worst) = worst(&guard["evidence"]) {
        lines.push(format!("  evidence {worst}, a check fails at {}", guard["evidence_limit"]));
    }
    if let Some(id) = guard["rollback"]["id"].as_str() {
        let check = plain(&guard["rollback"]["check"]);
        lines.push(format!("  ROLLED BACK by {check}: `cutover resume {id}` releases it"));
    }
    let ramp = &guard["ramp"];
    if ramp.is_object() {
        lines.push(match guard["rollback"]["id"].as_str() {
            // Its position is where it will begin: it has no other while nothing goes to async.
            Some(_) => format!("  ramp begins anew at {} once it is released", ramp["position"]),
            None => format!("  ramp at {}{}", ramp["position"], way(ramp)),
        });
    }
    let stalls = guard["stalls"].as_array().into_iter().flatten();
    lines.extend(stalls.map(|stall| format!("  {}", plain(&stall["text"]))));
    if let Some(text) = guard["last_decision"]["text"].as_str() {
        lines.extend(text.lines().map(|line| format!("  | {line}")));
    }
    lines.join("\n") + "\n"
}

/// Some lines of the comparison of answers; nothing where none are compared.
pub(crate) fn mirror(mirror: &Value) -> String {
    let Some(share) = mirror["share"].as_f64() else {
        return String::new();
    };
    let gate = &mirror["gate"];
    let state = if gate["open"] == true { "open" } else { "closed" };
    let (share, compared, differing) = (share * 100.0, &gate["compared"], &gate["differing"]);
    let mut lines =
        vec![format!("mirror {share} % · gate {state} · {compared} compared, {differing} differ")];
    if mirror["switched_off"].is_object() {
        let since = plain(&mirror["switched_off"]["since"]);
        lines.push(format!("  SWITCHED OFF since {since}: requests that it copies take longer"));
    }
    for (list, word) in [("reasons", ""), ("regressions", "regression: ")] {
        let texts = mirror[list].as_array().into_iter().flatten();
        lines.extend(texts.map(|text| format!("  {word}{}", plain(text))));
    }
    let unverified = gate["unverified"].as_array().into_iter().flatten().map(plain);
    let unverified: Vec<&str> = unverified.collect();
    if !unverified.is_empty() {
        lines.push(format!("  unverified: {}", unverified.join(", ")));
    }
    lines.join("\n") + "\n"
}

/// A verdict, and why.
pub(crate) fn verdict(verdict: &Value) -> String {
    let name = verdict["verdict"].as_str().unwrap_or("no verdict yet");
    format!("{name}{}", reasons(verdict))
}

fn way(ramp: &Value) -> String {
    let mut text = match ramp["next"].as_f64() {
        Some(next) => format!(", next {next}"),
        None => ", at its end".to_owned(),
    };
    if ramp["paused"] == true {
        text.push_str(", paused");
    }
    if !ramp["awaits_approval"].is_null() {
        text.push_str(", waits for `cutover ramp approve`");
    }
    text
}

/// Why the ramp is held, or what a step lacks.
fn reasons(verdict: &Value) -> String {
    let of = |list: &str, name: &str| {
        let entries = verdict[list].as_array().into_iter().flatten();
        entries.map(|entry| details(entry, name)).collect::<Vec<_>>()
    };
    let all = [of("reasons", "reason"), of("missing", "missing")].concat();
    if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) }
}

/// `requests have=3 need=500`
fn details(entry: &Value, name: &str) -> String {
    let others = entry.as_object().into_iter().flatten();
    let others = others.filter(|(key, value)| *key != name && !value.is_null());
    let others = others.map(|(key, value)| match (value.as_str(), value.as_f64()) {
        (Some(text), _) => format!(" {key}={text}"),
        // A rate: finer than it is known for certain.
        (None, Some(rate)) if value.is_f64() => format!(" {key}={rate:.4}"),
        (None, _) => format!(" {key}={value}"),
    });
    format!("{}{}", plain(&entry[name]), others.collect::<String>())
}

fn worst(evidence: &Value) -> Option<String> {
    let evidence = evidence.as_array()?;
    let nats = |entry: &Value| entry["nats"].as_f64().unwrap_or(0.0);
    let worst = evidence.iter().max_by(|a, b| nats(a).total_cmp(&nats(b)))?;
    let (check, test) = (plain(&worst["check"]), plain(&worst["test"]));
    Some(format!("{:.1} nats ({check}, test {test})", nats(worst)))
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_comparison_is_told_in_a_few_lines_or_not_at_all() {
        assert_eq!(mirror(&Value::Null), "");
        let found = json!({
            "share": 0.1,
            "gate": { "open": false, "compared": 12, "differing": 3, "unverified": ["cart", "a"] },
            "switched_off": { "since": "2026-01-01T00:00:00Z", "evidence": 9.5 },
            "reasons": ["12 of 1077 comparisons"],
            "regressions": ["orders: type /id"],
        });
        assert_eq!(
            mirror(&found),
            "mirror 10 % · gate closed · 12 compared, 3 differ\n  SWITCHED OFF since \
             2026-01-01T00:00:00Z: requests that it copies take longer\n  12 of 1077 comparisons\n  \
             regression: orders: type /id\n  unverified: cart, a\n"
        );
    }

    #[test]
    fn a_guard_is_told_in_a_few_lines() {
        let guard = json!({
            "mode": "enforce",
            "verdict": { "verdict": "wait", "missing": [
                { "missing": "requests", "have": 3, "need": 500 },
                { "missing": "rate", "what": "error", "upper": 0.0717644, "allowed": 0.03 },
                { "missing": "settling" },
            ], "overdue": false },
            "evidence": [{ "check": "p95", "test": "B", "nats": 2.345 }],
            "evidence_limit": 16.0,
            "ramp": { "position": 0.1, "next": 0.5, "paused": true, "awaits_approval": null },
            "rollback": null,
            "stalls": [],
            "last_decision": null,
        });
        assert_eq!(
            prose(&guard),
            "guard enforce · wait: requests have=3 need=500, rate allowed=0.0300 upper=0.0718 \
             what=error, settling\n  \
             evidence 2.3 nats (p95, test B), a check fails at 16.0\n  \
             ramp at 0.1, next 0.5, paused\n"
        );
    }

    #[test]
    fn a_ramp_that_was_rolled_back_is_not_at_its_end() {
        let guard = json!({
            "mode": "enforce",
            "verdict": { "verdict": "hold", "reasons": [
                { "reason": "evidence", "check": "goodput", "test": null, "value": 70.0 },
            ] },
            "ramp": { "position": 0.01, "next": null, "paused": false, "awaits_approval": null },
            "rollback": { "id": "rb-7", "check": "goodput" },
        });
        assert_eq!(
            prose(&guard),
            "guard enforce · hold: evidence check=goodput value=70.0000\n  \
             ROLLED BACK by goodput: `cutover resume rb-7` releases it\n  \
             ramp begins anew at 0.01 once it is released\n"
        );
    }
}
