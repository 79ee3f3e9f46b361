//! Two answers, compared: status, then headers, then the body.
//!
//! Where the status differs the rest is of another kind of answer, and says nothing more.

use xxhash_rust::xxh3::xxh3_64;

use crate::compare::body::{self, Content};
use crate::compare::headers;
use crate::compare::kind::Kind;
use crate::compare::pair::{Answer, Outcome};
use crate::compare::redact::{Place, Redactor, Shown};
use crate::compare::rules::CompareRules;
use crate::compare::tree::{self, DIFFERENCES_MAX, Difference};

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What differs; at most [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// Whether a document has a name twice in one object.
    pub has_duplicates: bool,
}

/// Compares legacy's answer with async's.
#[must_use]
pub fn compare(
    legacy: &Answer,
    async_: &Answer,
    rules: &CompareRules,
    redactor: &Redactor,
) -> Findings {
    if legacy.status != async_.status {
        let show =
            |answer: &Answer| Shown::plain("status", Some(answer.status.as_str().to_owned()));
        let status = whole(Kind::Status, show(legacy), show(async_));
        return Findings { differences: vec![status], has_duplicates: false };
    }
    let mut findings = bodies(legacy, async_, rules, redactor);
    let headers = headers::differences(&legacy.headers, &async_.headers, redactor);
    findings.differences.splice(0..0, headers);
    findings.differences.truncate(DIFFERENCES_MAX);
    findings
}

/// That one path answered and the other did not.
#[must_use]
pub fn outcomes(legacy: &Outcome, async_: &Outcome) -> Difference {
    let show = |outcome: &Outcome| Shown::plain(outcome.name(), None);
    whole(Kind::Outcome, show(legacy), show(async_))
}

fn whole(kind: Kind, legacy: Shown, async_: Shown) -> Difference {
    Difference { kind, place: Place::Whole, legacy: Some(legacy), async_: Some(async_) }
}

fn bodies(legacy: &Answer, async_: &Answer, rules: &CompareRules, redactor: &Redactor) -> Findings {
    let (left, right) = (&legacy.body, &async_.body);
    let is_same = |a: Option<&[u8]>, b: Option<&[u8]>| a.zip(b).is_some_and(|(a, b)| a == b);
    // Most are: then neither is read.
    if is_same(left.kept.as_deref(), right.kept.as_deref()) {
        return Findings::default();
    }
    let plain = (body::plain(legacy), body::plain(async_));
    let (plain_left, plain_right) = (plain.0.as_deref(), plain.1.as_deref());
    let contents = (body::read(legacy, plain_left), body::read(async_, plain_right));
    match contents {
        (Content::Json(left), Content::Json(right)) => Findings {
            differences: tree::differences(&left.root, &right.root, rules, redactor),
            has_duplicates: left.has_duplicates || right.has_duplicates,
        },
        (Content::Json(left), Content::Broken) => {
            let legacy = redactor.node(&left.root, false);
            one(whole(Kind::Type, legacy, Shown::plain("no JSON", None)))
        }
        (Content::Broken, Content::Json(right)) => {
            let async_ = redactor.node(&right.root, false);
            one(whole(Kind::Type, Shown::plain("no JSON", None), async_))
        }
        (Content::Json(_) | Content::Broken | Content::Opaque, _) => {
            let bytes = plain_left.zip(plain_right);
            let measured = bytes.map(|(left, right)| (measure(left), measure(right)));
            opaque(
                measured.unwrap_or(((left.length, left.hash), (right.length, right.hash))),
                redactor,
            )
        }
    }
}

fn measure(bytes: &[u8]) -> (u64, u64) {
    (bytes.len() as u64, xxh3_64(bytes))
}

/// Two bodies by their lengths and hashes: as they came, or both unpacked.
fn opaque((left, right): ((u64, u64), (u64, u64)), redactor: &Redactor) -> Findings {
    let kind = if left.0 == right.0 { Kind::Bytes } else { Kind::Length };
    if left == right {
        return Findings::default();
    }
    one(whole(kind, redactor.body(left.0, left.1), redactor.body(right.0, right.1)))
}

fn one(difference: Difference) -> Findings {
    Findings { differences: vec![difference], has_duplicates: false }
}
