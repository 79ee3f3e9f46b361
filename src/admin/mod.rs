//! The admin listener: liveness, readiness, metrics, status, the dashboard, and the changes that it defends.
//!
//! On its own socket and on the control plane, never counted in a drain, serving until exit.
//! Private by default: loopback, or a unix socket that only its owner can open. A page in a
//! browser on the same host must not be able to use it, so the Host of a private listener must be
//! local, and changes are POSTs of JSON without a foreign origin, with the token where one is set.

mod dashboard;
mod diffs;
pub mod guard;
mod judgement;
pub mod office;
mod orders;
mod report;
pub mod status;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::admin::dashboard::Dashboard;
use crate::admin::office::{Answer, Office, document, json, not_allowed, problem, reply, text};
use crate::admin::orders::Order;
use crate::config::Admin;
use crate::config::values::AdminAddress;
use crate::handover::{Label, Role};
use crate::metrics::openmetrics;
use crate::sockets::{Labelled, Stock};
use crate::vocab::Side;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// For a whole request head, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For reading a body and answering.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave unread what it asked for: a viewer of the dashboard asks for no end.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body of a request.
const BODY_MAX: usize = 64 * 1024;
/// For the first request of a connection that has just come as a successor takes over.
const FRESH_GRACE: Duration = Duration::from_secs(1);
/// How long accepting pauses after a failure.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A bound admin listener.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens, with the port that was chosen.
    pub address: AdminAddress,
    // As in the config.
    configured: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Its socket once more, to be handed on.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn copy(&self) -> io::Result<Labelled> {
        let socket = match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        };
        let socket = socket.try_clone_to_owned()?;
        let (configured, bound) = (self.configured.clone(), self.address.to_string());
        Ok(Labelled {
            label: Label { role: Role::Admin, configured, bound, is_kept: false },
            socket,
        })
    }
}

/// Binds the admin listener, or takes the socket in `stock` that is for its address.
///
/// # Errors
/// When the address is taken, or the token file can't be used.
pub fn bind(admin: &Admin, stock: &mut Stock) -> anyhow::Result<Listener> {
    if let Some(file) = &admin.token_file {
        guard::read_token(file)?;
    }
    let configured = admin.address.to_string();
    let (address, socket) = match (&admin.address, stock.admin(&configured)) {
        (AdminAddress::Tcp(_), Some(given)) => {
            let socket = std::net::TcpListener::from(given);
            socket.set_nonblocking(true)?;
            (AdminAddress::Tcp(socket.local_addr()?), Socket::Tcp(socket))
        }
        (AdminAddress::Unix(path), Some(given)) => {
            // systemd's default mode is 0666.
            let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode());
            if mode & 0o002 != 0 && admin.token_file.is_none() {
                bail!(
                    "everybody may open {}: give it SocketMode=0600, or set admin.token_file",
                    path.display()
                );
            }
            let socket = std::os::unix::net::UnixListener::from(given);
            socket.set_nonblocking(true)?;
            (admin.address.clone(), Socket::Unix(socket))
        }
        (address, None) => bind_anew(address)?,
    };
    Ok(Listener { address, configured, socket })
}

fn bind_anew(address: &AdminAddress) -> anyhow::Result<(AdminAddress, Socket)> {
    let cannot = || format!("can't bind the admin listener to {address}");
    match address {
        AdminAddress::Tcp(address) => {
            let socket = std::net::TcpListener::bind(address).with_context(cannot)?;
            socket.set_nonblocking(true)?;
            Ok((AdminAddress::Tcp(socket.local_addr()?), Socket::Tcp(socket)))
        }
        AdminAddress::Unix(path) => {
            let socket = bind_unix(path).with_context(cannot)?;
            Ok((address.clone(), Socket::Unix(socket)))
        }
    }
}

/// The socket gets its mode before it gets its name, so nobody else can open it in between.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
    }
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let socket = std::os::unix::net::UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves until it is dropped, or a successor does.
pub async fn serve(listener: Listener, office: Office) {
    let desk = Desk { office, dashboard: Arc::default() };
    tokio::select! {
        error = accept(listener.socket, &desk) => {
            tracing::error!(%error, "the admin listener can't serve");
        }
        () = desk.dashboard.run(&desk.office) => {}
        // Those who watch ask again, and get the successor's events.
        _ = desk.office.relief.wait() => desk.dashboard.end(),
    }
    std::future::pending::<()>().await;
}

/// What a request is answered from.
#[derive(Clone)]
struct Desk {
    office: Office,
    dashboard: Arc<Dashboard>,
}

/// Accepts for as long as the socket can; why it can't.
async fn accept(socket: Socket, desk: &Desk) -> io::Error {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    match socket {
        Socket::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(socket) => loop {
                let accepted = socket.accept().await.map(|(io, _)| io);
                let accepted = accepted.inspect(|io| {
                    // Without it such a peer is kept for a quarter of an hour.
                    let _ = SockRef::from(io).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
                });
                serve_next(accepted, &permits, desk).await;
            },
            Err(error) => error,
        },
        Socket::Unix(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => loop {
                serve_next(socket.accept().await.map(|(io, _)| io), &permits, desk).await;
            },
            Err(error) => error,
        },
    }
}

