//! The demo's async backend: the legacy backend's contract, served by tokio and hyper on one thread.
//!
//! It owns the successor's server. The database driver has not been rewritten, as in a real migration it would not be, so
//! each order goes over a `Bridge` to the same blocking call that the legacy backend makes; when the bridge is full, the
//! client is told to come back (503) and the runtime's one thread never waits.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::demo::bridge::{self, Bridge};
use crate::demo::legacy::{BODY_BYTES_MAX, LINGER_BYTES_MAX, fetch_order, order_id};

const BRIDGE_THREADS: usize = 10;
const BRIDGE_DEPTH: usize = 100;
/// Bounds the wait for a request head, the silence between requests included; as long as the legacy backend's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the requests in flight may take once the backend is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept, which mostly means that there is no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running async backend, on a thread of its own. Dropped, it ends in the background; `stop` waits for that.
#[derive(Debug)]
pub struct Async {
    address: SocketAddr,
    bridge: Arc<Bridge>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Starts the backend on `address`, with a thread for its runtime and ten for its bridge.
///
/// # Errors
/// When the system refuses the socket or a thread.
pub fn start(address: SocketAddr) -> io::Result<Async> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let bridge = Arc::new(Bridge::new(BRIDGE_THREADS, BRIDGE_DEPTH)?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(listener, Arc::clone(&bridge), stopped);
    let run = move || runtime.block_on(server);
    let thread = thread::Builder::new().name("async".to_owned()).spawn(run)?;
    Ok(Async { address, bridge, stop, thread })
}

/// Serves `listener` until `stop` completes; then closes it, lets the requests in flight finish (for ten seconds at most)
/// and returns.
pub async fn serve(listener: TcpListener, bridge: Arc<Bridge>, stop: impl Future) {
    let (serving, drain) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, Arc::clone(&bridge), drain.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop((listener, serving));
    let finished = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut off, as the set is dropped.
    let _ = timeout(STOP_TIMEOUT, finished).await;
}

// === impl Async ===

impl Async {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bridge to its blocking calls.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Stops accepting, answers the requests in flight and waits for the threads. Blocks: not for async code.
    pub fn stop(self) {
        // The server may be gone already.
        let _ = self.stop.send(());
        // An error is a panic of that thread, which the panic hook has reported.
        let _ = self.thread.join();
        if let Some(bridge) = Arc::into_inner(self.bridge) {
            bridge.stop();
        }
    }
}

/// Serves one connection until it ends, or, once `drain` is closed, until it is idle.
async fn connection(socket: TcpStream, bridge: Arc<Bridge>, mut drain: watch::Receiver<()>) {
    // Without it replies are late, not wrong.
    let _ = socket.set_nodelay(true);
    let answers = service_fn(move |request| answer(request, Arc::clone(&bridge)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), answers);
    let mut connection = pin!(connection);
    // An error of a connection is its client's business: it closed, or broke the protocol.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = drain.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(
    mut request: Request<Incoming>,
    bridge: Arc<Bridge>,
) -> hyper::Result<Response<Full<Bytes>>> {
    if discard(request.body_mut()).await? > BODY_BYTES_MAX {
        let body = json!({ "error": "refused" });
        return Ok(reply(StatusCode::PAYLOAD_TOO_LARGE, &body));
    }
    let readable = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/" if readable => {
            reply(StatusCode::OK, &json!({ "backend": "async", "runs_on": "tokio" }))
        }
        "/healthz" if readable => reply(StatusCode::OK, &json!({ "status": "ok" })),
        path => match order_id(path).filter(|_| readable) {
            Some(id) => order(id.to_owned(), &bridge).await,
            None => reply(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
        },
    })
}

async fn order(id: String, bridge: &Bridge) -> Response<Full<Bytes>> {
    match bridge.run(move || fetch_order(&id)).await {
        Ok(order) => reply(StatusCode::OK, &order),
        Err(bridge::Full) => {
            let body = json!({ "error": "too many orders wait" });
            let mut reply = reply(StatusCode::SERVICE_UNAVAILABLE, &body);
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            reply
        }
    }
}

/// Reads a body to its end and returns its size; what is over the linger limit stays unread.
async fn discard(body: &mut Incoming) -> hyper::Result<u64> {
    let mut bytes = body.size_hint().lower();
    if bytes > LINGER_BYTES_MAX {
        return Ok(bytes);
    }
    bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > LINGER_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-backend", HeaderValue::from_static("async"));
    reply
}

#[cfg(test)]
mod tests {
    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    use std::io::{Read, Write};
    use std::sync::mpsc;

    use super::*;
    use crate::demo::legacy;

    /// The status and the body of the reply to a request that asks for the connection's end.
    fn exchange(address: SocketAddr, request_line: &str, body: &[u8]) -> (String, String) {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = format!(
            "{request_line} HTTP/1.1\r\nHost: demo\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn both_backends_keep_the_same_contract() {
        let (legacy, successor) = (legacy::start(ANY, 2).unwrap(), start(ANY).unwrap());
        let large = vec![0; 1024 * 1024 + 1];
        for (request_line, body, status) in [
            ("GET /healthz", &b""[..], "200"),
            ("GET /orders/42?full=1", b"", "200"),
            ("HEAD /orders/42", b"", "200"),
            ("GET /orders/", b"", "404"),
            ("GET /orders/1/2", b"", "404"),
            ("POST /orders/1", b"new", "404"),
            ("GET /orders/1", &large[1..], "200"),
            ("GET /orders/1", &large, "413"),
        ] {
            let expected = exchange(legacy.address(), request_line, body);
            assert_eq!(expected.0, status, "{request_line}");
            assert_eq!(exchange(successor.address(), request_line, body), expected);
        }
        assert!(exchange(legacy.address(), "GET /", b"").1.contains(r#""backend":"legacy""#));
        assert!(exchange(successor.address(), "GET /", b"").1.contains(r#""backend":"async""#));
        legacy.stop();
        successor.stop();
    }

    #[tokio::test]
    async fn a_full_bridge_is_answered_with_retry_after() {
        let bridge = Bridge::new(1, 0).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let held = bridge.run(move || gate.recv());
        let refused = async {
            let reply = order("1".to_owned(), &bridge).await;
            drop(open);
            reply
        };
        let (_, reply) = tokio::join!(biased; held, refused);
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn stop_answers_what_is_in_flight() {
        let successor = start(ANY).unwrap();
        let mut stream = std::net::TcpStream::connect(successor.address()).unwrap();
        stream.write_all(b"GET /orders/7 HTTP/1.1\r\nHost: demo\r\n\r\n").unwrap();
        while successor.bridge().wait().count == 0 {
            thread::yield_now();
        }
        successor.stop();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    }
}
