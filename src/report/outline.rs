//! What the report says, section by section, for each form that it is shown in.
//!
//! Owns the choice and order of what is shown, as tables of words; knows neither terminal nor page.
//! Nothing is left out without saying so. Words from elsewhere (routes, reasons) are passed on as they
//! are: whoever shows them makes them harmless for where they go.

use crate::report::section::{Mark, NOTHING, ROWS_MAX, Row, Section};
use crate::report::section::{cut_short, newest, or_nothing, row};
use crate::report::story::{BaselinePath, PathPoint, Point, Story};
use crate::report::story::{bytes, count, millis, rate, share, when};
use crate::report::{blocking, differences};
use crate::vocab::Side;

/// What a reader wants to know first.
pub(super) fn headline(story: &Story) -> Vec<(&'static str, String)> {
    let passed = |wanted| story.checklist.iter().filter(|line| line.passed == wanted).count();
    let [good, bad, open] = [Some(true), Some(false), None].map(passed);
    let last = story.series.last();
    let requests = story.totals.legacy.requests.saturating_add(story.totals.async_.requests);
    let rollbacks = story.decisions.iter().filter(|line| line.kind == ROLLBACK).count();
    vec![
        ("checklist", format!("{good} passed, {bad} failed, {open} not reached yet")),
        ("share on async", last.map_or_else(|| "not known".to_owned(), |last| share(last.share))),
        ("requests", format!("{}, of which lost: {}", count(requests), count(story.lost))),
        ("rollbacks", rollbacks.to_string()),
        ("began", when(&story.started_at)),
        ("report made", format!("{} (all times are UTC)", when(&story.generated_at))),
        ("made by", format!("cutover {}, config {}", story.product_version, story.config_hash)),
    ]
}

/// The kind of decision that is a rollback.
pub(super) const ROLLBACK: &str = "rollback";

/// All sections, in the order in which they are read.
pub(super) fn sections(story: &Story) -> Vec<Section> {
    let mirror = story.mirror.as_ref();
    let mut all = vec![checklist(story), paths(story), decisions(story)];
    all.extend(mirror.into_iter().flat_map(differences::sections));
    all.extend([
        stalls(story),
        memory(story),
        requests(story),
        certificate(story),
        baseline(story),
    ]);
    let audit = story.baseline.as_ref().and_then(|baseline| baseline.audit.as_ref());
    all.extend(audit.map(blocking::section));
    all.push(changes(story));
    all
}

// === Sections ===

fn checklist(story: &Story) -> Section {
    let rows = story.checklist.iter().map(|line| {
        let (mark, result) = match line.passed {
            Some(true) => (Mark::Good, "passed"),
            Some(false) => (Mark::Bad, "FAILED"),
            None => (Mark::Open, "not yet"),
        };
        Row { mark, below: line.detail.clone(), ..row([line.text.clone(), result.to_owned()]) }
    });
    Section {
        title: "Checklist",
        intro: String::new(),
        columns: &["what must hold", "result"],
        numbers: 0..0,
        rows: rows.collect(),
        empty: "There is no checklist.",
    }
}

fn paths(story: &Story) -> Section {
    let norm = story.baseline.as_ref().map(|baseline| &baseline.paths);
    let before = norm.into_iter().flat_map(|paths| paths.iter()).filter(|(_, path)| path.n > 0);
    let mut rows: Vec<Row> = before.map(|(side, path)| norm_row(side, path)).collect();
    let stretches: Vec<_> =
        story.series.chunk_by(|a, b| share(a.share) == share(b.share)).collect();
    let shown = stretches.iter().skip(stretches.len().saturating_sub(ROWS_MAX / 2));
    let p95 = norm.and_then(|paths| paths.legacy.p95_ms);
    rows.extend(shown.flat_map(|points| Side::ALL.map(|side| stretch_row(points, side, p95))));
    let intro = "One pair of rows for each stretch of time with the same share. P95 and P99 are typical \
                 ones: half of the requests fell into times with a lower one. The change is that of P95 \
                 from legacy's baseline. ";
    Section {
        title: "Both paths, share by share",
        intro: intro.to_owned() + &cut_short(stretches.len(), ROWS_MAX / 2),
        columns: &[
            "since", "path", "share", "requests", "errors", "timeouts", "P95", "change", "P99",
            "memory",
        ],
        numbers: 2..10,
        rows,
        empty: "No requests have been counted yet.",
    }
}

