//! Step 9 of a request's way: whether it is mirrored, and its copy. On the workers; nothing here waits.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::Ids;
use crate::metrics::shard::Shard;
use crate::mirror::copy::{copy_fields, copy_target};
use crate::mirror::eligible::{X_CUTOVER_SHADOW, by_head, by_method};
use crate::mirror::harm::Arm;
use crate::mirror::hub::Hub;
use crate::mirror::order::{Order, Primary};
use crate::mirror::plan::{MirrorPlan, RoutePlan};
use crate::mirror::skip::Skip;
use crate::mirror::stock::Place;
use crate::mirror::upload::{self, BodyCopy, Tally};
use crate::route::Decision;
use crate::snapshot::Snapshot;
use crate::wire::upload::RequestBody;

const MARK: HeaderValue = HeaderValue::from_static("1");

/// Selects which of one worker's requests are mirrored.
#[derive(Debug)]
pub struct Selector {
    hub: Arc<Hub>,
    shard: Arc<Shard>,
    ids: Rc<Ids>,
}

/// A request that is to be mirrored, before its head is what backends get.
#[derive(Debug)]
pub struct Selected<'a> {
    selector: &'a Selector,
    tally: Tally,
    plan: &'a Arc<MirrorPlan>,
    route: &'a Arc<RoutePlan>,
    place: Place,
    is_probe: bool,
    at: Instant,
}

impl Selector {
    /// The selector of a worker.
    #[must_use]
    pub fn new(hub: Arc<Hub>, shard: Arc<Shard>, ids: Rc<Ids>) -> Self {
        Self { hub, shard, ids }
    }

    /// Whether a request is mirrored, by its head as the client sent it. Each that is not is counted.
    /// Where only the draw decided that, `arm` says how it fell.
    pub fn select<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        decision: Decision,
        request: &Request<RequestBody>,
        (is_tunnel, arm): (bool, &mut Option<Arm>),
    ) -> Option<Selected<'a>> {
        let plan = snapshot.mirror.as_ref()?;
        let Decision { route, side, .. } = decision;
        let (of, route) = ((side, route), plan.route(route)?);
        let other = side.other();
        let skip = by_method(request.method(), route.allowed)
            .or_else(|| self.hub.is_off().then_some(Skip::Harm))
            .or_else(|| {
                let drawn = if plan.takes(self.ids.draw()) { Arm::Drawn } else { Arm::Plain };
                *arm = self.hub.has_room(other, &plan.config).then_some(drawn);
                (drawn == Arm::Plain).then_some(Skip::NotSampled)
            })
            .or_else(|| is_tunnel.then_some(Skip::Upgrade))
            .or_else(|| by_head(request.headers(), plan.config.request_bytes))
            .or_else(|| snapshot.retired.get(other).then_some(Skip::Drained));
        let entered = match skip {
            Some(skip) => Err(skip),
            None => self.enter(plan),
        };
        let entered = entered.and_then(|(place, at)| {
            // Last, as a probe that is let pass is the only one for a while.
            let is_probe = self.hub.pass(other).ok_or(Skip::Breaker)?;
            let (side, id) = of;
            let tally = Tally { shard: self.shard.clone(), side, route: id };
            Ok(Selected { selector: self, tally, plan, route, place, is_probe, at })
        });
        entered.inspect_err(|reason| upload::skip(&self.shard, of, *reason)).ok()
    }

    fn enter(&self, plan: &MirrorPlan) -> Result<(Place, Instant), Skip> {
        let place = self.hub.stock.enter(plan.config.in_flight).ok_or(Skip::InFlight)?;
        let at = Instant::now();
        let is_within_rate = self.hub.is_within_rate(at, plan.config.rps_max);
        is_within_rate.then_some((place, at)).ok_or(Skip::Rate)
    }
}

impl Selected<'_> {
    /// Copies the request, whose head is what backends get, and hands it over: at once, or with the end
    /// of its body. What it gives is to be told of the primary path's answer.
    pub fn copy(self, request: &mut Request<RequestBody>) -> Option<Box<Primary>> {
        let Self { selector: Selector { hub, .. }, tally, plan, route, place, is_probe, at } = self;
        let mut holding = hub.stock.hold(plan.config.memory);
        let target = copy_target(request.uri(), &mut holding);
        let fields = copy_fields(request.headers(), &mut holding);
        let (Some(target), Some(mut fields)) = (target, fields) else {
            tally.skip(Skip::Memory);
            return None;
        };
        fields.insert(X_CUTOVER_SHADOW, MARK);
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        *head.uri_mut() = target;
        *head.headers_mut() = fields;
        let (teller, primary) = oneshot::channel();
        let primary_side = tally.side;
        let (plan, route) = (plan.clone(), route.clone());
        let told = Primary::new(teller, at, hub.stock.clone(), plan.clone());
        let body = Bytes::new();
        let order =
            Order { head, body, at, primary_side, primary, plan, route, is_probe, place, holding };
        if request.body().is_empty() {
            tally.hand_over(hub, order);
        } else {
            request.body_mut().copy_to(BodyCopy::new(order, hub.clone(), tally));
        }
        Some(Box::new(told))
    }
}
