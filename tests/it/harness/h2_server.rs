//! Scripted HTTP/2 backends: a closure says what each stream gets, and what each stream brought is kept.
//!
//! One thread serves all of a backend's connections, over the h2 crate. A script that panics fails the
//! test when the backend is dropped.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, request};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::backend::lock;
use super::h2_play::{Actor, Play};

/// The head of a stream, as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    /// Of an extended CONNECT.
    pub(crate) protocol: String,
    pub(crate) fields: Vec<(String, String)>,
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
}

/// How a stream ended, as far as its backend knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    #[default]
    Open,
    /// All that was scripted was done.
    Played,
    /// The proxy took it back.
    Reset(Reason),
    /// Its connection broke.
    Gone,
}

/// A stream: its request, and what became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streamed {
    pub(crate) asked: Asked,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) fate: Fate,
}

/// What a backend lets its peers do.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// Streams of one connection.
    pub(crate) streams: Option<u32>,
    /// Bytes of a request body that may be on their way.
    pub(crate) window: Option<u32>,
    /// Whether an extended CONNECT is announced.
    pub(crate) connects: bool,
    /// TLS with this.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// What is done to open connections.
#[derive(Clone, Copy, Debug)]
enum Command {
    /// Announces the end; what is open is finished.
    GoAway,
    /// Reads and writes nothing any more.
    Freeze,
    /// Ends with a reset.
    Kill,
}

/// A backend that listens until it is dropped.
pub(crate) struct H2Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
pub(super) struct Shared {
    stop: Notify,
    stopped: AtomicBool,
    accepted: AtomicUsize,
    streams: Mutex<Vec<Streamed>>,
    connections: Mutex<HashMap<usize, UnboundedSender<Command>>>,
    faults: Mutex<Vec<String>>,
}

type Script = Arc<dyn Fn(&Asked) -> Play + Send + Sync>;

impl H2Backend {
    /// Plain, with the limits that the h2 crate has by itself.
    pub(crate) fn start(script: impl Fn(&Asked) -> Play + Send + Sync + 'static) -> Self {
        Self::with(Terms::default(), script)
    }

    /// Answers each with 200 and `body`.
    pub(crate) fn ok(body: &'static str) -> Self {
        Self::start(move |_| Play::ok(body))
    }

    pub(crate) fn with(
        terms: Terms,
        script: impl Fn(&Asked) -> Play + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (serving, script): (_, Script) = (shared.clone(), Arc::new(script));
        std::thread::spawn(move || {
            super::block_on(async {
                tokio::select! {
                    () = accept(listener, terms, &serving, script) => {}
                    () = serving.stop.notified() => {}
                }
            });
        });
        Self { address, shared }
    }

    /// How many streams came.
    pub(crate) fn hits(&self) -> usize {
        lock(&self.shared.streams).len()
    }

    /// All streams that came, in the order of their coming.
    pub(crate) fn streams(&self) -> Vec<Streamed> {
        lock(&self.shared.streams).clone()
    }

    /// The stream that came last.
    pub(crate) fn last(&self) -> Streamed {
        lock(&self.shared.streams).last().cloned().expect("a stream")
    }

    /// How many streams ended so.
    pub(crate) fn fates(&self, fate: Fate) -> usize {
        lock(&self.shared.streams).iter().filter(|stream| stream.fate == fate).count()
    }

    /// How many connections ever came.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Announces the end of all open connections.
    pub(crate) fn go_away(&self) {
        self.command(Command::GoAway);
    }

    /// Leaves all open connections open, and silent.
    pub(crate) fn freeze(&self) {
        self.command(Command::Freeze);
    }

    /// Ends all open connections with a reset, as a killed process does.
    pub(crate) fn kill_connections(&self) {
        self.command(Command::Kill);
    }

