//! One thread of the data plane: its runtime, sockets, mailbox, pools, counters and tick.
//!
//! Everything here lives on one thread, so nothing is locked and no task moves. The tick is the
//! only clock: it drives all deadlines, sweeps the pools, hands on log lines and measures how late
//! the thread itself wakes.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use futures_util::FutureExt;
use http::HeaderValue;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::access_log::AccessLog;
use crate::drain::{Follower, Phase};
use crate::ids::Ids;
use crate::listen::{Acceptor, Arrival, BoundSocket, Crew, Seat};
use crate::metrics::shard::Shard;
use crate::proxy::{Client, Proxy};
use crate::publisher::Publisher;
use crate::serve::{self, ClientConnection};
use crate::snapshot::Turns;
use crate::tick::{Span, TICK, Ticks};
use crate::upstream::path::Supplies;
use crate::wire::exchange::Exchange;
use crate::wire::forwarded::Peer;
use crate::wire::socket::{ClientSocket, scratch};

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
    /// The even spread's turns.
    pub turns: Arc<Turns>,
    /// Its counters.
    pub shard: Arc<Shard>,
    /// Where log lines go, if there is a log.
    pub log: Option<SyncSender<Vec<u8>>>,
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
        let Setup { index, listeners, crew, mailbox, publisher, turns, shard, log, .. } = setup;
        let supplies = Supplies {
            shard: shard.clone(),
            ticks: Ticks::new(),
            scratch: scratch(),
            ids: Rc::new(Ids::new(setup.seed)),
        };
        let log = log.map(|sender| Rc::new(AccessLog::new(sender, shard.clone())));
        let phase = Rc::new(Cell::new(*setup.phase.borrow()));
        let proxy =
            Rc::new(Proxy::new(publisher, turns, supplies.clone(), log.clone(), phase.clone()));
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
            let stop = async move {
                // A signal that is gone stops the acceptor too.
                let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
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
        let guest = Guest::new(self.clone(), seat);
        let view = self.proxy.view();
        let Supplies { shard, ticks, scratch, ids } = self.supplies.clone();
        let exchange = Rc::new(Exchange::new(ticks.timer(), shard, ids, view.snapshot.client));
        let socket = ClientSocket::new(stream, scratch, exchange.clone());
        let config = &view.snapshot.config;
        let address = peer.ip().to_canonical();
        let trusted = config.listen.trusted_proxies.iter().any(|net| net.contains(&address));
        let Ok(address_value) = HeaderValue::try_from(address.to_string()) else {
            return;
        };
        let tunnel = serve::TunnelSeat::default();
        let client = Rc::new(Client {
            peer: Peer { address, address_value, trusted },
            local,
            socket: socket.clone(),
            exchange: exchange.clone(),
            tunnel: tunnel.clone(),
        });
        let tunnels = Span::from_duration(config.drain.tunnels);
        let phase = self.phase.clone();
        let connection = ClientConnection { socket, exchange, tunnel, phase, tunnels };
        let builder = serve::builder(config);
        spawn(async move {
            let service = service_fn(|request| {
                self.proxy.clone().handle(client.clone(), request).map(Ok::<_, Infallible>)
            });
            connection.run(&builder, service).await;
            drop(guest);
        });
    }
}

/// A connection that counts as open until it is dropped.
struct Guest {
    desk: Rc<Desk>,
    _seat: Seat,
}

impl Guest {
    fn new(desk: Rc<Desk>, seat: Seat) -> Self {
        desk.open.set(desk.open.get() + 1);
        desk.supplies.shard.connections.add(1);
        desk.supplies.shard.connections_total.add(1);
        Self { desk, _seat: seat }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Desk { open, emptied, supplies, .. } = &*self.desk;
        if std::thread::panicking() {
            supplies.shard.panics.add(1);
        }
        supplies.shard.connections.sub(1);
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
