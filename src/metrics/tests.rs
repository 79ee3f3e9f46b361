//! A scrape of made-up counts: what is summed, what is shown no more, what is bounded.

use std::time::Duration;

use super::*;
use crate::error::PathFault;

#[test]
fn a_scrape_sums_the_workers() {
    let metrics = Metrics::new(2).unwrap();
    let route = metrics.route("orders").unwrap();
    for worker in 0..2 {
        let shard = metrics.shard(worker);
        let cells = shard.sides.get(Side::Async).route(route);
        cells.codes.count(200);
        cells.duration.observe(Duration::from_millis(4));
        shard.sides.get(Side::Async).fault(route, PathFault::Reset);
    }
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    for line in [
        r#"cutover_requests_total{code="200",path="async",route="orders"} 2"#,
        r#"cutover_errors_total{kind="reset",path="async",route="orders"} 2"#,
        r#"cutover_request_duration_seconds_bucket{path="async",route="orders",le="0.005"} 2"#,
        r#"cutover_request_duration_seconds_bucket{path="async",route="orders",le="0.003"} 0"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_a_config_no_longer_has_is_no_longer_shown() {
    let metrics = Metrics::new(1).unwrap();
    let half = Weight::from_share(0.5).unwrap();
    let (both, all) = ((half, half), (Weight::ONE, Weight::ONE));
    let (legacy, async_) = (Some(Side::Legacy), Some(Side::Async));
    let before = [("a", both, async_), ("b", both, None), ("c", all, legacy), ("d", all, async_)];
    metrics.set_weights(before.into_iter());
    metrics.config_applied("one", 0.0);
    metrics.set_certificates([("listen", "a.pem", 7), ("async", "b.pem", 8)].into_iter());
    metrics.set_certificates([("listen", "b.pem", 9), ("async", "b.pem", 9)].into_iter());
    let after = [("b", (Weight::ONE, half), None), ("c", all, async_), ("d", all, async_)];
    metrics.set_weights(after.into_iter());
    metrics.config_applied("two", 0.0);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let shown = text.lines().filter(|line| {
        [
            "cutover_route_pinned{",
            "cutover_weight{",
            "cutover_config_info{",
            "cutover_tls_certificate_expiry_timestamp_seconds{",
        ]
        .iter()
        .any(|name| line.starts_with(name))
    });
    let expected = [
        r#"cutover_config_info{hash="two"} 1"#,
        r#"cutover_route_pinned{path="async",route="c"} 1"#,
        r#"cutover_route_pinned{path="async",route="d"} 1"#,
        r#"cutover_tls_certificate_expiry_timestamp_seconds{certificate="b.pem",section="async"} 9"#,
        r#"cutover_tls_certificate_expiry_timestamp_seconds{certificate="b.pem",section="listen"} 9"#,
        r#"cutover_weight{kind="configured",route="b"} 1"#,
        r#"cutover_weight{kind="configured",route="c"} 1"#,
        r#"cutover_weight{kind="configured",route="d"} 1"#,
        r#"cutover_weight{kind="effective",route="b"} 0.5"#,
        r#"cutover_weight{kind="effective",route="c"} 1"#,
        r#"cutover_weight{kind="effective",route="d"} 1"#,
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[test]
fn a_route_keeps_its_place_and_their_number_is_bounded() {
    let metrics = Metrics::new(1).unwrap();
    assert_eq!(metrics.route(DEFAULT_ROUTE), Some(RouteId(0)));
    assert_eq!(metrics.route("a"), metrics.route("a"));
    for index in 0..2 * ROUTES_MAX {
        let _ = metrics.route(&format!("r{index}"));
    }
    assert_eq!(metrics.route("one more"), None);
    assert_eq!(metrics.route("a"), Some(RouteId(1)));
}
