//! What the report says of the comparison of the paths' answers.

use crate::compare::view::{DiffLine, Diffs, RouteDiffs, RuleHits};
use crate::report::section::{Mark, ROWS_MAX, Row, Section, cut_short, row};
use crate::report::story::{count, share};

/// Its sections.
pub(super) fn sections(diffs: &Diffs) -> [Section; 3] {
    [gate(diffs), spots(diffs), rules(diffs)]
}

fn gate(diffs: &Diffs) -> Section {
    let gate = &diffs.gate;
    let reasons: Vec<String> = gate.reasons.iter().map(ToString::to_string).collect();
    let state =
        if gate.open { "open".to_owned() } else { format!("closed: {}", reasons.join("; ")) };
    let unverified = match gate.unverified.as_slice() {
        [] => String::new(),
        routes => format!(" Unverified, with fewer than 30 comparisons: {}.", routes.join(", ")),
    };
    let compared =
        format!("{} answers compared, {} differ", count(gate.compared), count(gate.differing));
    let off = diffs.switched_off.as_ref().map_or_else(String::new, |off| {
        format!(" Switched off since {}: requests that it copied took longer.", off.since)
    });
    let shown = diffs.routes.iter().take(ROWS_MAX);
    Section {
        title: "Answers of both paths, compared",
        intro: format!(
            "{} of requests are mirrored.{off} The gate is {state}. {compared}.{unverified}",
            share(diffs.share)
        ),
        columns: &[
            "route",
            "compared",
            "same",
            "noise",
            "differ",
            "transient",
            "unanswered",
            "state",
        ],
        numbers: 1..7,
        rows: shown.map(route_row).collect(),
        empty: "No answers have been compared yet.",
    }
}

fn route_row(route: &RouteDiffs) -> Row {
    let (mark, state) = match (route.verified, route.differed() + route.failures) {
        (false, _) => (Mark::Open, "unverified"),
        (true, 0) => (Mark::Good, "same"),
        (true, _) => (Mark::Plain, "differs"),
    };
    let critical = if route.critical { " (critical)" } else { "" };
    Row {
        mark,
        ..row([
            format!("{}{critical}", route.route),
            count(route.compared),
            count(route.matched),
            count(route.noise),
            count(route.differed()),
            count(route.transient),
            count(route.failures),
            state.to_owned(),
        ])
    }
}

fn spots(diffs: &Diffs) -> Section {
    let rows = diffs.differences.iter().take(ROWS_MAX).map(|line| Row {
        mark: if line.is_regression() { Mark::Bad } else { Mark::Plain },
        ..spot_row(line)
    });
    let all = diffs.differences.len();
    let left_out = match diffs.left_out {
        0 => String::new(),
        number => format!(" {} differences had no room to be counted.", count(number)),
    };
    let duplicates = match diffs.duplicate_names {
        0 => String::new(),
        number => format!(" {} answers had a name twice in one JSON object.", count(number)),
    };
    Section {
        title: "Where answers differ",
        intro: format!("{}{left_out}{duplicates}", first_of(all)),
        columns: &["where", "route", "kind", "paths", "of", "itself", "of", "finding"],
        numbers: 3..7,
        rows: rows.collect(),
        empty: "They differ nowhere.",
    }
}

fn first_of(all: usize) -> String {
    if cut_short(all, ROWS_MAX).is_empty() {
        return "How often the paths differ, and how often one path does from itself.".to_owned();
    }
    format!("The first {ROWS_MAX} of {all}; more are in the JSON report.")
}

fn spot_row(line: &DiffLine) -> Row {
    let place = if line.place.is_empty() { "the whole answer" } else { &line.place };
    row([
        place.to_owned(),
        line.route.clone(),
        line.kind.name().to_owned(),
        count(line.differed),
        count(line.compared),
        count(line.noise),
        count(line.asked_twice),
        line.finding.clone(),
    ])
}