async fn serve_next<S>(accepted: io::Result<S>, permits: &Arc<Semaphore>, desk: &Desk)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(io) = accepted else {
        tokio::time::sleep(BACK_OFF).await;
        return;
    };
    let Ok(permit) = permits.clone().acquire_owned().await else {
        return;
    };
    let desk = desk.clone();
    #[expect(clippy::disallowed_methods, reason = "ends with the control plane's runtime")]
    tokio::spawn(async move {
        let has_asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_asked.store(true, Ordering::Relaxed);
            let desk = desk.clone();
            async move { Ok::<_, std::convert::Infallible>(answer(&desk, request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            // A client that breaks its own connection has nobody else to tell.
            _ = &mut connection => {}
            _ = desk.office.relief.wait() => {
                // The next question is the successor's, but the first one may be on its way: hyper closes a
                // connection that has asked nothing at once (hyper#3792).
                let is_over = !has_asked.load(Ordering::Relaxed)
                    && timeout(FRESH_GRACE, &mut connection).await.is_ok();
                if !is_over {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }
        drop(permit);
    });
}

async fn answer(desk: &Desk, request: Request<Incoming>) -> Answer {
    let (office, (head, body)) = (&desk.office, request.into_parts());
    if let Err(refused) = guard::check(office, &head) {
        return *refused;
    }
    let path = head.uri.path();
    match (&head.method, Order::at(path)) {
        (&Method::GET | &Method::HEAD, _) => show(desk, &head),
        (&Method::POST, Some(order)) => {
            // A body that is broken, late or too large is nobody's command.
            match timeout(ANSWER_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
                Ok(Ok(body)) => orders::carry_out(office, order, &body.to_bytes()).await,
                Ok(Err(_)) | Err(_) => problem(StatusCode::BAD_REQUEST, "The body can't be read."),
            }
        }
        (_, Some(_)) if SHOWN.contains(&path) => not_allowed("GET, HEAD, POST"),
        (_, Some(_)) => not_allowed("POST"),
        (_, None) if SHOWN.contains(&path) => not_allowed("GET, HEAD"),
        (_, None) => problem(StatusCode::NOT_FOUND, "There is nothing here."),
    }
}

/// What can be read. Paths are matched exactly, never by prefix.
const SHOWN: [&str; 17] = [
    dashboard::PAGES[0],
    dashboard::PAGES[1],
    dashboard::PAGES[2],
    dashboard::EVENTS,
    "/livez",
    "/readyz",
    "/metrics",
    "/api/v1/status",
    "/api/v1/config",
    "/api/v1/decisions",
    "/api/v1/diffs",
    "/api/v1/audit-log",
    "/api/v1/baseline",
    "/api/v1/ticks",
    "/api/v1/report",
    "/api/v1/paths/legacy/drain",
    "/api/v1/paths/async/drain",
];

fn metrics(office: &Office, headers: &HeaderMap) -> Answer {
    // RFC 9110 section 5.3: several lines are one list.
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if openmetrics::is_wanted(&lines.collect::<Vec<_>>().join(",")) {
        let page = office.metrics.render_openmetrics();
        return reply(StatusCode::OK, openmetrics::FORMAT, page);
    }
    match office.metrics.render() {
        Ok(page) => reply(StatusCode::OK, prometheus::TEXT_FORMAT, page),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn show(desk: &Desk, head: &Parts) -> Answer {
    let (office, path) = (&desk.office, head.uri.path());
    match path {
        // Each viewer has one of a few places: those are not for pages of other sites.
        dashboard::EVENTS if !guard::is_same_origin(&head.headers) => guard::foreign(),
        dashboard::EVENTS if office.relief.successor().is_some() => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "A new process has taken over: ask it.")
        }
        dashboard::EVENTS => desk.dashboard.watch(),
        path if dashboard::PAGES.contains(&path) => desk.dashboard.page(office, path),
        "/metrics" => metrics(office, &head.headers),
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match office.readiness() {
            Ok(phase) => text(StatusCode::OK, format!("{phase}\n")),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/api/v1/status" => json(&status::status(office)),
        "/api/v1/config" => json(&status::config(office)),
        "/api/v1/decisions" => json(&judgement::decisions(office)),
        "/api/v1/diffs" => document(&diffs::diffs(office)),
        "/api/v1/audit-log" => json(&judgement::changes(office)),
        "/api/v1/baseline" => json(&judgement::baseline(office)),
        "/api/v1/ticks" => json(&judgement::ticks(office, head.uri.query().unwrap_or(""))),
        "/api/v1/report" => json(&report::report(office)),
        "/api/v1/paths/legacy/drain" => json(&office.guard.live().drains.status(Side::Legacy)),
        "/api/v1/paths/async/drain" => json(&office.guard.live().drains.status(Side::Async)),
        _ if Order::at(path).is_some() => not_allowed("POST"),
        _ => problem(StatusCode::NOT_FOUND, "There is nothing here."),
    }
}
