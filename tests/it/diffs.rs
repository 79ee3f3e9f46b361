//! What is told of the comparison of answers, before there is any.

use serde_json::Value;

use crate::admin::admin;
use crate::cli::{fails, run};
use crate::harness::guard::shown;
use crate::harness::{Backend, Setup};

const ROUTES: &str = "[[route]]\nname = \"orders\"\nmatch = \"GET /orders\"\n\
    [[route]]\nname = \"pinned\"\nmatch = \"GET /pinned\"\npin = \"legacy\"\n";

#[test]
fn while_nothing_is_mirrored_the_gate_is_closed_and_each_split_route_unverified() {
    let backend = Backend::counting("legacy");
    let proxy = Setup::new(backend.address, backend.address).tail(ROUTES).start();
    let diffs = shown(proxy.admin, "/api/v1/diffs");
    assert_eq!((&diffs["share"], &diffs["gate"]["open"]), (&0.0.into(), &false.into()), "{diffs}");
    assert_eq!(diffs["gate"]["reasons"][0]["reason"], "too_few", "{diffs}");
    assert_eq!(diffs["gate"]["unverified"], serde_json::json!(["orders", "default"]), "{diffs}");
    assert_eq!(shown(proxy.admin, "/api/v1/status")["mirror"], Value::Null);
    assert_eq!(shown(proxy.admin, "/api/v1/report")["mirror"], Value::Null);
    let fields = ["Content-Type: application/json"];
    let refused = admin(&proxy, "POST /api/v1/diffs HTTP/1.1", &fields);
    assert_eq!((refused.status(), refused.field("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn the_command_says_so_and_has_the_same_document() {
    let backend = Backend::counting("legacy");
    let proxy = Setup::new(backend.address, backend.address).tail(ROUTES).start();
    let admin = proxy.admin.to_string();
    let told = run(&["diffs", "--admin", &admin]);
    let expected = "nothing is mirrored: `mirror.share` is 0\n";
    assert!(told.code == 0 && told.out.starts_with(expected), "{told:?}");
    let document = run(&["diffs", "--json", "--admin", &admin]);
    let document: Value = serde_json::from_str(&document.out).unwrap();
    assert_eq!(document, shown(proxy.admin, "/api/v1/diffs"));
    let one = run(&["diffs", "--json", "--route", "orders", "--admin", &admin]);
    let one: Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!(one["routes"].as_array().map(Vec::len), Some(1), "{one}");
    fails(&["diffs", "--route"], 2, &["--route"]);
}
