//! Any two answers to one request: they are compared without a panic, an answer equals itself, it does not
//! matter which of the two came first, and no secret is shown.
//!
//! The first byte says what either answer is (JSON, with gzip); `\xff` parts their bodies.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cutover::compare::Comparison;
use cutover::compare::kind::MirrorResult;
use cutover::compare::pair::{Answer, Captured, Outcome, Pair};
use cutover::compare::rules::CompareRules;
use cutover::vocab::Side;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

const ROUTE: &str = "any";
const SECRET: &str = "hunter2-swordfish";

/// Compares.
pub fn check(data: &[u8]) {
    let Some((manner, bodies)) = data.split_first() else {
        return;
    };
    let mut bodies = bodies.splitn(2, |byte| *byte == 0xff);
    let [one, other] = [bodies.next(), bodies.next()].map(Option::unwrap_or_default);
    let [one, other] = [answer(*manner, one), answer(*manner >> 4, other)];
    let comparison = Comparison::new(&[7; 16]);
    let judge = |primary: &Answer, shadow: &Answer| comparison.take(&pair(primary, shadow)).result;
    assert_eq!(judge(&one, &one), MirrorResult::Match, "not equal to itself");
    let differs = judge(&one, &other) != MirrorResult::Match;
    assert_eq!(differs, judge(&other, &one) != MirrorResult::Match, "it depends on which came first");
    for _ in 0..4 {
        // What is noise and what a regression is told from several.
        let twice = Pair { again: Some(reply(&other)), ..pair(&one, &other) };
        comparison.take(&twice);
    }
    let shown = format!("{:?} {:?}", comparison.diffs(&[ROUTE]), comparison.gate(&[ROUTE]));
    let is_ours = [&one, &other].into_iter().all(|answer| !holds_secret(answer));
    assert!(!is_ours || !shown.contains(SECRET), "a secret is shown: {shown}");
}

/// Whether the input has it from somewhere else: then a name may be it.
fn holds_secret(answer: &Answer) -> bool {
    let body = answer.body.kept.as_deref().unwrap_or_default();
    body.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())
}

fn answer(manner: u8, body: &[u8]) -> Answer {
    let mut headers = HeaderMap::new();
    if manner & 1 != 0 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if manner & 2 != 0 {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let cookie = format!("session={SECRET}{}; Secure", manner & 4);
    headers.insert(SET_COOKIE, HeaderValue::from_str(&cookie).expect("it is text"));
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let kept = (manner & 8 == 0).then(|| body.to_vec().into());
    let body = Captured { kept, length: body.len() as u64, hash: hasher.finish() };
    Answer { status: StatusCode::OK, headers, body }
}

fn reply(answer: &Answer) -> Outcome {
    Outcome::Reply(Box::new(answer.clone()))
}

fn pair(primary: &Answer, shadow: &Answer) -> Pair {
    Pair {
        route: ROUTE.into(),
        is_critical: false,
        rules: Arc::new(CompareRules::default()),
        method: Method::GET,
        target: format!("/any?token={SECRET}"),
        request_id: "1".to_owned(),
        primary_side: Side::Legacy,
        primary: reply(primary),
        shadow: reply(shadow),
        again: None,
    }
}
