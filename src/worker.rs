//! One thread of the data plane: its runtime, sockets, mailbox, pools, counters and tick.
//!
//! Everything here lives on one thread, so nothing is locked and no task moves. The tick is the
//! only clock: it drives all deadlines, sweeps the pools, hands on log lines and measures how late
//! the thread itself wakes.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::drain::{Follower, Phase};
use crate::ids::Ids;
use crate::listen::{Acceptor, Arrival, Crew, Seat};
use crate::metrics::shard::Shard;
use crate::mirror::hub::Hub;
use crate::mirror::select::Selector;
use crate::proxy::{Client, Proxy};
use crate::publisher::Publisher;
use crate::quota::Admission;
use crate::serve::caller::Caller;
use crate::serve::opening::{Opened, Opening};
use crate::serve::streams::StreamSeat;
use crate::serve::tunnel::TunnelSeat;
use crate::serve::{ClientConnection, http1, http2};
use crate::snapshot::Turns;
use crate::sockets::BoundSocket;
use crate::tick::{Span, TICK, Ticks};
use crate::trace::span::Finished;
use crate::trace::tracer::Tracer;
use crate::upstream::path::Supplies;
use crate::wire::exchange::Exchange;
use crate::wire::joined::scratch;
use crate::wire::socket::ClientSocket;

/// Pools are swept once in so many ticks.
const SWEEP_TICKS: u32 = 10;

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub index: usize,
    /// Its sockets.
    pub listeners: Vec<BoundSocket>,
    /// All workers.
    pub crew: Arc<Crew>,
    /// Connections that others hand over.
    pub mailbox: mpsc::Receiver<Arrival>,
    /// Where snapshots come from.
    pub publisher: Arc<Publisher>,
    /// Where mirrored requests are handed over.
    pub hub: Arc<Hub>,
    /// The even spread's turns.
    pub turns: Arc<Turns>,
    /// Its counters.
    pub shard: Arc<Shard>,
    /// Where log lines go, if there is a log.
    pub log: Option<SyncSender<Vec<u8>>>,
    /// Where spans go.
    pub spans: SyncSender<Finished>,
    /// The process's phase.
    pub phase: Follower,
    /// The seed of its ids.
    pub seed: u64,
}

/// Runs a worker on this thread until the drain's end; `started` is called once it serves.
///
/// # Errors
/// When the runtime can't start or a socket can't be taken over.
pub fn run(setup: Setup, started: impl FnOnce()) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let worker = Worker::start(setup)?;
        started();
        worker.work().await;
        Ok(())
    })
    // Dropping the runtime drops what a drain's end cut off.
}

struct Worker {
    desk: Rc<Desk>,
    acceptors: Vec<Acceptor>,
    mailbox: mpsc::Receiver<Arrival>,
    phase: Follower,
}

/// What the connections of a worker share.
struct Desk {
    proxy: Rc<Proxy>,
    supplies: Supplies,
    crew: Arc<Crew>,
    log: Option<Rc<AccessLog>>,
    phase: Rc<Cell<Phase>>,
    open: Cell<usize>,
    emptied: Notify,
}

impl Worker {
    fn start(setup: Setup) -> io::Result<Self> {
        let Setup { index, listeners, crew, mailbox, publisher, hub, turns, shard, log, .. } =
            setup;
        let supplies = Supplies {
            shard: shard.clone(),
            ticks: Ticks::new(),
            scratch: scratch(),
            ids: Rc::new(Ids::new(setup.seed)),
        };
        let selector = Selector::new(hub, shard.clone(), supplies.ids.clone());
        let log = log.map(|sender| Rc::new(AccessLog::new(sender, shard.clone())));
        let phase = Rc::new(Cell::new(*setup.phase.borrow()));
        let tracer = Tracer::new(supplies.ids.clone(), shard.clone(), setup.spans);
        let own = (supplies.clone(), selector, tracer);
        let proxy = Rc::new(Proxy::new(publisher, turns, own, log.clone(), phase.clone()));
        let acceptors = listeners
            .into_iter()
            .map(|socket| Acceptor::new(socket, index, crew.clone(), shard.clone()))
            .collect::<io::Result<_>>()?;
        let (open, emptied) = (Cell::new(0), Notify::new());
        let desk = Rc::new(Desk { proxy, supplies, crew, log, phase, open, emptied });
        Ok(Self { desk, acceptors, mailbox, phase: setup.phase })
    }

