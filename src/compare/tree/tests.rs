//! What differs between two documents, and what the rules make of it.

use super::*;
use crate::compare::json::parse;
use crate::compare::rules::Pointer;

fn pointers(texts: &[&str]) -> Vec<Pointer> {
    texts.iter().map(|text| Pointer::parse(text).unwrap()).collect()
}

/// The differences as `kind place`.
fn check(legacy: &str, async_: &str, rules: &CompareRules) -> Vec<String> {
    let [legacy, async_] = [legacy, async_].map(|text| parse(text.as_bytes()).unwrap().root);
    let found = differences(&legacy, &async_, rules, &Redactor::new(&[7; 16]));
    found.iter().map(|found| format!("{} {}", found.kind.name(), found.place)).collect()
}

#[test]
fn documents_are_compared_by_meaning() {
    for (legacy, async_, expected) in [
        ("1", "1.0", &[][..]),
        ("{\"a\":1,\"b\":2}", "{\"b\":2, \"a\":1e0}", &[]),
        ("\"\\u0061\"", "\"a\"", &[]),
        ("1", "2", &["value "]),
        ("1", "\"1\"", &["type "]),
        ("{\"a\":null}", "{}", &["missing /a"]),
        ("{}", "{\"a\":null}", &["extra /a"]),
        ("{\"a\":null}", "{\"a\":0}", &["type /a"]),
        ("{\"a\":true}", "{\"a\":false}", &["value /a"]),
        ("{\"id\":9007199254740993}", "{\"id\":9007199254740992}", &["value /id"]),
        ("{\"a\":{\"b\":[{\"c\":1}]}}", "{\"a\":{\"b\":[{\"c\":2}]}}", &["value /a/b/*/c"]),
        ("{\"a\":1,\"b\":1}", "{\"b\":2,\"c\":1}", &["missing /a", "value /b", "extra /c"]),
        ("{\"a\":1}", "{\"a\":1,\"a\":2}", &["extra /a"]),
        ("{\"a\":1,\"a\":2}", "{\"a\":2,\"a\":1}", &["value /a"]),
        ("[]", "{}", &["type "]),
    ] {
        assert_eq!(check(legacy, async_, &CompareRules::default()), expected, "{legacy} {async_}");
    }
}

#[test]
fn elements_are_moved_added_or_changed() {
    for (legacy, async_, expected) in [
        ("[1,2,3]", "[3,1,2]", &["order "][..]),
        ("[1,1,2]", "[1,2,2]", &["value /*"]),
        ("[1,2]", "[9,1,2]", &["extra /*"]),
        ("[1,2,3]", "[1,3]", &["missing /*"]),
        ("[1,2,3]", "[1,4]", &["value /*", "missing /*"]),
        ("[{\"id\":1},{\"id\":2}]", "[{\"id\":2},{\"id\":1}]", &["order "]),
        ("[{\"a\":1},{\"b\":1}]", "[{\"b\":1},{\"a\":1}]", &["order "]),
        ("[[1,2],[3]]", "[[2,1],[3]]", &["order /*"]),
        ("[{}]", "[[]]", &["type /*"]),
        ("{\"a\":[1,2],\"b\":[1]}", "{\"a\":[2,1],\"b\":[1,5]}", &["order /a", "extra /b/*"]),
    ] {
        assert_eq!(check(legacy, async_, &CompareRules::default()), expected, "{legacy} {async_}");
    }
}

