//! Pairs of answers in, what is said of them out; and that nothing secret ever comes out.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::compare::pair::{Answer, Captured};
use crate::compare::rules::{CompareRules, Pointer};
use crate::vocab::Side;

const KEY: [u8; 16] = *b"0123456789abcdef";

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let (length, hash) = (body.len() as u64, xxh3_64(body.as_bytes()));
    let kept = Some(Bytes::from(body.to_owned()));
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: map, body: Captured { kept, length, hash } }
}

fn json(body: &str) -> Outcome {
    Outcome::Reply(Box::new(answer(200, &[("content-type", "application/json")], body)))
}

fn text(body: &str) -> Outcome {
    Outcome::Reply(Box::new(answer(200, &[("content-type", "text/plain")], body)))
}

fn pair(primary: Outcome, shadow: Outcome) -> Pair {
    Pair {
        route: "orders".into(),
        is_critical: true,
        rules: Arc::default(),
        method: Method::GET,
        target: "/orders/1".to_owned(),
        request_id: "id".to_owned(),
        primary_side: Side::Legacy,
        primary,
        shadow,
        again: None,
    }
}

fn check(pair: &Pair) -> (MirrorResult, bool, Vec<Kind>) {
    let Judged { result, confirm, kinds } = Comparison::new(&KEY).take(pair);
    (result, confirm, kinds)
}

#[test]
fn a_pair_is_compared_from_the_outside_in() {
    use Kind::{Bytes, Header, Length, Missing, Status, Type, Value};
    let reply = |status, headers: &[(&str, &str)], body| {
        Outcome::Reply(Box::new(answer(status, headers, body)))
    };
    let kind = ("content-type", "application/json");
    for (primary, shadow, kinds) in [
        (json("{\"a\":1}"), json("{ \"a\": 1.0 }"), &[][..]),
        (json("{\"a\":1}"), json("{\"a\":2}"), &[Value]),
        (json("{\"a\":1,\"b\":[]}"), json("{\"a\":\"1\"}"), &[Missing, Type]),
        (json("{"), json("{\"a\":2}"), &[Type]),
        (json("{"), json("["), &[Bytes]),
        (json("NaN"), json("NaN"), &[]),
        (text("abc"), text("abd"), &[Bytes]),
        (text("abc"), text("abcd"), &[Length]),
        (reply(200, &[kind], "1"), reply(404, &[], "x"), &[Status]),
        (reply(200, &[kind], "1"), reply(200, &[], "1"), &[Header]),
        (reply(200, &[kind], "1"), reply(200, &[kind, ("vary", "x")], "2"), &[Header, Value]),
        (reply(200, &[("date", "a")], ""), reply(200, &[("date", "b")], ""), &[]),
    ] {
        let pair = pair(primary, shadow);
        let differs = !kinds.is_empty();
        let result = if differs { MirrorResult::Mismatch } else { MirrorResult::Match };
        assert_eq!(check(&pair), (result, differs, kinds.to_vec()), "{pair:?}");
    }
}

#[test]
fn only_an_answer_that_async_owes_counts_against_it() {
    use MirrorResult::{Mismatch, ShadowError, ShadowTimeout, Uncompared};
    for (side, primary, shadow, result, counts) in [
        (Side::Legacy, json("1"), Outcome::Timeout, ShadowTimeout, 1),
        (Side::Legacy, json("1"), Outcome::Reset, ShadowError, 1),
        (Side::Legacy, Outcome::Reset, json("1"), Uncompared, 0),
        (Side::Legacy, Outcome::Reset, Outcome::Reset, Uncompared, 0),
        (Side::Async, json("1"), Outcome::Timeout, ShadowTimeout, 0),
        (Side::Async, Outcome::Timeout, json("1"), Mismatch, 1),
        (Side::Async, Outcome::Timeout, Outcome::Reset, Uncompared, 0),
    ] {
        let comparison = Comparison::new(&KEY);
        let pair = Pair { primary_side: side, ..pair(primary, shadow) };
        let judged = comparison.take(&pair);
        assert_eq!((judged.result, judged.confirm), (result, false), "{pair:?}");
        let gate = comparison.gate(&[]);
        assert_eq!((gate.compared, gate.differing), (counts, counts), "{pair:?}");
    }
}

#[test]
fn which_path_was_the_primary_makes_no_difference_to_what_is_missing() {
    let (more, less) = (|| json("{\"a\":1}"), || json("{}"));
    assert_eq!(check(&pair(more(), less())).2, [Kind::Missing]);
    let turned = Pair { primary_side: Side::Async, ..pair(less(), more()) };
    assert_eq!(check(&turned).2, [Kind::Missing]);
}

#[test]
fn what_is_not_safe_is_not_asked_again_and_counts() {
    let comparison = Comparison::new(&KEY);
    let pair = Pair { method: Method::POST, ..pair(json("1"), json("2")) };
    assert!(!comparison.take(&pair).confirm);
    assert_eq!(comparison.gate(&[]).differing, 1);
}

