//! Two JSON documents, compared by meaning.
//!
//! Pure. The order of members says nothing, that of elements does unless a rule says otherwise. What
//! differs is noted once for each kind and place. Elements that were only moved, or only added, are told
//! from elements that changed, by hashes that know the rules; so one element more at the front of a list
//! is one difference, not a list of them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::compare::json::Node;
use crate::compare::kind::Kind;
use crate::compare::number;
use crate::compare::redact::{Place, Redactor, Shown};
use crate::compare::rules::{CompareRules, Effect, Step};

/// The most places in which one reply is said to differ.
pub const DIFFERENCES_MAX: usize = 64;
/// The most differences that are looked at for that: a list of thousands that all differ has few places.
const LOOKED_AT_MAX: usize = 4_096;

/// Something in which two answers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// What legacy has there.
    pub legacy: Option<Shown>,
    /// What async has there.
    pub async_: Option<Shown>,
}

/// Compares two documents, legacy's and async's; what differs, in the order of the names.
#[must_use]
pub fn differences(
    legacy: &Node<'_>,
    async_: &Node<'_>,
    rules: &CompareRules,
    redactor: &Redactor,
) -> Vec<Difference> {
    let (path, found, known) = (Vec::new(), Vec::new(), HashMap::new());
    let mut walk = Walk { rules, redactor, path, found, looked_at: 0, known };
    walk.nodes((legacy, async_), false);
    walk.found
}

struct Walk<'a> {
    rules: &'a CompareRules,
    redactor: &'a Redactor,
    path: Vec<Step<'a>>,
    found: Vec<Difference>,
    looked_at: usize,
    // Where an element is says which rules apply to it, so each has one hash.
    known: HashMap<*const Node<'a>, u64>,
}

