//! A backend that answers by itself, as told, and keeps what it got.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::harness::eventually;
use crate::harness::raw::{Message, Raw};

/// What is sent when nothing else was asked for.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// Whether the connection is closed behind it.
    pub(crate) close: bool,
}

/// The backend; its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    got: Mutex<Vec<Message>>,
    answers: Mutex<VecDeque<Answer>>,
    connections: Mutex<usize>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scripted {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let accepting = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = accepting.clone();
                *lock(&state.connections) += 1;
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// The next request gets `bytes`; behind them the connection is kept, or closed.
    pub(crate) fn will_answer(&self, bytes: impl Into<Vec<u8>>, close: bool) {
        let bytes = bytes.into();
        lock(&self.state.answers).push_back(Answer { bytes, close });
    }

    /// All requests since the last call, also those that broke off.
    pub(crate) fn take_got(&self) -> Vec<Message> {
        std::mem::take(&mut lock(&self.state.got))
    }

    /// The one request since the last call.
    pub(crate) fn one(&self) -> Message {
        eventually!(!lock(&self.state.got).is_empty(), "no request reached the backend");
        let mut got = self.take_got();
        assert_eq!(got.len(), 1, "{got:?}");
        got.remove(0)
    }

    /// Connections that ever came.
    pub(crate) fn connections(&self) -> usize {
        *lock(&self.state.connections)
    }
}

fn serve(stream: TcpStream, state: &State) {
    let mut proxy = Raw::over(stream);
    // An idle connection of a pool may wait for long: its end is the proxy's.
    proxy.stream.set_read_timeout(None).unwrap();
    loop {
        let request = proxy.request();
        if request.raw.is_empty() {
            return;
        }
        let complete = request.complete;
        lock(&state.got).push(request);
        if !complete {
            return;
        }
        let answer = lock(&state.answers).pop_front();
        let answer = answer.unwrap_or_else(|| Answer { bytes: OK.into(), close: false });
        if !proxy.send(&answer.bytes) || answer.close {
            return;
        }
    }
}