#[test]
fn asked_again_a_mismatch_is_confirmed_or_was_transient() {
    let comparison = Comparison::new(&KEY);
    let pair = pair(json("{\"a\":1}"), json("{\"a\":2}"));
    for (primary, shadow, expected) in [
        (json("{\"a\":3}"), json("{\"a\":3}"), MirrorResult::Transient),
        (json("{\"a\":3}"), json("{\"a\":4}"), MirrorResult::Mismatch),
        (json("{\"a\":3}"), Outcome::Timeout, MirrorResult::Mismatch),
    ] {
        comparison.take(&pair);
        assert_eq!(comparison.confirm(&pair, &primary, &shadow), expected);
    }
    comparison.take(&pair);
    comparison.not_confirmed(&pair);
    let route = comparison.diffs(&[]).routes.remove(0);
    assert_eq!((route.unconfirmed, route.confirmed, route.transient), (2, 1, 1));
    assert_eq!((route.unasked, comparison.gate(&[]).differing), (1, 3));
}

/// A field that is new each time, on both paths, and asked twice each tenth time.
fn uuid(comparison: &Comparison, at: u64, shadow: &str) -> Judged {
    let fresh = |which: u64| json(&format!("{{\"id\":\"{}\",\"n\":1}}", at * 10 + which));
    let again = at.is_multiple_of(10).then(|| fresh(3));
    let shadow = shadow.replace('?', &format!("\"{}\"", at * 10 + 2));
    comparison.take(&Pair { again, ..pair(fresh(1), json(&shadow)) })
}

#[test]
fn a_noisy_field_is_no_mismatch_but_a_change_of_its_type_is() {
    let comparison = Comparison::new(&KEY);
    for at in 0..2_000 {
        uuid(&comparison, at, "{\"id\":?,\"n\":1}");
    }
    assert_eq!(uuid(&comparison, 1, "{\"id\":?,\"n\":1}").result, MirrorResult::Noise);
    // Those before it was known as noise are forgiven.
    assert!(comparison.gate(&[]).open, "{:?}", comparison.gate(&[]));
    for (shadow, kind) in [
        ("{\"id\":7,\"n\":1}", Kind::Type),
        ("{\"n\":1}", Kind::Missing),
        ("{\"id\":null,\"n\":1}", Kind::Type),
        ("{\"id\":?,\"n\":2}", Kind::Value),
        ("{\"id\":?,\"n\":1,\"x\":1}", Kind::Extra),
    ] {
        let judged = uuid(&comparison, 1, shadow);
        assert_eq!((judged.result, judged.kinds), (MirrorResult::Mismatch, vec![kind]), "{shadow}");
    }
    for at in 0..100 {
        uuid(&comparison, at, "{\"id\":7,\"n\":1}");
    }
    let gate = comparison.gate(&[]);
    let shown: Vec<_> = gate.reasons.iter().map(ToString::to_string).collect();
    assert!(
        gate.failed && shown.contains(&"regression on orders: type /id".to_owned()),
        "{shown:?}"
    );
    let diffs = comparison.diffs(&[]);
    let found = |finding: &str| {
        let lines = diffs.differences.iter().filter(|line| line.finding == finding);
        lines.map(|line| format!("{} {}", line.kind.name(), line.place)).collect::<Vec<_>>()
    };
    assert_eq!(
        (found("regression"), found("noise")),
        (vec!["type /id".into()], vec!["value /id".into()])
    );
}

#[test]
fn a_regression_closes_the_gate_on_a_critical_route_only() {
    for is_critical in [true, false] {
        let comparison = Comparison::new(&KEY);
        for at in 0..19_000_u64 {
            for route in ["a", "b"] {
                comparison.take(&Pair { route: route.into(), ..pair(json("1"), json("1")) });
            }
            // Few of all answers, and yet too many of this route's for chance.
            let shadow = if at % 200 == 0 { "{}" } else { "{\"a\":1}" };
            if at % 13 == 0 || at % 200 == 0 {
                let again = at.is_multiple_of(10).then(|| json("{\"a\":1}"));
                let pair = pair(json("{\"a\":1}"), json(shadow));
                comparison.take(&Pair { is_critical, again, ..pair });
            }
        }
        assert_eq!(comparison.gate(&[]).open, !is_critical, "{:?}", comparison.gate(&[]));
    }
}

#[test]
fn routes_that_were_never_compared_are_unverified() {
    let comparison = Comparison::new(&KEY);
    for _ in 0..30 {
        comparison.take(&pair(json("1"), json("1")));
    }
    assert_eq!(comparison.gate(&["orders", "cart"]).unverified, ["cart"]);
    comparison.reset();
    assert_eq!(comparison.gate(&["orders", "cart"]).unverified, ["orders", "cart"]);
}

