//! A mirrored request's body: copied as it goes to the primary path, and handed over once it is whole.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body::Frame;

use crate::metrics::shard::Shard;
use crate::mirror::hub::Hub;
use crate::mirror::order::Order;
use crate::mirror::skip::Skip;
use crate::mirror::stock::{Buffer, Full};
use crate::vocab::{RouteId, Side};

/// What of mirrored requests one worker counts: those that were not, by path and route.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The worker's counters.
    pub shard: Arc<Shard>,
    /// The primary path.
    pub side: Side,
    /// The route.
    pub route: RouteId,
}

/// The body of a mirrored request, as far as it has come. Dropped before its end, the request is not
/// mirrored.
#[derive(Debug)]
pub struct BodyCopy {
    order: Option<Order>,
    buffer: Buffer,
    hub: Arc<Hub>,
    tally: Tally,
}

impl Tally {
    /// Counts a request that is not mirrored.
    pub fn skip(&self, reason: Skip) {
        skip(&self.shard, (self.side, self.route), reason);
    }

    /// Hands a request over, or counts that there is no room for it.
    pub fn hand_over(&self, hub: &Hub, order: Order) {
        if !hub.hand_over(order) {
            self.drop_one();
        }
    }

    fn drop_one(&self) {
        self.shard.sides.get(self.side).route(self.route).mirror_dropped.add(1);
    }
}

/// Counts a request of this path and route that is not mirrored.
pub fn skip(shard: &Shard, (side, route): (Side, RouteId), reason: Skip) {
    shard.mirror_skipped[reason as usize].add(1);
    shard.sides.get(side).route(route).mirror_skipped.add(1);
}

impl BodyCopy {
    /// The body of `order`, of which nothing has come.
    #[must_use]
    pub fn new(order: Order, hub: Arc<Hub>, tally: Tally) -> Self {
        let limits = &order.plan.config;
        let buffer = Buffer::new(hub.stock.hold(limits.memory), limits.request_bytes);
        Self { order: Some(order), buffer, hub, tally }
    }

    /// A piece of it. What is too long, or has trailers, is not mirrored.
    pub fn push(&mut self, frame: &Frame<Bytes>) {
        if self.order.is_none() {
            return;
        }
        let pushed = frame.data_ref().map_or(Err(Full::Cap), |data| self.buffer.push(data));
        let skip = match pushed {
            Ok(()) => return,
            Err(Full::Cap) => Skip::Body,
            Err(Full::Memory) => Skip::Memory,
        };
        // The upload may go on for long: what came of it is given back now.
        self.order = None;
        drop(self.take_buffer());
        self.tally.skip(skip);
    }

    fn take_buffer(&mut self) -> Buffer {
        let empty = Buffer::new(self.hub.stock.hold(0), 0);
        std::mem::replace(&mut self.buffer, empty)
    }

    /// It is whole.
    pub fn complete(mut self) {
        let Some(mut order) = self.order.take() else {
            return;
        };
        let (bytes, holding) = self.take_buffer().into_parts();
        let fields = order.head.headers_mut();
        fields.remove(TRANSFER_ENCODING);
        fields.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        order.body = bytes.into();
        order.holding.join(holding);
        self.tally.hand_over(&self.hub, order);
    }
}

