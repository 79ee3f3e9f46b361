//! A server on an event loop, simulated: seeded, in simulated time, without a socket.
//!
//! It is asyncio's loop: what is ready runs to its end, one after the other, then due timers and new
//! requests become ready.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
pub(crate) const STALL_AFTER: u64 = 100 * MS;
/// What running a handler between two of its awaits costs.
const STEP: u64 = MS / 20;
pub(crate) const RESPONSE_TIMEOUT: u64 = 30 * SECOND;
/// The eight routes' awaiting times, and the one that blocks.
const WAITS: [u64; 8] = [5, 10, 20, 30, 45, 60, 80, 100];
pub(crate) const BLOCKING: usize = 3;

/// A handler: awaits, may block the loop, may await again. Times in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Handler {
    pub(crate) share: f64,
    pub(crate) wait: u64,
    pub(crate) block: u64,
    pub(crate) then_wait: u64,
}

pub(crate) fn handler(share: f64, wait: u64) -> Handler {
    Handler { share, wait, block: 0, then_wait: 0 }
}

pub(crate) fn eight() -> Vec<Handler> {
    WAITS.iter().map(|wait| handler(1.0, *wait)).collect()
}

pub(crate) fn eight_of_which_block(blocking: &[usize]) -> Vec<Handler> {
    let mut handlers = eight();
    blocking.iter().for_each(|route| handlers[*route].block = 300);
    handlers
}

/// What reaches the endpoint.
pub(crate) struct Load {
    pub(crate) handlers: Vec<Handler>,
    pub(crate) rate: u64,
    pub(crate) seconds: u64,
    pub(crate) loops: u64,
    /// How often two answers that come at nearly the same time are noted in the other order: each has a
    /// worker of its own, and either may be woken first.
    pub(crate) swapped: f64,
}

pub(crate) fn load(handlers: Vec<Handler>, rate: u64, seconds: u64) -> Load {
    Load { handlers, rate, seconds, loops: 1, swapped: 0.0 }
}

pub(crate) struct Request {
    pub(crate) at: u64,
    pub(crate) route: usize,
    lane: u64,
}

/// Splitmix64: the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Load {
    /// Requests that come independently of each other.
    pub(crate) fn requests(&self, seed: u64) -> Vec<Request> {
        let mut random = Random(seed.wrapping_mul(7_919) + 1);
        let all: f64 = self.handlers.iter().map(|handler| handler.share).sum();
        let mut at = 0.0;
        let mut requests = Vec::new();
        loop {
            at -= (1.0 - random.unit()).ln() / self.rate as f64;
            if at >= self.seconds as f64 {
                return requests;
            }
            let mut left = random.unit() * all;
            let route = self.handlers.iter().position(|handler| {
                left -= handler.share;
                left < 0.0
            });
            let route = route.unwrap_or(self.handlers.len() - 1);
            let lane = random.next() % self.loops;
            requests.push(Request { at: (at * SECOND as f64) as u64, route, lane });
        }
    }
}

// === The server ===

/// Where a request is in its handler.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Parse,
    Start,
    Work,
    Reply,
}

/// One event loop.
#[derive(Default)]
struct EventLoop {
    now: u64,
    timers: BinaryHeap<Reverse<(u64, usize, Stage)>>,
    ready: VecDeque<(usize, Stage)>,
    replies: Vec<(usize, u64)>,
}

impl EventLoop {
    /// Serves the requests with these numbers until `end`.
    fn serve(mut self, load: &Load, requests: &[Request], numbers: &[usize]) -> Vec<(usize, u64)> {
        let mut coming = numbers.iter().copied().peekable();
        let end = load.seconds * SECOND;
        while self.now <= end {
            if self.ready.is_empty() {
                let arrival = coming.peek().map(|number| requests[*number].at);
                let due = self.timers.peek().map(|Reverse((due, ..))| *due);
                let Some(next) = arrival.into_iter().chain(due).min() else { break };
                self.now = self.now.max(next);
            }
            while let Some(number) = coming.next_if(|number| requests[*number].at <= self.now) {
                self.ready.push_back((number, Stage::Parse));
            }
            while self.timers.peek().is_some_and(|Reverse((due, ..))| *due <= self.now) {
                self.ready
                    .extend(self.timers.pop().map(|Reverse((_, number, stage))| (number, stage)));
            }
            for (number, stage) in std::mem::take(&mut self.ready) {
                self.run(number, stage, load.handlers[requests[number].route]);
            }
        }
        self.replies
    }

    /// Runs a handler up to its next await.
    fn run(&mut self, number: usize, stage: Stage, handler: Handler) {
        self.now += STEP;
        match stage {
            Stage::Parse => self.ready.push_back((number, Stage::Start)),
            Stage::Start => self.sleep(number, handler.wait, Stage::Work),
            Stage::Work => {
                self.now += handler.block * MS;
                if handler.then_wait > 0 {
                    self.sleep(number, handler.then_wait, Stage::Reply);
                } else {
                    self.replies.push((number, self.now));
                }
            }
            Stage::Reply => self.replies.push((number, self.now)),
        }
    }

    fn sleep(&mut self, number: usize, wait: u64, then: Stage) {
        self.timers.push(Reverse((self.now + wait * MS, number, then)));
    }
}

/// When each request is answered, if it is.
pub(crate) fn answers(load: &Load, requests: &[Request]) -> Vec<Option<u64>> {
    let mut answers = vec![None; requests.len()];
    for lane in 0..load.loops {
        let numbers: Vec<_> = (0..requests.len()).filter(|n| requests[*n].lane == lane).collect();
        for (number, at) in EventLoop::default().serve(load, requests, &numbers) {
            answers[number] = Some(at);
        }
    }
    answers
}