fn norm_row(side: Side, path: &BaselinePath) -> Row {
    row([
        "baseline".to_owned(),
        side.name().to_owned(),
        NOTHING.to_owned(),
        count(path.n),
        or_nothing(rate(path.err, path.n)),
        or_nothing(rate(path.tmo, path.n)),
        or_nothing(path.p95_ms.map(millis)),
        NOTHING.to_owned(),
        or_nothing(path.p99_ms.map(millis)),
        or_nothing(path.rss.map(bytes)),
    ])
}

fn stretch_row(points: &[Point], side: Side, norm: Option<f64>) -> Row {
    let sum = |part: fn(&PathPoint) -> u64| {
        points.iter().map(|point| part(point.paths.get(side))).fold(0, u64::saturating_add)
    };
    let (n, p95) = (sum(|path| path.n), typical(points, side, |path| path.p95_ms));
    let change = p95
        .zip(norm.filter(|norm| *norm > 0.0))
        .map(|(now, norm)| ((now / norm - 1.0) * 100.0).round())
        .map(|change| if change == 0.0 { "0 %".to_owned() } else { format!("{change:+} %") });
    let first = points.first();
    let rss = points.iter().rev().find_map(|point| point.paths.get(side).rss);
    row([
        first.map_or_else(String::new, |first| when(&first.at).chars().take(16).collect()),
        side.name().to_owned(),
        first.map_or_else(String::new, |first| share(first.share)),
        count(n),
        or_nothing(rate(sum(|path| path.err), n)),
        or_nothing(rate(sum(|path| path.tmo), n)),
        or_nothing(p95.map(millis)),
        or_nothing(change),
        or_nothing(typical(points, side, |path| path.p99_ms).map(millis)),
        or_nothing(rss.map(bytes)),
    ])
}

/// The median over time of a quantile, each span weighed by its requests: quantiles have no sum.
fn typical(points: &[Point], side: Side, of: fn(&PathPoint) -> Option<f64>) -> Option<f64> {
    let paths = points.iter().map(|point| point.paths.get(side));
    let mut known: Vec<(f64, u64)> =
        paths.filter_map(|path| Some((of(path).filter(|ms| ms.is_finite())?, path.n))).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = known.iter().map(|(_, n)| *n).fold(0, u64::saturating_add).div_ceil(2);
    let mut below = 0_u64;
    known.into_iter().find_map(|(ms, n)| {
        below = below.saturating_add(n);
        (below >= half).then_some(ms)
    })
}

fn decisions(story: &Story) -> Section {
    let weight = |weight: Option<f64>| or_nothing(weight.map(share));
    let rows = newest(&story.decisions).map(|line| Row {
        below: line.text.clone(),
        mark: if line.kind == ROLLBACK { Mark::Bad } else { Mark::Plain },
        ..row([
            when(&line.time),
            line.kind.clone(),
            or_nothing(line.check.clone()),
            or_nothing(line.id.clone()),
            weight(line.step),
            weight(line.from),
            weight(line.to),
        ])
    });
    Section {
        title: "Decisions",
        intro: cut_short(story.decisions.len(), ROWS_MAX),
        columns: &["time", "decision", "check", "id", "step", "from", "to"],
        numbers: 4..7,
        rows: rows.collect(),
        empty: "The guard has decided nothing yet.",
    }
}

fn stalls(story: &Story) -> Section {
    let rows = newest(&story.stalls).map(|line| Row {
        mark: Mark::Bad,
        ..row([
            line.route.clone().unwrap_or_else(|| "no route alone".to_owned()),
            line.path.name().to_owned(),
            format!("{} of {}", count(line.stalls), count(line.of)),
            millis(line.median_ms),
            millis(line.longest_ms),
            or_nothing(line.last_at.as_deref().map(when)),
        ])
    });
    Section {
        title: "Stalls: who blocks the event loop",
        intro: String::new(),
        columns: &["route", "path", "stalls", "median", "longest", "last"],
        numbers: 2..5,
        rows: rows.collect(),
        empty: "No route was found to block an event loop.",
    }
}

