//! The ramp and the comparison of answers, as the guard brings them together.

use std::path::Path;

use http::{HeaderMap, Method, StatusCode};
use tokio::runtime::Handle;

use super::*;
use crate::compare::pair::{Answer, Captured, Outcome, Pair};
use crate::config::{Config, OnMismatch};
use crate::vocab::Weight;

const FILE: &str = "async_weight = 1.0\n\
    [listen]\naddress = \"127.0.0.1:0\"\n\
    [legacy]\nendpoints = [\"http://127.0.0.1:9\"]\n\
    [async]\nendpoints = [\"http://127.0.0.1:9\"]\n\
    [guard]\nmode = \"enforce\"\n\
    [ramp]\nsteps = [0.1, 1.0]\n";

/// A guard that mirrors a tenth of the requests, in a directory of its own.
fn guard(dir: &Path) -> Arc<Guard> {
    let mut config = Config::parse(FILE, &dir.join("cutover.toml")).unwrap();
    config.mirror.share = 0.1;
    config.mirror.on_mismatch = OnMismatch::Rollback;
    let (metrics, control) = (Arc::new(Metrics::new(1).unwrap()), Handle::current());
    let publisher = Publisher::new(config, dir.join("cutover.toml"), metrics, 1, control).unwrap();
    Guard::new(Arc::new(publisher), Arc::new(Comparison::new(&[7; 16]))).unwrap()
}

/// Compares so many answers; async's has this hash, legacy's has 1.
fn compare(guard: &Guard, number: usize, hash: u64) {
    let reply = |hash| {
        let body = Captured { kept: None, length: 1, hash };
        Outcome::Reply(Box::new(Answer { status: StatusCode::OK, headers: HeaderMap::new(), body }))
    };
    let pair = Pair {
        route: "default".into(),
        is_critical: false,
        rules: Arc::default(),
        method: Method::GET,
        target: "/".to_owned(),
        request_id: String::new(),
        primary_side: Side::Legacy,
        primary: reply(1),
        shadow: reply(hash),
        again: None,
    };
    for _ in 0..number {
        if guard.comparison.take(&pair).confirm {
            guard.comparison.confirm(&pair, &pair.primary, &pair.shadow);
        }
    }
}

/// The weight in effect after one more beat.
fn beat(guard: &Guard) -> f64 {
    guard.beat();
    guard.publisher.current().rules.largest(Target::effective).rounded()
}

#[tokio::test]
async fn the_ramp_begins_when_enough_answers_were_alike() {
    let dir = tempfile::tempdir().unwrap();
    let guard = guard(dir.path());
    compare(&guard, 1_076, 1);
    assert_eq!(beat(&guard), 0.0);
    let verdict = serde_json::to_string(&guard.live().verdict).unwrap();
    assert!(verdict.contains(r#"{"reason":"mirror","state":"too_few"}"#), "{verdict}");
    compare(&guard, 1, 1);
    assert_eq!(beat(&guard), 0.1);
    let decisions = guard.live().decisions.clone();
    assert_eq!(decisions.iter().map(|d| (d.from, d.to)).collect::<Vec<_>>(), [(0.0, 0.1)]);
}

#[tokio::test]
async fn answers_that_differ_keep_the_ramp_from_beginning_and_roll_it_back_later() {
    let dir = tempfile::tempdir().unwrap();
    let guard = guard(dir.path());
    compare(&guard, 2_000, 1);
    compare(&guard, 100, 2);
    assert_eq!(beat(&guard), 0.0);
    assert!(guard.live().decisions.is_empty(), "there is nothing to go back from");
    guard.comparison.reset();
    compare(&guard, 2_000, 1);
    assert_eq!(beat(&guard), 0.1);
    compare(&guard, 100, 2);
    assert_eq!(beat(&guard), 0.0);
    let last = guard.live().decisions.back().cloned().unwrap();
    assert!(last.text.contains("check=mirror"), "{}", last.text);
    assert!(
        last.text.contains("async answers otherwise 100 of 2100 times (4.8 %)"),
        "{}",
        last.text
    );
    // Released, it is compared anew, and waits at the gate again.
    guard.resume(&last.id).unwrap();
    assert_eq!(beat(&guard), 0.0);
    assert_eq!(guard.comparison.gate(&[]).compared, 0);
    assert_eq!(
        guard.publisher.helm().next(&way(&guard.publisher.current().config)),
        Some(weight(0.1))
    );
}

fn weight(share: f64) -> Weight {
    Weight::from_share(share).unwrap()
}
