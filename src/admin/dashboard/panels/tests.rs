//! What the panels say of a status, and that no text of it becomes markup.

use serde_json::json;

use super::*;
use crate::admin::dashboard::pulse::Moment;
use crate::compare::kind::Kind;

const HOSTILE: &str = "<script>alert(\"1\")</script>'&\u{202e}";

/// A status in which all names are `name`.
fn facts(name: &str) -> Facts {
    let path = json!({
        "requests": 12_345, "errors": {}, "in_flight": 3, "queue_depth": 2, "tunnels": 1, "cut": 0,
        "panic": true,
        "endpoints": [
            { "endpoint": name, "up": true, "health": "up", "ejected": false, "weight": 1 },
            { "endpoint": name, "up": false, "health": name, "ejected": true, "weight": 2 },
        ],
    });
    let status = json!({
        "version": name, "phase": name, "ready": true, "connections": 7,
        "config": { "hash": name, "faults": [name] },
        "weights": [{ "route": name, "configured": 0.5, "effective": 0.1 }],
        "paths": { "legacy": path, "async": path },
        "mirror": { "share": 0.1, "gate": { "open": false, "compared": 1_000, "differing": 4 } },
        "guard": {
            "mode": "enforce",
            "verdict": { "verdict": "hold", "reasons": [{ "reason": "paused" }] },
            "evidence": [{ "check": name, "test": name, "nats": 17.0 }],
            "evidence_limit": 16.0,
            "rollback": { "id": name, "check": name, "at": name },
            "ramp": { "position": 0.1, "next": 0.5, "goal": 0.5, "steps": [0.05, 0.1, 0.5, 1.0],
                "paused": true, "awaits_approval": 0.5 },
            "stalls": [{ "text": name }],
            "baseline": { "recorded_at": name, "stale": [name], "paths": { "legacy": {
                "p50_ms": 10.0, "p95": { "value_ms": 80.0 }, "p99": { "value_ms": 200.0 } } } },
            "drains": { "legacy": { "stage": { "phase": name } }, "async": {
                "certificate": { "issued_at": name, "void": { "at": name, "requests": 1 } } } },
            "last_decision": { "time": name, "text": name },
        },
    });
    let line = DiffLine {
        finding: DiffLine::REGRESSION.to_owned(),
        route: name.to_owned(),
        kind: Kind::Type,
        place: name.to_owned(),
        differed: 4,
        compared: 1_000,
        noise: 0,
        asked_twice: 9,
        samples: Vec::new(),
    };
    let counts = Counts { n: 200, err: 1, tmo: 10, ..Counts::default() };
    Facts {
        status,
        now: Now {
            per_second: PerSide { legacy: Some(18.0), async_: Some(2.0) },
            quantiles_ms: PerSide { legacy: [Some(9.0), Some(70.0), None], async_: [None; 3] },
            observed: [(RouteId(3), 0.1)].into(),
            moments: vec![Moment::default(); 3],
        },
        counts: PerSide { legacy: Counts::default(), async_: counts },
        routes: [(name.to_owned(), RouteId(3))].into(),
        differences: vec![line; 30],
    }
}

/// The text of a panel without its tags.
fn text(panel: &str) -> String {
    let parts = panel.split('<').filter_map(|part| part.split_once('>').map(|(_, text)| text));
    let text: String = parts.map(|text| format!("{text} ")).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn no_text_from_elsewhere_becomes_markup() {
    let (hostile, tame) = (panels(&facts(HOSTILE)), panels(&facts("name")));
    assert_eq!(hostile.keys().collect::<Vec<_>>(), tame.keys().collect::<Vec<_>>());
    let mut shown = 0;
    for (name, markup) in &hostile {
        assert!(!markup.contains("<script") && !markup.contains('\u{202e}'), "{name}: {markup}");
        assert!(!markup.contains("&amp;lt;"), "escaped twice in {name}: {markup}");
        shown += markup.matches("&lt;script&gt;").count();
        // The same tags, whatever the texts are.
        assert_eq!(
            markup.matches('<').count(),
            tame[name].matches('<').count(),
            "{name}: {markup}"
        );
    }
    assert!(shown > 15, "{shown}");
}

#[test]
fn panels_say_what_the_status_says() {
    let panels = panels(&facts("orders"));
    for (panel, said) in [
        ("verdict", "Rolled back by orders"),
        ("reasons", "The ramp is paused."),
        ("ramp", "5 % 10 % 50 % At 10 %, next 50 %, paused , waits for an approval."),
        ("weights", "orders 50 % 10 % 10.0 %"),
        ("paths", "Requests/s 18.0 2.0 Errors – 0.5 % Timeouts – 5 % In flight 3 3"),
        ("paths", "Endpoints up 1 of 2 1 of 2 Requests in all 12,345 12,345"),
        ("latency", "P50 9 ms – 10 ms P95 70 ms – 80 ms P99 – – 200 ms"),
        ("latency", "legacy&#39;s baseline of orders. It is stale."),
        ("plots", "upper edge 84 ms. Dashed: legacy's baseline."),
        ("evidence", "orders orders 17.0"),
        ("endpoints", "orders legacy down (orders, ejected) 2"),
        ("stalls", "orders"),
        ("drain", "async Certificate void since orders: 1 requests came"),
        ("differences", "10 % mirrored; gate closed ; 1,000 answers compared, 4 differ."),
        ("differences", "orders orders type regression 4 of 1,000"),
        ("decision", "orders UTC orders"),
    ] {
        let text = text(&panels[panel]);
        assert!(text.contains(&said.replace("&#39;", "'")), "no `{said}` in {panel}: {text}");
    }
    assert_eq!(panels["differences"].matches("<tr>").count(), 1 + DIFFERENCES_MAX);
}

#[test]
fn a_ramp_without_a_next_step_is_at_its_end_unless_it_was_rolled_back() {
    let mut facts = facts("orders");
    facts.status["guard"]["ramp"]["next"] = Value::Null;
    assert!(text(&panels(&facts)["ramp"]).contains("50 % Begins anew at 10 % after a resume"));
    facts.status["guard"]["rollback"] = Value::Null;
    assert!(text(&panels(&facts)["ramp"]).contains("50 % At 10 %, its end"));
}

#[test]
fn a_status_without_anything_has_sentences_in_the_place_of_figures() {
    let panels = panels(&Facts { status: json!({}), ..Facts::default() });
    for (panel, said) in [
        ("ramp", "There is no ramp"),
        ("evidence", "Nothing is judged yet"),
        ("stalls", "No route is seen to block"),
        ("differences", "Nothing is mirrored"),
        ("decision", "Nothing was decided yet"),
        ("latency", "No baseline was recorded"),
    ] {
        assert!(panels[panel].contains(said), "no `{said}` in {}", panels[panel]);
    }
    assert!(panels.values().all(|markup| !markup.contains("NaN") && !markup.contains("inf")));
}
