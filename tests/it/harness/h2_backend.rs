//! A backend that speaks HTTP/2 by prior knowledge, answers as told, and keeps what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::block_on;
use crate::harness::h2_client::{Content, Payload, receive, send};

/// The backend; its thread ends with the process.
#[derive(Debug)]
pub(crate) struct Http2Backend {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    got: Mutex<Vec<Request<Content>>>,
    answers: Mutex<VecDeque<(Response<()>, Payload)>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Http2Backend {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::<State>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(socket, shared.clone()));
                }
            });
        });
        Self { address, state }
    }

    /// The next request gets this; without, 200 and nothing else.
    pub(crate) fn will_answer(&self, head: Response<()>, payload: Payload) {
        lock(&self.state.answers).push_back((head, payload));
    }

    /// All requests since the last call that came whole.
    pub(crate) fn take_got(&self) -> Vec<Request<Content>> {
        std::mem::take(&mut lock(&self.state.got))
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, state.clone()));
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<State>,
) -> Option<()> {
    let (head, body) = request.into_parts();
    let content = receive(body).await.ok()?;
    lock(&state.got).push(Request::from_parts(head, content));
    let (head, payload) = lock(&state.answers).pop_front().unwrap_or_default();
    let is_whole = payload.body.is_empty() && payload.trailers.is_none();
    let stream = respond.send_response(head, is_whole).ok()?;
    if !is_whole {
        send(stream, payload).await;
    }
    Some(())
}