    fn command(&self, command: Command) {
        for connection in lock(&self.shared.connections).values() {
            // One that has ended needs no more telling.
            let _ = connection.send(command);
        }
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.stop.notify_one();
        let faults = std::mem::take(&mut *lock(&self.shared.faults));
        if !std::thread::panicking() {
            assert!(faults.is_empty(), "at the HTTP/2 backend: {faults:#?}");
        }
    }
}

impl Shared {
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Changes what is known of a stream.
    pub(super) fn note(&self, stream: usize, change: impl FnOnce(&mut Streamed)) {
        change(&mut lock(&self.streams)[stream]);
    }

    fn begin(&self, asked: Asked) -> usize {
        let mut streams = lock(&self.streams);
        streams.push(Streamed { asked, ..Streamed::default() });
        streams.len() - 1
    }
}

impl Asked {
    fn of(head: &request::Parts, connection: usize) -> Self {
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        let fields = super::h2_play::pairs(&head.headers);
        Self {
            method: head.method.to_string(),
            target: text(head.uri.path_and_query().map(http::uri::PathAndQuery::as_str)),
            scheme: text(head.uri.scheme_str()),
            authority: text(head.uri.authority().map(http::uri::Authority::as_str)),
            protocol: text(head.extensions.get::<Protocol>().map(Protocol::as_str)),
            fields,
            connection,
        }
    }

    /// The first field called `name`.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

async fn accept(listener: TcpListener, terms: Terms, shared: &Arc<Shared>, script: Script) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            return;
        };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let (sender, commands) = unbounded_channel();
        lock(&shared.connections).insert(number, sender);
        let (shared, script, terms) = (shared.clone(), script.clone(), terms.clone());
        tokio::spawn(async move {
            let end = Connection { number, shared: shared.clone(), script };
            end.shake_hands(socket, &terms, commands).await;
            lock(&shared.connections).remove(&number);
        });
    }
}

struct Connection {
    number: usize,
    shared: Arc<Shared>,
    script: Script,
}

impl Connection {
    async fn shake_hands(
        self,
        socket: TcpStream,
        terms: &Terms,
        commands: UnboundedReceiver<Command>,
    ) {
        let _ = socket.set_nodelay(true);
        let handle = SockRef::from(&socket).try_clone().unwrap();
        let was_killed = match &terms.tls {
            None => self.serve(socket, terms, commands).await,
            Some(tls) => match TlsAcceptor::from(tls.clone()).accept(socket).await {
                Ok(stream) => self.serve(stream, terms, commands).await,
                Err(_) => false,
            },
        };
        if was_killed {
            // Its other handle is closed by now: dropping this one resets.
            let _ = handle.set_linger(Some(Duration::ZERO));
        }
    }

    /// Whether it was killed.
    async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
        self,
        io: T,
        terms: &Terms,
        mut commands: UnboundedReceiver<Command>,
    ) -> bool {
        let mut builder = server::Builder::new();
        terms.streams.map(|streams| builder.max_concurrent_streams(streams));
        terms.window.map(|window| builder.initial_window_size(window));
        if terms.connects {
            builder.enable_connect_protocol();
        }
        let Ok(mut http) = builder.handshake::<_, Bytes>(io).await else {
            return false;
        };
        let mut is_frozen = false;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::GoAway) => http.graceful_shutdown(),
                    Some(Command::Freeze) => is_frozen = true,
                    Some(Command::Kill) | None => return true,
                },
                accepted = http.accept(), if !is_frozen => match accepted {
                    Some(Ok((request, respond))) => self.begin(request, respond),
                    Some(Err(_)) | None => return false,
                },
            }
        }
    }

    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        let asked = Asked::of(&head, self.number);
        let Ok(play) = catch_unwind(AssertUnwindSafe(|| (self.script)(&asked))) else {
            lock(&self.shared.faults).push(format!("its script panicked at {asked:?}"));
            return;
        };
        let stream = self.shared.begin(asked);
        let actor = Actor::new(respond, body, (self.shared.clone(), stream));
        tokio::spawn(actor.play(play));
    }
}
