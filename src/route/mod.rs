//! Which path a request takes, and why: `decide(head) -> Decision`.
//!
//! Pure: the even spread's draw comes in as an argument, so each rule is tested as a table.
//! Precedence for one request: route pin > forced by header > sticky key > even spread.

pub mod head;
pub mod pace;
pub mod split;
pub mod sticky;
pub mod template;

use http::{HeaderName, Method};

use crate::route::head::Head;
use crate::route::sticky::{Key, Salt};
use crate::route::template::Pattern;
use crate::vocab::{Reason, RouteId, Routed, Side, Weight};

/// The rules of one configuration, compiled: what a request is decided by.
#[derive(Debug)]
pub struct Rules {
    /// Configured routes, first match wins.
    pub routes: Vec<Route>,
    /// What matches none of them.
    pub fallback: Target,
    /// What makes the split sticky, if anything does.
    pub key: Option<Key>,
    /// Draws the users anew when it changes.
    pub salt: Salt,
    /// The header that names a path outright, if one is configured.
    pub force: Option<Force>,
    /// Whether a baseline is recorded: requests take turns even where the weight does not split them.
    pub is_measuring: bool,
}

/// A named match of method and path template.
#[derive(Debug)]
pub struct Route {
    /// Method and template.
    pub pattern: Pattern,
    /// Where its requests go.
    pub target: Target,
}

/// Where the requests of a route go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The route's place in the tables.
    pub route: RouteId,
    /// The route's name.
    pub name: String,
    /// The share of the async path that the operator wants.
    pub weight: Weight,
    /// The share that it may have: less, where a ramp or a rollback bounds it.
    pub allowed: Weight,
    /// The share that it gets now: that which it may have, or still on its way back there.
    pub applied: Weight,
    /// Never split: always this path.
    pub pin: Option<Side>,
}

impl Target {
    /// The weight that the file asks for: a pin overrides any other.
    #[must_use]
    pub fn configured(&self) -> Weight {
        self.unless_pinned(self.weight)
    }

    /// The weight in effect now: a pin overrides any other.
    #[must_use]
    pub fn effective(&self) -> Weight {
        self.unless_pinned(self.applied)
    }

    /// The weight that will be in effect once a paced return has ended.
    #[must_use]
    pub fn desired(&self) -> Weight {
        self.unless_pinned(self.allowed)
    }

    fn unless_pinned(&self, weight: Weight) -> Weight {
        match self.pin {
            Some(Side::Legacy) => Weight::ZERO,
            Some(Side::Async) => Weight::ONE,
            None => weight,
        }
    }
}

/// A header whose value names the path.
#[derive(Debug)]
pub struct Force {
    /// Its name.
    pub header: HeaderName,
    /// Whether anyone may use it, not only a trusted proxy.
    pub from_anyone: bool,
}

/// Where a request goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The route that matched.
    pub route: RouteId,
    /// The path.
    pub side: Side,
    /// What decided.
    pub reason: Reason,
    /// Whether it is in the first half of its path's buckets.
    pub is_first_half: bool,
}

impl Decision {
    /// The same for the guard, in `epoch`.
    #[must_use]
    pub fn routed(self, epoch: u64) -> Routed {
        let is_weighed = matches!(self.reason, Reason::Key | Reason::Spread);
        let Self { route, side, is_first_half, .. } = self;
        Routed { side: Some(side), route, epoch, is_weighed, is_first_half }
    }
}