    async fn work(self) {
        let Self { desk, acceptors, mailbox, mut phase } = self;
        for acceptor in acceptors {
            desk.clone().spawn_acceptor(acceptor, phase.clone());
        }
        desk.clone().spawn_mailbox(mailbox);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                due = tick.tick() => desk.tick(due),
                Ok(()) = phase.changed() => {
                    desk.phase.set(*phase.borrow_and_update());
                    desk.supplies.ticks.wake_all();
                }
                () = desk.emptied.notified() => {}
            }
            let phase = desk.phase.get();
            let is_empty = !desk.crew.is_accepting() && desk.open.get() == 0;
            if phase >= Phase::Cut || (phase == Phase::Draining && is_empty) {
                desk.flush_log();
                return;
            }
        }
    }
}

impl Desk {
    fn spawn_acceptor(self: Rc<Self>, acceptor: Acceptor, mut phase: Follower) {
        spawn(async move {
            // Before that a process that is succeeded accepts.
            if phase.wait_for(|phase| *phase >= Phase::Serving).await.is_err() {
                // The start failed, and the socket is still that process's: it must not be made deaf.
                return;
            }
            let relief = self.crew.relief().clone();
            let stop = async move {
                tokio::select! {
                    _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
                    _ = relief.wait() => {}
                }
            };
            let max = || self.proxy.view().snapshot.config.listen.max_connections;
            let serve = |stream, peer, local, seat| self.clone().serve(stream, peer, local, seat);
            acceptor.run(stop, max, serve).await;
            self.emptied.notify_one();
        });
    }

    fn spawn_mailbox(self: Rc<Self>, mut mailbox: mpsc::Receiver<Arrival>) {
        spawn(async move {
            while let Some(arrival) = mailbox.recv().await {
                arrival.serve(&|stream, peer, local, seat| {
                    self.clone().serve(stream, peer, local, seat);
                });
            }
        });
    }

    fn tick(&self, due: Instant) {
        let Supplies { ticks, shard, .. } = &self.supplies;
        shard.lag.observe(due.elapsed());
        ticks.advance();
        if shard.is_cutting() {
            ticks.wake_all();
        }
        self.flush_log();
        if ticks.now() % SWEEP_TICKS == 0 {
            for (_, path) in self.proxy.view().paths.iter() {
                for pool in path.pools() {
                    (0..pool.sweep()).for_each(|_| spawn(pool.clone().warm()));
                }
            }
        }
    }

    fn flush_log(&self) {
        if let Some(log) = &self.log {
            log.flush();
        }
    }

    /// Serves one connection in a task of its own. A panic there ends that connection alone.
    fn serve(self: Rc<Self>, stream: TcpStream, peer: SocketAddr, local: HeaderValue, seat: Seat) {
        let guest = Rc::new(Guest::new(self.clone(), seat));
        let view = self.proxy.view();
        let Supplies { shard, ticks, ids, .. } = self.supplies.clone();
        let exchange = Rc::new(Exchange::new(ticks.timer(), shard, ids, view.snapshot.client));
        let config = view.snapshot.config.clone();
        let Some(caller) = Caller::new(peer, local, &config.listen) else {
            return;
        };
        let terms = caller.terms(&config);
        spawn(async move {
            let opening = Opening { exchange: &exchange, phase: &self.phase };
            // Whom it counts for is known now, or only once a PROXY header has been read.
            let early = if terms.has_proxy_header { None } else { Some(caller.peer.address) };
            let Some(_early) = self.admit(early, &config) else {
                return;
            };
            let Some(opened) = opening.open(stream, &terms).await else {
                return;
            };
            let caller = caller.introduced(&opened, &config.listen);
            let late = if terms.has_proxy_header { Some(caller.peer.address) } else { None };
            let Some(_late) = self.admit(late, &config) else {
                return;
            };
            self.converse(opened, (exchange, guest), caller, config).await;
        });
    }

