//! `least_request` against `round_robin` with one endpoint that is slower than the other three.
//!
//! Run with `cargo bench --bench balance [-- SEED]`; the run takes under a minute.
//!
//! *On sockets*: a proxy with two workers before four endpoints in this process. Three answer after
//! 2 ms; the fourth after 40 ms, or ("limited") after 10 ms and one request at a time. A closed loop
//! of 32 keep-alive connections: a policy that makes clients wait is also asked less, which flatters
//! its P50. Policies take turns in rounds. Their rows are medians of the rounds; the ratios are
//! medians of the ratios inside each round, with the lowest and the highest, since proxy, endpoints
//! and clients share the machine's cores with whatever else runs.
//!
//! *Simulated*: what the proxy's workers should know. `Roster` chooses among endpoints that exist in
//! numbers only; requests come at random (Poisson) to a random worker and take exponential times.
//! "Own counts": each worker knows what it has in flight itself. "Shared counts": what all have in
//! flight, as the proxy does it. Arrivals and times are the same in all cells of a case, and the
//! same seed prints the same table.

#![expect(clippy::print_stdout, reason = "a table is what it makes")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cutover::app::App;
use cutover::config::Config;
use cutover::config::values::Balance;
use cutover::ids::Ids;
use cutover::upstream::balance::Roster;
use cutover::upstream::standing::{Candidate, Health, Tried};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

const ENDPOINTS: usize = 4;
/// The one that differs.
const SLOW: usize = ENDPOINTS - 1;

const WORKERS: usize = 2;
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
/// Until a queue at the slow endpoint is as long as it will be.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1_500);
const POLICIES: [&str; 2] = ["least_request", "round_robin"];

const WORKERS_SIMULATED: [usize; 3] = [2, 8, 32];
const REQUESTS_SIMULATED: u32 = 500_000;
const SEED: u64 = 1996;

/// How an endpoint answers.
#[derive(Clone, Copy)]
struct Pace {
    takes: Duration,
    /// Further requests wait for their turn.
    at_once: usize,
}

const fn pace(millis: u64, at_once: usize) -> Pace {
    Pace { takes: Duration::from_millis(millis), at_once }
}

const FAST: Pace = pace(2, Semaphore::MAX_PERMITS);
const LATE: Pace = pace(40, Semaphore::MAX_PERMITS);
const LIMITED: Pace = pace(10, 1);

fn main() -> anyhow::Result<()> {
    let seed = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(SEED);
    println!(
        "On sockets: {WORKERS} workers, {CONNECTIONS} connections, {ROUNDS} rounds of {MEASURED:?}\n\n\
         | slow endpoint | policy | req/s | slow gets % | P50 ms | P95 ms | P99 ms |\n\
         |---|---|--:|--:|--:|--:|--:|"
    );
    compare("40 ms", LATE)?;
    compare("limited", LIMITED)?;
    println!(
        "\nSimulated: seed {seed}, {REQUESTS_SIMULATED} requests; cells are for \
         {WORKERS_SIMULATED:?} workers\n\n\
         | endpoints | chosen by | in flight | slow gets % | P95 ms | P99 ms |\n\
         |---|---|--:|--:|--:|--:|"
    );
    for case in &CASES {
        for view in &VIEWS {
            let cells = WORKERS_SIMULATED.map(|workers| simulate(case, view, workers, seed));
            let row = [0, 1, 2, 3]
                .map(|column| cells.map(|cell| format!("{:.1}", cell[column])).join(" / "));
            println!("| {} | {} | {} |", case.name, view.name, row.join(" | "));
        }
    }
    Ok(())
}

// === On sockets ===

/// The columns: requests/s, per cent to the slow endpoint, P50, P95 and P99 in milliseconds.
type Figures = [f64; 5];

/// An endpoint, and how many requests have reached it.
struct Backend {
    address: SocketAddr,
    takes: Duration,
    slots: Semaphore,
    reached: AtomicU64,
}