impl Drop for BodyCopy {
    fn drop(&mut self) {
        if self.order.is_some() {
            // The client broke off, or the primary path did not want all of it.
            self.tally.drop_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Request};
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::Instant;

    use super::*;
    use crate::metrics::Metrics;
    use crate::mirror::plan::tests::plan;

    const ROUTE: RouteId = RouteId(0);

    /// One worker, and what it copies for.
    struct Bench {
        hub: Arc<Hub>,
        orders: Option<mpsc::Receiver<Order>>,
        shard: Arc<Shard>,
    }

    impl Bench {
        fn new() -> Self {
            let (hub, orders) = Hub::new(Arc::default());
            let shard = Metrics::new(1).unwrap().shard(0);
            Self { hub, orders: Some(orders), shard }
        }

        /// A body of at most 4 bytes that is to be copied.
        fn copy(&self) -> BodyCopy {
            let plan = plan(|config| config.request_bytes = 4);
            let mut head = Request::new(());
            *head.method_mut() = Method::POST;
            *head.headers_mut() = [(TRANSFER_ENCODING, "chunked".parse().unwrap())]
                .into_iter()
                .collect::<HeaderMap>();
            let order = Order {
                head,
                body: Bytes::new(),
                at: Instant::now(),
                primary_side: Side::Legacy,
                primary: oneshot::channel().1,
                route: plan.route(ROUTE).unwrap().clone(),
                is_probe: false,
                place: self.hub.stock.enter(1).expect("all are given back"),
                holding: self.hub.stock.hold(plan.config.memory),
                plan,
            };
            let tally = Tally { shard: self.shard.clone(), side: Side::Legacy, route: ROUTE };
            BodyCopy::new(order, self.hub.clone(), tally)
        }

        /// Skipped for the body's sake, dropped, and what is still taken.
        fn counts(&self) -> [u64; 4] {
            let dropped = self.shard.sides.legacy.route(ROUTE).mirror_dropped.get();
            let skipped = self.shard.mirror_skipped[Skip::Body as usize].get();
            let stock = &self.hub.stock;
            [skipped, dropped, stock.in_flight() as u64, stock.bytes() as u64]
        }
    }

    fn piece(text: &'static str) -> Frame<Bytes> {
        Frame::data(text.into())
    }

    #[test]
    fn a_whole_body_is_handed_over_with_its_length() {
        let mut bench = Bench::new();
        let mut copy = bench.copy();
        ["ab", "", "cd"].into_iter().for_each(|text| copy.push(&piece(text)));
        assert_eq!(bench.counts(), [0, 0, 1, 4]);
        copy.complete();
        let order = bench.orders.as_mut().unwrap().try_recv().unwrap();
        assert_eq!(order.body, "abcd");
        assert_eq!(order.head.headers()[CONTENT_LENGTH], "4");
        assert!(!order.head.headers().contains_key(TRANSFER_ENCODING));
        drop(order);
        assert_eq!(bench.counts(), [0, 0, 0, 0]);
    }

    #[test]
    fn whichever_way_it_ends_its_place_and_its_memory_are_given_back_and_it_is_counted() {
        let mut bench = Bench::new();
        let mut copy = bench.copy();
        copy.push(&piece("abc"));
        copy.push(&piece("de"));
        assert_eq!(bench.counts(), [1, 0, 0, 0], "too long: at once");
        copy.push(&piece("f"));
        copy.complete();
        assert_eq!(bench.counts(), [1, 0, 0, 0]);
        let mut copy = bench.copy();
        copy.push(&Frame::trailers(HeaderMap::new()));
        drop(copy);
        assert_eq!(bench.counts(), [2, 0, 0, 0], "trailers");
        let mut copy = bench.copy();
        copy.push(&piece("a"));
        drop(copy);
        assert_eq!(bench.counts(), [2, 1, 0, 0], "broken off");
        bench.orders = None;
        let mut copy = bench.copy();
        copy.push(&piece("a"));
        copy.complete();
        assert_eq!(bench.counts(), [2, 2, 0, 0], "nobody takes it");
    }

    #[test]
    fn a_full_channel_drops_what_comes_and_waits_for_nothing() {
        let bench = Bench::new();
        let mut handed = 0;
        while bench.counts()[1] == 0 {
            // Places are not what runs out here.
            let mut copy = bench.copy();
            if let Some(order) = &mut copy.order {
                order.place = Arc::<crate::mirror::stock::Stock>::default().enter(1).unwrap();
            }
            copy.complete();
            handed += 1;
            assert!(handed < 1_000, "it has no limit");
        }
        assert_eq!(bench.counts(), [0, 1, 0, 0]);
    }
}
