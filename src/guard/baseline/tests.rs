//! What a baseline says, and which file is none.

use super::*;

/// A path that answered `count` requests in 1, 2, 3, … tenths of a millisecond.
fn path(count: u64) -> PathBaseline {
    let mut latency = Tally::default();
    (1..=count).for_each(|n| latency.record(n * 100_000));
    let sum = Duration::from_micros(50 * count * (count + 1));
    let counts = Counts { n: count, err: 2, tmo: 1, c4: 3, slow95: 0, slow99: 0 };
    PathBaseline::new(counts, latency, sum, Duration::from_secs(10))
}

fn baseline() -> Baseline {
    let paths = PerSide { legacy: path(1000), async_: PathBaseline::default() };
    let matches = |name: &str| (name.to_owned(), format!("GET /{name}/{{id}}"));
    Baseline {
        version: VERSION,
        recorded_at: "2026-11-24T01:10:00Z".to_owned(),
        took_seconds: 10.0,
        config_hash: "0123456789abcdef".to_owned(),
        routes: BTreeMap::from([("orders".to_owned(), paths.clone())]),
        paths,
        route_matches: vec![matches("orders"), matches("cart")],
        endpoints: PerSide::from_fn(|side| vec![format!("http://{side}:9001")]),
        phi: Phi { fail: 1.7, c4: 1.0, events: 250 },
        audit: None,
    }
}

#[test]
fn a_path_is_summed_up() {
    let PathBaseline { counts, per_second, mean_ms, p95, .. } = path(1000);
    assert_eq!((counts.n, per_second, mean_ms), (1000, 100.0, Some(50.05)));
    let (low, high) = p95.and_then(|p95| p95.interval_ms).unwrap();
    assert!(90.0 < low && low < 95.0 && 95.0 < high && high < 100.0, "{p95:?}");
    let PathBaseline { counts, mean_ms, p95, .. } = path(0);
    assert_eq!((counts.n, mean_ms, p95), (6, None, None), "n is at least the sum of its parts");
}

#[test]
fn what_was_stored_is_loaded_and_nothing_else_is_left_there() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    assert_eq!(Baseline::load(&state_dir).unwrap(), None);
    for took_seconds in [1.0, 600.25] {
        let stored = Baseline { took_seconds, ..baseline() };
        stored.store(&state_dir).unwrap();
        assert_eq!(Baseline::load(&state_dir).unwrap(), Some(stored));
    }
    let audit = Audit { pid: 7, seconds: 10.5, ..Audit::default() };
    let audited = Baseline { audit: Some(audit), ..baseline() };
    audited.store(&state_dir).unwrap();
    assert_eq!(Baseline::load(&state_dir).unwrap(), Some(audited));
    assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 1);
    assert!(baseline().store(&state_dir.join(BASELINE)).is_err());
}

#[test]
fn a_file_that_is_no_baseline_of_this_version_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let good = serde_json::to_string(&baseline()).unwrap();
    for (from, to, fault) in [
        ("\"version\":1", "\"version\":2", "version 2, not 1: record anew"),
        ("\"version\":1", "\"edition\":1", "version null, not 1"),
        ("2026-11-24T", "at ", "is not an RFC 3339 time"),
        ("\"n\":1000", "\"n\":5", "err 2, tmo 1 and c4 3 are more than n 5"),
        ("\"err\":2", "\"err\":18446744073709551615", "are more than n"),
        ("\"fail\":1.7", "\"fail\":0.7", "phi 0.7 or 1 is not within 1 to 20"),
        ("\"latency\":[[", "\"latency\":[[99999,1],[", "bucket 99999"),
        (&good[100..], "", "EOF while parsing"),
        (&good, "\"a\"", "version null, not 1"),
        ("{", &" ".repeat(FILE_MAX as usize), "larger than the limit of 16777216 bytes"),
    ] {
        fs::write(dir.path().join(BASELINE), good.replacen(from, to, 1)).unwrap();
        let refused = Baseline::load(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(fault) && refused.contains(BASELINE), "{fault}: {refused}");
    }
}

#[test]
fn one_from_before_there_were_audits_is_read() {
    let text = serde_json::to_string(&baseline()).unwrap();
    assert!(!text.contains("audit"), "{text}");
    assert_eq!(Baseline::parse(&text).unwrap(), baseline());
}

#[test]
fn a_threshold_is_over_the_quantile_by_the_tolerance_and_at_least_2_ms() {
    let table = [(100.0, 110_000), (20.0, 22_000), (19.0, 21_000), (1.0, 3_000), (0.0, 2_000)];
    for (value_ms, slow_us) in table {
        let mut baseline = baseline();
        let quantile = Quantile { value_ms, interval_ms: Some((value_ms, value_ms)) };
        baseline.paths.legacy.p95 = Some(quantile);
        baseline.paths.legacy.p99 = Some(Quantile { interval_ms: None, ..quantile });
        let expected = SlowLimits { slow95: Some(Duration::from_micros(slow_us)), slow99: None };
        assert_eq!(baseline.thresholds(0.1), expected, "{value_ms}");
    }
}

#[test]
fn a_changed_config_makes_it_stale_in_words() {
    let baseline = baseline();
    let [orders, cart] = [0, 1].map(|place| baseline.route_matches[place].clone());
    let wider = ("cart".to_owned(), "* /cart".to_owned());
    let (same, mut moved) = (&baseline.endpoints, baseline.endpoints.clone());
    moved.async_.clear();
    for (routes, endpoints, expected) in [
        (&[&orders, &cart][..], same, &[][..]),
        (&[&cart, &orders], same, &["the routes are in another order"]),
        (&[&orders], same, &["route cart (GET /cart/{id}) is gone"]),
        (&[&orders, &cart, &wider], same, &["route cart (* /cart) is new"]),
        (&[&orders, &cart], &moved, &["endpoint http://async:9001 of async is gone"]),
    ] {
        let routes: Vec<_> = routes.iter().copied().cloned().collect();
        assert_eq!(baseline.staleness(&routes, endpoints), expected);
    }
}

/// Phi of an hour in which of 64 clients 1/32 fail each tick, `volley` times, each in one half.
fn simulated(volley: u64) -> f64 {
    let mut draws = (0_u64..).map(|draw| xxhash_rust::xxh3::xxh3_64(&draw.to_le_bytes()));
    let mut meter = PhiMeter::default();
    for _ in 0..14_400 {
        let failing = draws.by_ref().take(5).fold(u64::MAX, |all, draw| all & draw);
        let first = draws.next().map_or(0, |draw| failing & draw);
        let count = |clients: u64| u64::from(clients.count_ones()) * volley;
        meter.tick(count(failing), count(first));
    }
    meter.phi(0.0)
}

#[test]
fn single_failures_give_a_phi_of_1_and_volleys_their_size() {
    for (volley, expected) in [(1, 1.0), (2, 2.0), (5, 5.0), (50, 20.0)] {
        let phi = simulated(volley);
        assert!((phi / expected - 1.0_f64).abs() < 0.05, "{volley}: {phi}");
    }
}

#[test]
fn phi_is_the_default_until_200_failures_and_single_ones_in_the_same_half_give_1() {
    let mut meter = PhiMeter::default();
    for tick in 0..200 {
        assert_eq!((meter.events(), meter.phi(3.0)), (tick, 3.0));
        meter.tick(0, 0);
        meter.tick(1, 1);
    }
    assert_eq!(meter.phi(3.0), 1.0);
}
