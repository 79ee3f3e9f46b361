//! Ticks and rules as they are written down, and what events count.

use super::*;

#[test]
fn a_tick_is_a_short_line_that_reads_back_the_same() {
    let counts = Counts { n: 3, tmo: 1, ..Counts::default() };
    let paths = PerSide { legacy: Counts::default(), async_: counts };
    let quiet = Tick {
        at_ms: 250,
        epoch: 1,
        step: 0.1,
        groups: Vec::new(),
        routes: BTreeMap::new(),
        load: PerSide::default(),
        rss: PerSide::default(),
        legacy_safe: true,
        pending: Vec::new(),
        mirror: None,
    };
    let busy = Tick {
        groups: vec![Group { share: 0.1, paths }],
        routes: BTreeMap::from([("orders".to_owned(), paths)]),
        pending: vec![Pending::Approval],
        ..quiet.clone()
    };
    let line = r#"{"at_ms":250,"epoch":1,"step":0.1,"legacy_safe":true}"#;
    assert_eq!(serde_json::to_string(&quiet).unwrap(), line);
    let line = serde_json::to_string(&busy).unwrap();
    assert!(line.contains(r#"{"share":0.1,"paths":{"legacy":{},"async":{"n":3,"tmo":1}}}"#));
    assert!(line.contains(r#""pending":["approval"]"#));
    for tick in [quiet, busy] {
        let line = serde_json::to_string(&tick).unwrap();
        assert_eq!(serde_json::from_str::<Tick>(&line).unwrap(), tick, "{line}");
    }
}

#[test]
fn rules_read_back_the_same_and_what_is_absent_is_the_default() {
    let text = serde_json::to_string(&Rules::default()).unwrap();
    for text in [text.as_str(), "{}"] {
        assert_eq!(serde_json::from_str::<Rules>(text).unwrap(), Rules::default());
    }
}

#[test]
fn events_have_their_place_and_their_count() {
    let counts = Counts { n: 100, err: 1, tmo: 2, c4: 4, slow95: 8, slow99: 16 };
    let seen = Event::ALL.map(|event| event.of(&counts));
    assert_eq!(seen, [1, 2, 3, 4, 8, 16]);
    assert_eq!(Event::ALL.map(Event::index), [0, 1, 2, 3, 4, 5]);
    assert_eq!((counts + counts).since(counts), counts);
    assert_eq!(Counts::default().since(counts), Counts::default());
}