#[test]
fn rules_take_differences_away_and_no_others() {
    let ignore = CompareRules::new(&pointers(&["/meta/ts", "/items/*/id"]), &[], &[], &[], 0.0);
    let shape = CompareRules::new(&[], &pointers(&["/s"]), &[], &[], 0.0);
    let unordered = CompareRules::new(
        &pointers(&["/tags/*/at"]),
        &[],
        &pointers(&["/tags", "/tags/*/in"]),
        &[],
        0.0,
    );
    let tolerant = CompareRules::new(&[], &[], &pointers(&["/u"]), &[], 0.01);
    for (rules, legacy, async_, expected) in [
        (&ignore, "{\"meta\":{\"ts\":1,\"v\":1}}", "{\"meta\":{\"ts\":2,\"v\":1}}", &[][..]),
        (&ignore, "{\"meta\":{\"ts\":1}}", "{\"meta\":{}}", &[]),
        (&ignore, "{\"meta\":{\"ts\":1,\"v\":1}}", "{\"meta\":{\"v\":\"\"}}", &["type /meta/v"]),
        (&ignore, "{\"items\":[{\"id\":1},{\"id\":2}]}", "{\"items\":[{\"id\":3},{}]}", &[]),
        (
            &ignore,
            "{\"items\":[{\"id\":1}]}",
            "{\"items\":[{\"id\":1,\"x\":1}]}",
            &["extra /items/*/x"],
        ),
        (&shape, "{\"s\":{\"a\":1,\"b\":[1,2]}}", "{\"s\":{\"a\":2,\"b\":[3]}}", &[]),
        (&shape, "{\"s\":{\"a\":1}}", "{\"s\":{\"a\":\"1\"}}", &["type /s/a"]),
        (&shape, "{\"s\":{\"a\":1}}", "{\"s\":{}}", &["missing /s/a"]),
        (&shape, "{\"s\":[[1,2]]}", "{\"s\":[[1,\"\"]]}", &["type /s/*/*"]),
        (&shape, "{\"s\":1,\"t\":1}", "{\"s\":2,\"t\":2}", &["value /t"]),
        (&unordered, "{\"tags\":[{\"n\":1},{\"n\":2}]}", "{\"tags\":[{\"n\":2},{\"n\":1}]}", &[]),
        (
            &unordered,
            "{\"tags\":[{\"n\":1,\"at\":1},{\"n\":2,\"at\":2}]}",
            "{\"tags\":[{\"n\":2},{\"n\":1,\"at\":7}]}",
            &[],
        ),
        (&unordered, "{\"tags\":[{\"in\":[1,2]},3]}", "{\"tags\":[3,{\"in\":[2,1]}]}", &[]),
        (&unordered, "{\"tags\":[1,2]}", "{\"tags\":[2,3]}", &["value /tags/*"]),
        (&unordered, "{\"tags\":[1,2]}", "{\"tags\":[2,1,3]}", &["extra /tags/*"]),
        (&unordered, "{\"x\":[1,2]}", "{\"x\":[2,1]}", &["order /x"]),
        (&tolerant, "{\"x\":[100,200]}", "{\"x\":[100.5,199]}", &[]),
        (&tolerant, "{\"x\":100}", "{\"x\":102}", &["value /x"]),
        (&tolerant, "{\"u\":[100,200,300]}", "{\"u\":[301,100.5,200]}", &[]),
    ] {
        assert_eq!(check(legacy, async_, rules), expected, "{legacy} {async_}");
    }
}

#[test]
fn a_rule_has_hits_where_it_applied_even_if_nothing_differed_there() {
    let rules =
        CompareRules::new(&pointers(&["/a/*/t", "/gone"]), &[], &pointers(&["/a"]), &[], 0.0);
    check("{\"a\":[{\"t\":1},{\"t\":2}]}", "{\"a\":[{\"t\":3},{\"t\":4}]}", &rules);
    let hits: Vec<u64> = rules.hits().map(|(_, _, hits)| hits).collect();
    assert_eq!(hits, [2, 0, 1]);
}