/// Prints the rows of one kind of slow endpoint.
fn compare(name: &str, slow: Pace) -> anyhow::Result<()> {
    let backends = start_backends([FAST, FAST, FAST, slow])?;
    let directory = TempDir::new()?;
    let apps = POLICIES.map(|policy| start_proxy(policy, &backends, &directory));
    let apps: Vec<_> = apps.into_iter().collect::<Result<_, _>>()?;
    let clients = runtime()?;
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for place in 0..POLICIES.len() {
            let turn = (round + place) % POLICIES.len();
            rounds[turn].push(clients.block_on(load(apps[turn].addresses[0], &backends))?);
        }
    }
    for (policy, rounds) in POLICIES.iter().zip(&rounds) {
        let row = columns(rounds).map(|column| format!("{:.1}", median(&column)));
        println!("| {name} | {policy} | {} |", row.join(" | "));
    }
    let [least_request, round_robin] = rounds;
    let ratios: Vec<Figures> = std::iter::zip(least_request, round_robin)
        .map(|(base, other)| std::array::from_fn(|column| other[column] / base[column]))
        .collect();
    let row = columns(&ratios).map(|column| {
        let (lowest, highest) = (column[0], column[column.len() - 1]);
        format!("{:.2} ({lowest:.2}–{highest:.2})", median(&column))
    });
    println!("| {name} | round_robin : least_request | {} |", row.join(" | "));
    for app in apps {
        clients.block_on(app.drain());
    }
    Ok(())
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Starts endpoints on a thread that ends with the process.
fn start_backends(paces: [Pace; ENDPOINTS]) -> anyhow::Result<Vec<Arc<Backend>>> {
    let runtime = runtime()?;
    let mut backends = Vec::new();
    for Pace { takes, at_once } in paces {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let (address, slots) = (listener.local_addr()?, Semaphore::new(at_once));
        let backend = Arc::new(Backend { address, takes, slots, reached: AtomicU64::new(0) });
        runtime.spawn(serve(listener, backend.clone()));
        backends.push(backend);
    }
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(backends)
}

fn start_proxy(
    policy: &str,
    backends: &[Arc<Backend>],
    directory: &TempDir,
) -> anyhow::Result<App> {
    let endpoints: Vec<_> = backends.iter().map(|b| format!("\"http://{}\"", b.address)).collect();
    let (endpoints, first) = (endpoints.join(", "), &endpoints[0]);
    let text = format!(
        "async_weight = 0.0\nstate_dir = \"state-{policy}\"\n\
         [listen]\naddress = \"127.0.0.1:0\"\nworkers = {WORKERS}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [legacy]\nendpoints = [{endpoints}]\nbalance = \"{policy}\"\n\
         [async]\nendpoints = [{first}]\nmin_idle = 0\n"
    );
    let file = directory.path().join(format!("{policy}.toml"));
    std::fs::write(&file, text)?;
    App::start(Config::load(&file)?, file)
}

async fn serve(listener: TcpListener, backend: Arc<Backend>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, backend.clone()));
    }
}

async fn answer(mut stream: TcpStream, backend: Arc<Backend>) -> anyhow::Result<()> {
    let mut head = Vec::new();
    loop {
        read_head(&mut stream, &mut head).await?;
        backend.reached.fetch_add(1, Ordering::Relaxed);
        let slot = backend.slots.acquire().await;
        sleep(backend.takes).await;
        drop(slot);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    }
}

/// Reads a head. No message here has a body, and nobody sends one before the reply to the last.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> anyhow::Result<()> {
    head.clear();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(stream.read_buf(head).await? > 0, "the peer closes the connection");
    }
    Ok(())
}

/// One round of all connections.
async fn load(proxy: SocketAddr, backends: &[Arc<Backend>]) -> anyhow::Result<Figures> {
    let from = Instant::now() + WARM_UP;
    let until = from + MEASURED;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(client(proxy, from, until));
    }
    let reached =
        || -> Vec<_> { backends.iter().map(|b| b.reached.load(Ordering::Relaxed)).collect() };
    sleep_until(from).await;
    let before = reached();
    sleep_until(until).await;
    let counts: Vec<_> =
        reached().iter().zip(before).map(|(after, before)| after - before).collect();
    let mut latencies = Vec::new();
    for of_client in clients.join_all().await {
        latencies.extend(of_client?);
    }
    latencies.sort_unstable();
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| percentile(&latencies, share));
    let slow = 100.0 * counts[SLOW] as f64 / counts.iter().sum::<u64>() as f64;
    Ok([latencies.len() as f64 / MEASURED.as_secs_f64(), slow, p50, p95, p99])
}

/// Latencies of one connection's requests whose replies came between `from` and `until`.
async fn client(proxy: SocketAddr, from: Instant, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(proxy).await?;
    let (mut head, mut latencies) = (Vec::new(), Vec::new());
    loop {
        let began = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await?;
        read_head(&mut stream, &mut head).await?;
        anyhow::ensure!(head.starts_with(b"HTTP/1.1 200 "), "a reply that is no 200");
        let now = Instant::now();
        if now >= until {
            return Ok(latencies);
        }
        if now >= from {
            latencies.push(now - began);
        }
    }
}