fn rules(diffs: &Diffs) -> Section {
    let rows = diffs.rules.iter().take(ROWS_MAX).map(|rule| Row {
        mark: if rule.hits == 0 { Mark::Open } else { Mark::Plain },
        ..rule_row(rule)
    });
    Section {
        title: "Rules of the comparison",
        intro: "A rule that never applied may be stale.".to_owned(),
        columns: &["route", "rule", "for", "applied", "state"],
        numbers: 3..4,
        rows: rows.collect(),
        empty: "No route has rules of its own.",
    }
}

fn rule_row(rule: &RuleHits) -> Row {
    let state = if rule.hits == 0 { "never applied" } else { "in use" };
    row([
        rule.route.clone(),
        rule.rule.clone(),
        rule.text.clone(),
        count(rule.hits),
        state.to_owned(),
    ])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::gate::{Gate, GateReason};
    use crate::compare::kind::Kind;

    /// A comparison that found a regression of `route`.
    pub(crate) fn found(route: &str) -> Diffs {
        let reason = GateReason::Regression {
            route: route.to_owned(),
            kind: Kind::Type,
            place: "/id".to_owned(),
        };
        Diffs {
            share: 0.1,
            switched_off: None,
            gate: Gate {
                reasons: vec![reason],
                failed: true,
                compared: 1_234,
                differing: 40,
                unverified: vec!["cart".to_owned()],
                ..Gate::default()
            },
            routes: vec![
                RouteDiffs {
                    route: route.to_owned(),
                    critical: true,
                    compared: 1_234,
                    matched: 1_190,
                    confirmed: 40,
                    verified: true,
                    ..RouteDiffs::default()
                },
                RouteDiffs { route: "cart".to_owned(), ..RouteDiffs::default() },
            ],
            differences: vec![DiffLine {
                finding: DiffLine::REGRESSION.to_owned(),
                route: route.to_owned(),
                kind: Kind::Type,
                place: "/id".to_owned(),
                differed: 40,
                compared: 1_234,
                noise: 0,
                asked_twice: 123,
                samples: Vec::new(),
            }],
            rules: vec![RuleHits {
                route: route.to_owned(),
                rule: "ignore".to_owned(),
                text: "/meta/ts".to_owned(),
                hits: 0,
            }],
            ..Diffs::default()
        }
    }

    #[test]
    fn each_section_says_what_there_is_or_that_there_is_none() {
        let [gate, spots, rules] = sections(&found("orders"));
        assert_eq!(
            gate.intro,
            "10 % of requests are mirrored. The gate is closed: regression on orders: type /id. \
             1,234 answers compared, 40 differ. Unverified, with fewer than 30 comparisons: cart."
        );
        let cells = |section: &Section| section.rows[0].cells.join(" ");
        assert_eq!(cells(&gate), "orders (critical) 1,234 1,190 0 40 0 0 differs");
        assert_eq!(cells(&spots), "/id orders type 40 1,234 0 123 regression");
        assert_eq!(cells(&rules), "orders ignore /meta/ts 0 never applied");
        assert_eq!([gate.rows[1].mark, spots.rows[0].mark], [Mark::Open, Mark::Bad]);
        let open = Diffs { gate: Gate { open: true, ..Gate::default() }, ..Diffs::default() };
        let [gate, spots, rules] = sections(&open);
        assert!(gate.intro.contains("The gate is open. 0 answers"), "{}", gate.intro);
        assert!([&gate, &spots, &rules].iter().all(|section| section.rows.is_empty()));
    }

    #[test]
    fn long_lists_end() {
        let mut diffs = found("orders");
        diffs.differences = vec![diffs.differences[0].clone(); 500];
        diffs.left_out = 7;
        diffs.duplicate_names = 1_000;
        let [_, spots, _] = sections(&diffs);
        assert_eq!(spots.rows.len(), ROWS_MAX);
        assert_eq!(
            spots.intro,
            "The first 200 of 500; more are in the JSON report. 7 differences had no room to be counted. \
             1,000 answers had a name twice in one JSON object."
        );
    }
}