impl Rules {
    /// Decides one request. `turn` gives the next turn of a route's even spread; it is asked only
    /// when the spread decides and the weight is neither 0 nor 1.
    pub fn decide(&self, head: &Head<'_>, turn: impl FnOnce(RouteId) -> u64) -> Decision {
        let target = self.target(head.method, head.path);
        let (route, applied) = (target.route, target.applied);
        let outright = |side, reason| Decision { route, side, reason, is_first_half: false };
        if let Some(side) = target.pin {
            return outright(side, Reason::Pin);
        }
        if let Some(side) = self.forced(head) {
            return outright(side, Reason::Forced);
        }
        let keyed = self.key.as_ref().and_then(|key| key.bucket(&self.salt, head));
        let (bucket, reason) = match keyed {
            Some(bucket) => (bucket, Reason::Key),
            None if applied.is_split() || self.is_measuring => {
                (split::spread(turn(route)), Reason::Spread)
            }
            None => (0, Reason::Spread),
        };
        let (side, is_first_half) = (split::side(applied, bucket), applied.is_first_half(bucket));
        Decision { route, side, reason, is_first_half }
    }

    /// The target of the first route that matches, or the fallback.
    #[must_use]
    pub fn target(&self, method: &Method, path: &str) -> &Target {
        self.routes
            .iter()
            .find(|route| route.pattern.matches(method, path))
            .map_or(&self.fallback, |route| &route.target)
    }

    /// Each target, the fallback last.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.routes.iter().map(|route| &route.target).chain([&self.fallback])
    }

    /// The largest of these weights of any route that is not pinned.
    pub fn largest(&self, of: impl Fn(&Target) -> Weight) -> Weight {
        let unpinned = self.targets().filter(|target| target.pin.is_none());
        unpinned.map(of).max().unwrap_or_default()
    }

    fn forced(&self, head: &Head<'_>) -> Option<Side> {
        let force = self.force.as_ref()?;
        if !(head.trusted || force.from_anyone) {
            return None;
        }
        Side::from_name(head.headers.get(&force.header)?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn rules(weight: f64) -> Rules {
        let target = |id, name: &str, weight, pin| Target {
            route: RouteId(id),
            name: name.to_owned(),
            weight: Weight::from_share(weight).unwrap(),
            allowed: Weight::from_share(weight).unwrap(),
            applied: Weight::from_share(weight).unwrap(),
            pin,
        };
        Rules {
            routes: vec![
                Route {
                    pattern: Pattern::parse("POST /pay/{rest*}").unwrap(),
                    target: target(1, "pay", weight, Some(Side::Legacy)),
                },
                Route {
                    pattern: Pattern::parse("GET /orders/{id}").unwrap(),
                    target: target(2, "orders", 1.0, None),
                },
            ],
            fallback: target(0, "default", weight, None),
            key: Key::parse("header:x-user-id").unwrap(),
            salt: Salt::new("cutover"),
            force: Some(Force {
                header: HeaderName::from_static("x-cutover-force"),
                from_anyone: false,
            }),
            is_measuring: false,
        }
    }

    fn check(request: &str, headers: &[(&'static str, &str)], trusted: bool) -> (Side, Reason) {
        let (method, path) = request.split_once(' ').unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let head = Head {
            method: &Method::from_bytes(method.as_bytes()).unwrap(),
            path,
            headers: &map,
            client: Ipv4Addr::LOCALHOST.into(),
            trusted,
        };
        let decision = rules(0.0).decide(&head, |_| 0);
        (decision.side, decision.reason)
    }

    #[test]
    fn precedence_is_pin_then_force_then_key_then_spread() {
        let forced = ("x-cutover-force", "async");
        let key = ("x-user-id", "u1");
        assert_eq!(check("POST /pay/1/2", &[forced, key], true), (Side::Legacy, Reason::Pin));
        assert_eq!(check("GET /x", &[forced, key], true), (Side::Async, Reason::Forced));
        assert_eq!(check("GET /x", &[forced, key], false), (Side::Legacy, Reason::Key));
        assert_eq!(check("GET /x", &[forced], false), (Side::Legacy, Reason::Spread));
        assert_eq!(check("GET /orders/7", &[], false), (Side::Async, Reason::Spread));
    }

    #[test]
    fn a_force_header_with_an_unknown_path_decides_nothing() {
        assert_eq!(check("GET /x", &[("x-cutover-force", "new")], true).1, Reason::Spread);
    }
}