    /// A place in the quota of an address, where there is one; `None` if it is used up.
    fn admit(&self, address: Option<IpAddr>, config: &Config) -> Option<Option<Admission>> {
        let max = config.listen.max_connections_per_address;
        let Some(address) = address.filter(|_| max > 0) else {
            return Some(None);
        };
        let admission = self.crew.quota().admit(address, max);
        if admission.is_none() {
            self.supplies.shard.connections_over_quota.add(1);
        }
        admission.map(Some)
    }

    /// Serves the HTTP of a connection whose first bytes have been read.
    async fn converse(
        self: Rc<Self>,
        opened: Opened,
        (exchange, guest): (Rc<Exchange>, Rc<Guest>),
        Caller { peer, local }: Caller,
        config: Arc<Config>,
    ) {
        let Opened { transport, early, is_http2, .. } = opened;
        let scratch = self.supplies.scratch.clone();
        let socket = ClientSocket::new(transport, early, scratch, exchange.clone());
        let tunnel = TunnelSeat::default();
        let tunnels = Span::from_duration(config.drain.tunnels);
        let connection = ClientConnection {
            socket: socket.clone(),
            exchange: exchange.clone(),
            tunnel: tunnel.clone(),
            phase: self.phase.clone(),
            tunnels,
        };
        if is_http2 {
            guest.speaks_http2();
            let handle = move |seat: StreamSeat, request| {
                let StreamSeat { exchange, tunnel } = seat;
                let (peer, local) = (peer.clone(), local.clone());
                let client = Client { peer, local, socket: None, exchange, tunnel };
                self.proxy.clone().handle(Rc::new(client), request)
            };
            let builder = http2::builder(&config);
            drop(config);
            // Boxed: HTTP/1 need not hold the room for it.
            Box::pin(connection.run_http2(&builder, handle, guest)).await;
        } else {
            let client = Rc::new(Client { peer, local, socket: Some(socket), exchange, tunnel });
            let handle = |request| self.proxy.clone().handle(client.clone(), request);
            let builder = http1::builder(&config);
            // A connection may last for days, and many configs.
            drop(config);
            connection.run_http1(&builder, handle).await;
            drop(guest);
        }
    }
}

/// A connection that counts as open until it is dropped.
struct Guest {
    desk: Rc<Desk>,
    speaks_http2: Cell<bool>,
    _seat: Seat,
}

impl Guest {
    fn new(desk: Rc<Desk>, seat: Seat) -> Self {
        desk.open.set(desk.open.get() + 1);
        desk.supplies.shard.connections.add(1);
        desk.supplies.shard.connections_total.add(1);
        Self { desk, speaks_http2: Cell::new(false), _seat: seat }
    }

    fn speaks_http2(&self) {
        self.desk.supplies.shard.http2_connections.add(1);
        self.desk.supplies.shard.http2_connections_total.add(1);
        self.speaks_http2.set(true);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Desk { open, emptied, supplies, .. } = &*self.desk;
        if std::thread::panicking() {
            supplies.shard.panics.add(1);
        }
        supplies.shard.connections.sub(1);
        if self.speaks_http2.get() {
            supplies.shard.http2_connections.sub(1);
        }
        open.set(open.get() - 1);
        if open.get() == 0 {
            emptied.notify_one();
        }
    }
}

fn spawn(task: impl Future<Output = ()> + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends with its connection, or its worker")]
    tokio::task::spawn_local(task);
}