#[test]
fn spots_are_bounded_whatever_a_backend_makes_up() {
    let comparison = Comparison::new(&KEY);
    for at in 0..6_000_usize {
        let letters: String =
            at.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
        let shadow = json(&format!("{{\"{letters}\":1}}"));
        let mut pair = pair(json("{}"), shadow);
        pair.route = format!("route-{}", at % 300).into();
        comparison.take(&pair);
    }
    // What is there to stay is learned nevertheless.
    let real = pair(json("{}"), json("{\"real\":1}"));
    (0..3).for_each(|_| _ = comparison.take(&Pair { route: "route-0".into(), ..real.clone() }));
    let first = comparison.diffs(&[]).differences.remove(0);
    assert_eq!((first.place.as_str(), first.differed), ("/real", 3));
    let books = comparison.books();
    let spots: usize = books.routes.values().map(|book| book.spots.number()).sum();
    assert!(spots <= SPOTS_MAX && books.routes.len() == ROUTES_MAX, "{spots}");
    assert!(books.left_out > 0);
}

// === Secrets ===

/// Secrets of the kinds that occur, each with a number so that none is another's part.
fn secret(at: usize) -> String {
    match at % 5 {
        0 => format!("hunter2-{at:04}-zX9qLm3"),
        1 => format!("4111 1111 1111 {at:04}"),
        2 => format!("alice{at:04}@example.org"),
        3 => format!("eyJhbGciOiJIUzI1NiJ9.{at:04}.sIgNaTuRe"),
        _ => format!("{at:04}00008812345"),
    }
}

/// A document with secrets as values of every depth and as names of members.
fn document(at: &mut usize) -> String {
    let mut next = || {
        *at += 1;
        secret(*at)
    };
    let number = |secret: String| secret.chars().filter(char::is_ascii_digit).collect::<String>();
    format!(
        "{{\"token\":\"{}\",\"list\":[\"{}\",{{\"pin\":1{}}}],\"{}\":\"{}\",\"open\":\"{}\",\"deep\":{{\"{}\":[[\"{}\"]]}}}}",
        next(),
        next(),
        number(next()),
        next(),
        next(),
        next(),
        next(),
        next()
    )
}

fn secret_answer(at: &mut usize, body: &str, status: u16) -> Outcome {
    let names = [
        "set-cookie",
        "location",
        "etag",
        "cache-control",
        "vary",
        "allow",
        "www-authenticate",
        "access-control-allow-origin",
        "authorization",
        "cookie",
        "x-api-key",
        "content-language",
    ];
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    for name in names {
        *at += 1;
        let value = match name {
            "set-cookie" => format!("sid={}; Path=/{}", secret(*at), secret(*at + 9_000)),
            "www-authenticate" => format!("Bearer realm=\"{}\"", secret(*at)),
            _ => secret(*at),
        };
        headers.push((name.to_owned(), value));
    }
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Outcome::Reply(Box::new(answer(status, &headers, body)))
}

#[test]
fn no_secret_is_in_anything_that_is_shown() {
    let comparison = Comparison::new(&KEY);
    let reveal = [Pointer::parse("/shown").unwrap()];
    let rules = Arc::new(CompareRules::new(&[], &[], &[], &reveal, 0.1));
    let (mut at, mut debugged) = (0, String::new());
    for round in 0..56_u16 {
        let (left, right) = match round % 4 {
            0 | 1 => (document(&mut at), document(&mut at)),
            2 => (document(&mut at), "{".to_owned() + &secret(at)),
            _ => (secret(at + 1), secret(at + 2) + "!"),
        };
        let status = if round % 7 == 0 { 500 } else { 200 };
        let legacy = secret_answer(&mut at, &left, 200);
        let async_ = secret_answer(&mut at, &right, status);
        let again = round.is_multiple_of(2).then(|| secret_answer(&mut at, &right, 200));
        at += 4;
        let target = format!(
            "/reset/{}?token={}&{}=1&{}",
            secret(at - 3).replace(' ', "+"),
            secret(at - 2),
            secret(at - 1),
            secret(at)
        );
        let pair = Pair { rules: rules.clone(), target, again, ..pair(legacy, async_) };
        debugged += &format!("{pair:?}");
        if comparison.take(&pair).confirm {
            comparison.confirm(&pair, &pair.primary, &pair.shadow);
        }
    }
    let diffs = comparison.diffs(&["orders"]);
    let with_samples = diffs.differences.iter().filter(|line| !line.samples.is_empty()).count();
    assert!(with_samples > 10, "{with_samples}");
    let shown = [
        serde_json::to_string(&diffs).unwrap(),
        format!("{diffs:?}"),
        format!("{comparison:?}"),
        debugged,
        diffs.differences.iter().flat_map(|line| &line.samples).fold(
            String::new(),
            |all, sample| {
                let shown = [&sample.legacy, &sample.async_].into_iter().flatten();
                all + &shown.map(ToString::to_string).collect::<String>()
            },
        ),
    ];
    for at in (0..at).chain(9_000..9_000 + at) {
        for shown in &shown {
            let number: String = secret(at).chars().filter(char::is_ascii_digit).collect();
            assert!(!shown.contains(&secret(at)), "{} is shown", secret(at));
            assert!(number.len() < 12 || !shown.contains(&number), "{number} is shown");
        }
    }
}