/// The rounds' figures by column, each sorted.
fn columns(rounds: &[Figures]) -> [Vec<f64>; 5] {
    std::array::from_fn(|column| {
        let mut values: Vec<_> = rounds.iter().map(|figures| figures[column]).collect();
        values.sort_by(f64::total_cmp);
        values
    })
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// In milliseconds.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}

// === Simulated ===

/// Endpoints and what is asked of them.
struct Case {
    name: &'static str,
    paces: [Pace; ENDPOINTS],
    per_second: f64,
}

const CASES: [Case; 4] = [
    Case { name: "one of 40 ms, 1,000/s", paces: [FAST, FAST, FAST, LATE], per_second: 1_000.0 },
    Case { name: "one of 40 ms, 10,000/s", paces: [FAST, FAST, FAST, LATE], per_second: 10_000.0 },
    // Three quarters of what the slow one takes, if each takes a quarter.
    Case { name: "one limited, 300/s", paces: [FAST, FAST, FAST, LIMITED], per_second: 300.0 },
    Case { name: "even, 90 % busy", paces: [pace(10, 4); ENDPOINTS], per_second: 1_440.0 },
];

/// What a worker goes by.
struct View {
    name: &'static str,
    balance: Balance,
    is_shared: bool,
}

const VIEWS: [View; 3] = [
    View { name: "own counts", balance: Balance::LeastRequest, is_shared: false },
    View { name: "shared counts", balance: Balance::LeastRequest, is_shared: true },
    View { name: "round robin", balance: Balance::RoundRobin, is_shared: false },
];

/// Requests in flight on average, per cent to the slow endpoint, P95 and P99 in milliseconds.
fn simulate(case: &Case, view: &View, workers: usize, seed: u64) -> [f64; 4] {
    const UP: Candidate =
        Candidate { health: Health::Up, is_ejected: false, weight: 1.0, priority: 0 };
    let seeds = Ids::new(seed);
    let (arrivals, draws) = (Ids::new(seeds.draw()), Ids::new(seeds.draw()));
    let mut rosters: Vec<_> =
        (0..workers).map(|_| Roster::new(&[UP; ENDPOINTS], 0.25, &Roster::default())).collect();
    let mut own = vec![[0_usize; ENDPOINTS]; workers];
    let mut ends: BinaryHeap<Reverse<(Duration, usize, usize)>> = BinaryHeap::new();
    // When each slot that was ever taken is free again.
    let mut slots: [BinaryHeap<Reverse<Duration>>; ENDPOINTS] = Default::default();
    let (mut now, mut to_slow, mut latencies) = (Duration::ZERO, 0, Vec::new());
    for _ in 0..REQUESTS_SIMULATED {
        now += exponential(Duration::from_secs_f64(1.0 / case.per_second), &arrivals);
        let worker = arrivals.draw() as usize % workers;
        while let Some(&Reverse((end, worker, index))) = ends.peek()
            && end <= now
        {
            own[worker][index] -= 1;
            ends.pop();
        }
        let seen = if view.is_shared { 0..workers } else { worker..worker + 1 };
        let load = |index: usize| own[seen.clone()].iter().map(|counts| counts[index]).sum();
        let index = rosters[worker]
            .pick(view.balance, draws.draw(), &Tried::default(), load)
            .expect("all of them are up");
        let Pace { takes, at_once } = case.paces[index];
        let free = if slots[index].len() < at_once { None } else { slots[index].pop() };
        let end = free.map_or(now, |Reverse(free)| free.max(now)) + exponential(takes, &arrivals);
        slots[index].push(Reverse(end));
        own[worker][index] += 1;
        ends.push(Reverse((end, worker, index)));
        to_slow += u32::from(index == SLOW);
        latencies.push(end - now);
    }
    latencies.sort_unstable();
    let slow = 100.0 * f64::from(to_slow) / f64::from(REQUESTS_SIMULATED);
    let in_flight = latencies.iter().sum::<Duration>().div_duration_f64(now);
    [in_flight, slow, percentile(&latencies, 0.95), percentile(&latencies, 0.99)]
}

/// A span from the exponential distribution around `mean`.
fn exponential(mean: Duration, ids: &Ids) -> Duration {
    // Over zero, so that its logarithm is finite.
    let uniform = (ids.draw() >> 11) as f64 + 1.0;
    mean.mul_f64(-(uniform / (1_u64 << 53) as f64).ln())
}