fn memory(story: &Story) -> Section {
    let known = story.memory.iter().filter(|(_, memory)| memory.before.or(memory.after).is_some());
    let rows = known.map(|(side, memory)| {
        let size = |size: Option<u64>| or_nothing(size.map(bytes));
        row([side.name().to_owned(), size(memory.before), size(memory.after)])
    });
    Section {
        title: "Memory of the backends",
        intro: String::new(),
        columns: &["path", "before", "now"],
        numbers: 1..3,
        rows: rows.collect(),
        empty: "No backend's memory is measured: set `process` or `metrics` of its endpoint.",
    }
}

fn requests(story: &Story) -> Section {
    let rows = story.totals.iter().map(|(side, totals)| {
        row([
            side.name().to_owned(),
            count(totals.requests),
            count(totals.errors),
            count(totals.timeouts),
            count(totals.cut),
        ])
    });
    Section {
        title: "Requests since the start",
        intro: format!("Requests lost: {}.", count(story.lost)),
        columns: &["path", "requests", "errors", "timeouts", "cut off"],
        numbers: 1..5,
        rows: rows.collect(),
        empty: "",
    }
}

fn certificate(story: &Story) -> Section {
    let rows = story.certificate.iter().map(|found| {
        let (mark, state) = match found.fault() {
            None => (Mark::Good, format!("valid: {} is safe to switch off", found.path)),
            Some(fault) => (Mark::Bad, format!("NOT VALID: {fault}")),
        };
        let cells = [
            found.path.name().to_owned(),
            when(&found.issued_at),
            count(found.started),
            count(found.finished),
            count(found.cut),
            state,
        ];
        Row { mark, below: format!("config {}", found.config_hash), ..row(cells) }
    });
    Section {
        title: "Drain certificate",
        intro: String::new(),
        columns: &["path", "issued", "started", "finished", "cut off", "state"],
        numbers: 2..5,
        rows: rows.collect(),
        empty: "No path has been drained.",
    }
}

fn baseline(story: &Story) -> Section {
    let found = story.baseline.as_ref();
    let intro = found.map_or_else(String::new, |baseline| {
        let stale = baseline.stale.join(", ");
        let stale = if stale.is_empty() { stale } else { format!(" It is stale: {stale}.") };
        let took = millis(baseline.took_seconds * 1e3);
        format!("Recorded {} over {took}.{stale}", when(&baseline.recorded_at))
    });
    let paths = found.into_iter().flat_map(|baseline| baseline.paths.iter());
    let rows = paths.map(|(side, path)| {
        row([
            side.name().to_owned(),
            count(path.n),
            format!("{:.1}", path.per_second),
            or_nothing(path.p50_ms.map(millis)),
            or_nothing(path.p95_ms.map(millis)),
            or_nothing(path.p99_ms.map(millis)),
            or_nothing(path.threads.map(count)),
        ])
    });
    Section {
        title: "Baseline",
        intro,
        columns: &["path", "requests", "per second", "P50", "P95", "P99", "threads"],
        numbers: 1..7,
        rows: rows.collect(),
        empty: "None was recorded: run `cutover baseline record`.",
    }
}

fn changes(story: &Story) -> Section {
    let rows = newest(&story.changes).map(|line| {
        row([
            when(&line.time),
            line.what.clone(),
            or_nothing(line.route.clone()),
            line.from.clone(),
            line.to.clone(),
            or_nothing(line.who.clone()),
            line.config.clone(),
        ])
    });
    Section {
        title: "Changes",
        intro: cut_short(story.changes.len(), ROWS_MAX),
        columns: &["time", "what", "route", "from", "to", "who", "config"],
        numbers: 0..0,
        rows: rows.collect(),
        empty: "Nothing has changed yet.",
    }
}
