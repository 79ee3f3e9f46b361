//! The report of a migration: its story, the checklist at its end, and both as text and as a page.
//!
//! Pure: what it tells is given to it, and it writes no file. The admin API answers the story as JSON,
//! the command line renders that, so a page can also be made where the proxy is not.

mod blocking;
pub mod checklist;
mod differences;
pub mod html;
mod outline;
mod plot;
mod samples;
mod section;
pub mod story;
pub mod text;

#[cfg(test)]
pub(crate) mod tests {
    use super::checklist::{checklist, tests::done};
    use super::differences::tests::found;
    use super::story::*;
    use crate::audit::findings::{Audit, Finding, ProcessUse, Site};
    use crate::audit::wait::Group;
    use crate::vocab::{PerSide, Side};

    /// A migration of four hours: 10 %, a rollback, again 10 %, 50 % and 100 %, and the drain.
    pub(crate) fn migration(route: &str) -> Story {
        let facts = done();
        let begin: jiff::Timestamp = "2026-11-24T01:30:00Z".parse().unwrap();
        let at = |minute: i64| (begin + jiff::SignedDuration::from_mins(minute)).to_string();
        let point = |minute: i64| {
            let share = match minute {
                0..10 | 47..70 => 0.0,
                10..47 | 70..120 => 0.1,
                120..180 => 0.5,
                _ => 1.0,
            };
            let path = |part: f64, slow: f64| PathPoint {
                n: (20_000.0 * part) as u64,
                err: (40.0 * part) as u64 + u64::from(minute == 46 && slow < 1.0) * 600,
                tmo: minute as u64 % 3,
                p50_ms: (part > 0.0).then_some(18.0 * slow),
                p95_ms: (part > 0.0).then_some(96.0 * slow + (minute % 7) as f64),
                p99_ms: (part > 0.0).then_some(240.0 * slow),
                rss: Some(((2048.0 * slow) as u64) << 20),
            };
            let paths = PerSide { legacy: path(1.0 - share, 1.0), async_: path(share, 0.4) };
            Point { at: at(minute), seconds: 60, share, observed: Some(share), paths }
        };
        let decision = DecisionLine {
            time: at(47),
            id: Some("rb-20261124-021733".to_owned()),
            kind: "rollback".to_owned(),
            check: Some("timeout_divergence".to_owned()),
            step: Some(0.1),
            from: Some(0.1),
            to: Some(0.0),
            text: format!("since 02:17:30 (3 s): async 10 of 31 timed out\nroutes: {route} 9."),
        };
        let stall = StallLine {
            path: Side::Async,
            route: Some(route.to_owned()),
            stalls: 14,
            of: 15,
            median_ms: 480.0,
            longest_ms: 1210.0,
            last_at: Some(at(46)),
        };
        let change = ChangeLine {
            time: at(10),
            what: "weight".to_owned(),
            route: Some(route.to_owned()),
            from: "0".to_owned(),
            to: "0.1".to_owned(),
            who: Some("operator".to_owned()),
            config: "abc123".to_owned(),
        };
        let totals = |requests| Totals { requests, errors: 800, timeouts: 214, cut: 0 };
        Story {
            version: VERSION,
            generated_at: at(245),
            product_version: "0.1.0".to_owned(),
            config_hash: "abc123".to_owned(),
            started_at: at(0),
            series: (0..240).map(point).collect(),
            decisions: vec![decision],
            changes: vec![change],
            stalls: vec![stall],
            mirror: Some(found(route)),
            totals: PerSide { legacy: totals(400_000), async_: totals(600_000) },
            memory: facts.memory,
            checklist: checklist(&facts),
            baseline: facts.baseline.clone().map(|norm| audited(norm, route)),
            certificate: facts.certificate,
            lost: 0,
        }
    }

    fn audited(norm: BaselineSummary, function: &str) -> BaselineSummary {
        let site =
            Site { file: "/srv/shop.py".to_owned(), line: 88, function: function.to_owned() };
        let finding = Finding {
            site: Some(site),
            name: None,
            group: Group::Sleep,
            primitive: "time.sleep".to_owned(),
            through: None,
            samples: 61,
            share: 0.61,
            threads: 10,
            cpu_seconds: 0.25,
            on_event_loop: false,
        };
        let legacy = ProcessUse { rss_bytes: 2 << 30, threads: 12, ..ProcessUse::default() };
        let at = "2026-11-23T01:20:00Z".to_owned();
        let audit =
            Audit { at, findings: vec![finding], processes: vec![legacy], ..Audit::default() };
        BaselineSummary { audit: Some(audit), ..norm }
    }

    #[test]
    fn a_story_is_the_same_after_its_way_through_json() {
        for story in [migration("GET /orders/{id}"), Story::default()] {
            let json = serde_json::to_string(&story).unwrap();
            assert_eq!(serde_json::from_str::<Story>(&json).unwrap(), story);
        }
    }
}
