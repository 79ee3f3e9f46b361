//! The mirror's part of a config, compiled: which routes, how many, and by which rules they are compared.

use std::sync::Arc;

use crate::compare::rules::CompareRules;
use crate::config::{Config, MirrorConfig, RouteMirror};
use crate::mirror::eligible::Allowed;
use crate::route::Target;
use crate::vocab::{RouteId, Weight};

/// The mirror's part of a config, while anything is mirrored.
#[derive(Debug)]
pub struct MirrorPlan {
    /// Its limits.
    pub config: MirrorConfig,
    share: Weight,
    // By their ids.
    routes: Vec<Option<Arc<RoutePlan>>>,
}

/// One route, as the mirror sees it.
#[derive(Debug)]
pub struct RoutePlan {
    /// Its name.
    pub name: Arc<str>,
    /// What of it is mirrored.
    pub allowed: Allowed,
    /// How its answers are compared.
    pub rules: Arc<CompareRules>,
    /// What the config says of it.
    pub config: RouteMirror,
}

impl MirrorPlan {
    /// The plan of `config`, whose routes have these targets; `None` if nothing is mirrored. Rules that
    /// are as in `old` are the same, and go on counting their hits.
    #[must_use]
    pub fn new<'a>(
        config: &Config,
        targets: impl Iterator<Item = &'a Target>,
        old: Option<&Self>,
    ) -> Option<Arc<Self>> {
        let share = Weight::from_share(config.mirror.share).unwrap_or_default();
        if share == Weight::ZERO {
            return None;
        }
        let mut routes = Vec::new();
        for target in targets {
            let known = config.routes.iter().find(|route| route.name == target.name);
            let of_route = known.map(|route| route.mirror.clone()).unwrap_or_default();
            let index = usize::from(target.route.0);
            if routes.len() <= index {
                routes.resize(index + 1, None);
            }
            let old = old.and_then(|old| old.route(target.route));
            routes[index] = Some(Arc::new(RoutePlan::new(target, of_route, old)));
        }
        Some(Arc::new(Self { config: config.mirror.clone(), share, routes }))
    }

    /// The plan of a route; `None` if the config has none of this id.
    #[must_use]
    pub fn route(&self, route: RouteId) -> Option<&Arc<RoutePlan>> {
        self.routes.get(usize::from(route.0))?.as_ref()
    }

    /// Whether a request is mirrored, by `draw`, which is uniform over its range.
    #[must_use]
    pub fn takes(&self, draw: u64) -> bool {
        let bucket = (draw >> 32) as u32;
        self.share.takes(bucket)
    }

    /// Whether any route is mirrored: then both paths get requests, whatever the weights are.
    #[must_use]
    pub fn mirrors_any(&self) -> bool {
        self.routes.iter().flatten().any(|route| route.allowed.is_mirrored)
    }
}

impl RoutePlan {
    fn new(target: &Target, config: RouteMirror, old: Option<&Arc<Self>>) -> Self {
        let rules = match old.filter(|old| old.config.has_same_rules(&config)) {
            Some(old) => old.rules.clone(),
            None => Arc::new(CompareRules::new(
                &config.ignore,
                &config.shape_only,
                &config.unordered,
                &config.reveal,
                config.tolerance,
            )),
        };
        let allowed = Allowed {
            // What is pinned need not be there on the other path.
            is_mirrored: config.mirror.unwrap_or_else(|| target.pin.is_none()),
            unsafe_methods_ok: config.unsafe_methods_ok,
        };
        Self { name: target.name.as_str().into(), allowed, rules, config }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::vocab::{DEFAULT_ROUTE, Side};

    const FILE: &str = "async_weight = 0.1\n[listen]\naddress = \"127.0.0.1:8080\"\n\
                        [legacy]\nendpoints = [\"http://127.0.0.1:9001\"]\n\
                        [async]\nendpoints = [\"http://127.0.0.1:9002\"]\n";

    fn target(name: &str, id: u16, pin: Option<Side>) -> Target {
        let all = Weight::ZERO;
        let name = name.to_owned();
        Target { route: RouteId(id), name, weight: all, allowed: all, applied: all, pin }
    }

    fn of(tail: &str, old: Option<&MirrorPlan>) -> Option<Arc<MirrorPlan>> {
        let file = format!("{FILE}[mirror]\nshare = 0.25\n{tail}");
        let config = Config::parse(&file, "cutover.toml".as_ref()).unwrap();
        let mut targets = vec![target(DEFAULT_ROUTE, 0, None)];
        for (id, route) in (1..).zip(&config.routes) {
            targets.push(target(&route.name, id, route.pin));
        }
        MirrorPlan::new(&config, targets.iter(), old)
    }

    /// A plan with one route and these limits.
    pub(crate) fn plan(change: impl FnOnce(&mut MirrorConfig)) -> Arc<MirrorPlan> {
        let mut plan = Arc::into_inner(of("", None).unwrap()).unwrap();
        change(&mut plan.config);
        Arc::new(plan)
    }

    #[test]
    fn without_a_share_there_is_no_plan() {
        let config = Config::parse(FILE, "cutover.toml".as_ref()).unwrap();
        assert!(MirrorPlan::new(&config, [target(DEFAULT_ROUTE, 0, None)].iter(), None).is_none());
    }

    #[test]
    fn the_share_is_exact() {
        let plan = of("", None).unwrap();
        let quarter = 1_u64 << 62;
        assert!(plan.takes(0) && plan.takes(quarter - 1));
        assert!(!plan.takes(quarter) && !plan.takes(u64::MAX));
    }

    #[test]
    fn a_route_is_mirrored_unless_it_is_pinned_or_says_otherwise() {
        for (lines, expected) in [
            ("", (true, false)),
            ("mirror = false", (false, false)),
            ("pin = \"legacy\"", (false, false)),
            ("pin = \"legacy\"\nmirror = true", (true, false)),
            ("unsafe_methods_ok = true", (true, true)),
        ] {
            let route = format!("[[route]]\nname = \"a\"\nmatch = \"GET /\"\n{lines}\n");
            let plan = of(&route, None).unwrap();
            let Allowed { is_mirrored, unsafe_methods_ok } =
                plan.route(RouteId(1)).unwrap().allowed;
            assert_eq!((is_mirrored, unsafe_methods_ok), expected, "{lines}");
            assert!(plan.route(RouteId(0)).unwrap().allowed.is_mirrored && plan.mirrors_any());
            assert!(plan.route(RouteId(2)).is_none());
        }
    }

    #[test]
    fn rules_that_stay_the_same_go_on_counting() {
        let route = |lines| format!("[[route]]\nname = \"a\"\nmatch = \"GET /\"\n{lines}\n");
        let old = of(&route("ignore = [\"/a\"]"), None).unwrap();
        for (lines, is_same) in [
            ("ignore = [\"/a\"]", true),
            ("ignore = [\"/a\"]\ncritical = true", true),
            ("ignore = [\"/b\"]", false),
            ("ignore = [\"/a\"]\ntolerance = 0.1", false),
        ] {
            let new = of(&route(lines), Some(&old)).unwrap();
            let rules = [&old, &new].map(|plan| &plan.route(RouteId(1)).unwrap().rules);
            assert_eq!(Arc::ptr_eq(rules[0], rules[1]), is_same, "{lines}");
        }
    }
}