#[test]
fn places_are_few_however_much_differs() {
    let object = |value: usize| {
        let members: Vec<_> = (0..1000).map(|at| format!("\"m{}\":{value}", letters(at))).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(check(&object(1), &object(2), &CompareRules::default()).len(), DIFFERENCES_MAX);
    let array = |value: &str| format!("[{}{value}]", format!("{value},").repeat(60_000));
    assert_eq!(check(&array("1"), &array("2"), &CompareRules::default()), ["value /*"]);
}

#[test]
fn deep_arrays_are_hashed_once() {
    let wide = "1,".repeat(500);
    let nested =
        |inner: &str| (0..120).fold(inner.to_owned(), |inner, _| format!("[{wide}{inner}]"));
    let [legacy, async_] =
        ["1", "2"].map(|inner| parse(nested(inner).into_bytes().leak()).unwrap().root);
    let (rules, redactor) = (CompareRules::default(), Redactor::new(&[7; 16]));
    let (path, found, known) = (Vec::new(), Vec::new(), HashMap::new());
    let (rules, redactor) = (&rules, &redactor);
    let mut walk = Walk { rules, redactor, path, found, looked_at: 0, known };
    walk.nodes((&legacy, &async_), false);
    // One for each element of both, and not one for each and each level above it.
    assert_eq!((walk.found.len(), walk.known.len()), (1, 2 * 120 * 501));
}

/// Documents of a few names and values, so that two are often alike in parts.
fn random(state: &mut u32, depth: usize) -> serde_json::Value {
    let mut draw = |below: u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 16) % below
    };
    let (kind, size) = (draw(if depth == 0 { 4 } else { 7 }), draw(4));
    match kind {
        0 => serde_json::Value::Null,
        1 => (draw(2) == 0).into(),
        2 => draw(3).into(),
        3 => ["a", "b", "1"][draw(3) as usize].into(),
        4 => (0..size).map(|_| random(state, depth - 1)).collect::<Vec<_>>().into(),
        _ => {
            let names = ["a", "b", "c", "d"].into_iter().take(size as usize);
            let members = names.map(|name| (name.to_owned(), random(state, depth - 1)));
            serde_json::Value::Object(members.filter(|(_, value)| value != "b").collect())
        }
    }
}

#[test]
fn documents_differ_exactly_if_their_values_do_and_the_same_both_ways() {
    let (mut state, mut equal, rules) = (1, 0, CompareRules::default());
    for _ in 0..20_000 {
        let [left, right] = [3, 3].map(|depth| random(&mut state, depth));
        let texts = [left.to_string(), right.to_string()];
        let there = check(&texts[0], &texts[1], &rules);
        assert_eq!(there.is_empty(), left == right, "{texts:?}: {there:?}");
        let back =
            check(&texts[1], &texts[0], &rules).into_iter().map(|difference| {
                match difference.split_once(' ') {
                    Some(("missing", place)) => format!("extra {place}"),
                    Some(("extra", place)) => format!("missing {place}"),
                    _ => difference,
                }
            });
        let (mut there, mut back) = (there, back.collect::<Vec<_>>());
        there.sort();
        back.sort();
        assert_eq!(there, back, "{texts:?}");
        equal += usize::from(left == right);
    }
    assert!(equal > 100, "{equal}");
}

fn letters(number: usize) -> String {
    number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

#[test]
fn only_what_a_rule_reveals_is_shown() {
    let rules = CompareRules::new(&[], &[], &[], &pointers(&["/state"]), 0.0);
    let [legacy, async_] =
        ["{\"state\":\"open\",\"iban\":\"DE1\"}", "{\"state\":\"shut\",\"iban\":\"DE2\"}"]
            .map(|text| parse(text.as_bytes()).unwrap().root);
    let found = differences(&legacy, &async_, &rules, &Redactor::new(&[7; 16]));
    let shown = |at: usize| {
        let found = &found[at];
        [&found.legacy, &found.async_].map(|shown| shown.as_ref().unwrap().value.clone())
    };
    assert_eq!(shown(0), [None, None]);
    assert_eq!(shown(1), [Some("open".to_owned()), Some("shut".to_owned())]);
}