/// Legacy's and async's.
type Both<'a> = (&'a Node<'a>, &'a Node<'a>);
type Members<'a> = &'a [(Cow<'a, str>, Node<'a>)];
type Arrays<'a> = (&'a [Node<'a>], &'a [Node<'a>]);

impl<'a> Walk<'a> {
    fn is_full(&self) -> bool {
        self.found.len() >= DIFFERENCES_MAX || self.looked_at >= LOOKED_AT_MAX
    }

    fn note(&mut self, kind: Kind, legacy: Option<&Node<'_>>, async_: Option<&Node<'_>>) {
        self.looked_at += 1;
        let place = Place::json(&self.path);
        if self.is_full() || self.found.iter().any(|d| (d.kind, &d.place) == (kind, &place)) {
            return;
        }
        let is_revealed = self.rules.apply(Effect::Reveal, &self.path);
        let show = |node: &Node<'_>| self.redactor.node(node, is_revealed);
        let (legacy, async_) = (legacy.map(show), async_.map(show));
        self.found.push(Difference { kind, place, legacy, async_ });
    }

    fn nodes(&mut self, both: Both<'a>, is_shape_only: bool) {
        if self.rules.apply(Effect::Ignore, &self.path) {
            return;
        }
        let is_shape_only = self.rules.apply(Effect::ShapeOnly, &self.path) || is_shape_only;
        let is_same = match both {
            (Node::Null, Node::Null) => true,
            (Node::Bool(legacy), Node::Bool(async_)) => legacy == async_,
            (Node::Text(legacy), Node::Text(async_)) => legacy == async_,
            (Node::Number(legacy), Node::Number(async_)) => self.is_same_number(legacy, async_),
            (Node::Array(legacy), Node::Array(async_)) => {
                return self.arrays(both, (legacy, async_), is_shape_only);
            }
            (Node::Object(legacy), Node::Object(async_)) => {
                return self.objects((legacy, async_), is_shape_only);
            }
            (legacy, async_) => return self.note(Kind::Type, Some(legacy), Some(async_)),
        };
        if !is_same && !is_shape_only {
            self.note(Kind::Value, Some(both.0), Some(both.1));
        }
    }

    fn is_same_number(&self, legacy: &str, async_: &str) -> bool {
        if number::is_same(legacy, async_) {
            return true;
        }
        let is_tolerated = self.rules.tolerance() > 0.0
            && number::is_within(legacy, async_, self.rules.tolerance());
        if is_tolerated {
            self.rules.tolerated();
        }
        is_tolerated
    }

    /// Both are sorted by name. A name that only one has twice is one that the other lacks.
    fn objects(&mut self, (legacy, async_): (Members<'a>, Members<'a>), is_shape_only: bool) {
        let (mut legacy, mut async_) = (legacy.iter().peekable(), async_.iter().peekable());
        while !self.is_full() {
            let order = match (legacy.peek(), async_.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            let left = legacy.next_if(|_| order != Ordering::Greater);
            let right = async_.next_if(|_| order != Ordering::Less);
            let Some((name, _)) = left.or(right) else {
                return;
            };
            self.path.push(Step::Member(name));
            match (left, right) {
                (Some((_, left)), Some((_, right))) => self.nodes((left, right), is_shape_only),
                (left, right) => self.one_sided(left.map(|(_, n)| n), right.map(|(_, n)| n)),
            }
            self.path.pop();
        }
    }

    /// Notes what only one of them has, unless it is ignored.
    fn one_sided(&mut self, legacy: Option<&Node<'_>>, async_: Option<&Node<'_>>) {
        if !self.rules.apply(Effect::Ignore, &self.path) {
            let kind = if legacy.is_some() { Kind::Missing } else { Kind::Extra };
            self.note(kind, legacy, async_);
        }
    }
}

// === Arrays ===

impl<'a> Walk<'a> {
    fn arrays(&mut self, both: Both<'a>, (left, right): Arrays<'a>, is_shape_only: bool) {
        let is_unordered = self.rules.apply(Effect::Unordered, &self.path);
        let in_place = || (0..left.len().min(right.len())).map(|at| (at, at));
        let pick = |pair: (usize, usize)| (pair.0, (&left[pair.0], &right[pair.1]));
        if is_shape_only {
            // How many there are is a value too.
            return self.pairs(in_place().map(pick), true);
        }
        let (lefts, rights) = (self.hashes(left, false), self.hashes(right, false));
        let matched =
            if lefts == rights { in_place().collect() } else { match_up(&lefts, &rights) };
        let rest = |hashes: &[u64], of: fn(&(usize, usize)) -> usize| {
            let matched: HashSet<usize> = matched.iter().map(of).collect();
            (0..hashes.len()).filter(|at| !matched.contains(at)).collect::<Vec<usize>>()
        };
        let (mut more, mut new) = (rest(&lefts, |pair| pair.0), rest(&rights, |pair| pair.1));
        if is_unordered {
            by_size(&mut more, left);
            by_size(&mut new, right);
        } else if more.is_empty() && new.is_empty() {
            if lefts != rights {
                self.note(Kind::Order, Some(both.0), Some(both.1));
            }
        } else if !more.is_empty() && !new.is_empty() {
            // They changed where they are.
            self.pairs(in_place().map(pick), false);
            let both = left.len().min(right.len());
            return self.rest((&left[both..], &right[both..]), both);
        }
        // Also what is equal by the rules is walked, so that these have their hits.
        let changed = more.iter().copied().zip(new.iter().copied());
        self.pairs(matched.iter().copied().chain(changed).map(pick), false);
        let both = more.len().min(new.len());
        for at in &more[both..] {
            self.rest((&left[*at..=*at], &[]), *at);
        }
        for at in &new[both..] {
            self.rest((&[], &right[*at..=*at]), *at);
        }
    }

    fn pairs(&mut self, pairs: impl Iterator<Item = (usize, Both<'a>)>, is_shape_only: bool) {
        for (at, both) in pairs {
            if self.is_full() {
                return;
            }
            self.path.push(Step::Element(at));
            self.nodes(both, is_shape_only);
            self.path.pop();
        }
    }

    /// Elements from `first` on that only one has.
    fn rest(&mut self, (left, right): Arrays<'_>, first: usize) {
        let left = left.iter().map(|node| (Some(node), None));
        let right = right.iter().map(|node| (None, Some(node)));
        for (at, (left, right)) in left.chain(right).enumerate() {
            self.path.push(Step::Element(first + at));
            self.one_sided(left, right);
            self.path.pop();
        }
    }

    /// The hashes of an array's elements, each made once: nested arrays would else be hashed at each level.
    fn hashes(&mut self, elements: &'a [Node<'a>], is_shape_only: bool) -> Vec<u64> {
        let hash = |(at, node)| {
            if let Some(known) = self.known.get(&std::ptr::from_ref(node)) {
                return *known;
            }
            let mut state = DefaultHasher::new();
            self.path.push(Step::Element(at));
            self.hash(node, is_shape_only, &mut state);
            self.path.pop();
            self.known.insert(node, state.finish());
            state.finish()
        };
        elements.iter().enumerate().map(hash).collect()
    }

    /// Hashes what the rules let be compared. A tolerance can't be hashed: numbers that it makes equal
    /// are told from each other here, and compared one by one then.
    fn hash(&mut self, node: &'a Node<'a>, is_shape_only: bool, state: &mut DefaultHasher) {
        if self.rules.has(Effect::Ignore, &self.path) {
            return;
        }
        let is_shape_only = is_shape_only || self.rules.has(Effect::ShapeOnly, &self.path);
        node.type_name().hash(state);
        match node {
            Node::Null => {}
            Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::Array(_) if is_shape_only => {}
            Node::Bool(value) => value.hash(state),
            Node::Number(text) => number::hash(text, state),
            Node::Text(text) => text.hash(state),
            Node::Array(elements) => {
                let mut hashes = self.hashes(elements, is_shape_only);
                if self.rules.has(Effect::Unordered, &self.path) {
                    hashes.sort_unstable();
                }
                hashes.hash(state);
            }
            Node::Object(members) => {
                for (name, node) in members {
                    self.path.push(Step::Member(name));
                    if !self.rules.has(Effect::Ignore, &self.path) {
                        name.hash(state);
                        self.hash(node, is_shape_only, state);
                    }
                    self.path.pop();
                }
                "end".hash(state);
            }
        }
    }
}

/// Elements with equal hashes, each in one pair.
fn match_up(left: &[u64], right: &[u64]) -> Vec<(usize, usize)> {
    let mut spare: HashMap<u64, VecDeque<usize>> = HashMap::new();
    for (at, hash) in right.iter().enumerate() {
        spare.entry(*hash).or_default().push_back(at);
    }
    let left = left.iter().enumerate();
    left.filter_map(|(at, hash)| Some((at, spare.get_mut(hash)?.pop_front()?))).collect()
}

/// Without an order, numbers that are close to each other belong together.
fn by_size(places: &mut [usize], elements: &[Node<'_>]) {
    places.sort_by(|left, right| match (&elements[*left], &elements[*right]) {
        (Node::Number(left), Node::Number(right)) => number::order(left, right),
        (left, right) => {
            let is_number = |node| matches!(node, &Node::Number(_));
            is_number(left).cmp(&is_number(right))
        }
    });
}

#[cfg(test)]
mod tests;
