//! Whole exchanges over HTTP/2, by the h2 crate, for tests that wait for replies and no frame.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// A connection, which goes on only while an exchange is waited for.
pub(crate) struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

/// What is sent behind a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A body that came whole, and its trailers.
pub(crate) type Whole = Response<Content>;

/// A body, and the trailers behind it.
pub(crate) type Content = (Vec<u8>, Option<HeaderMap>);

impl Http2 {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            let (sender, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { runtime, sender }
    }

    /// Sends a request and reads its reply, at the same time.
    pub(crate) fn exchange(
        &mut self,
        head: Request<()>,
        payload: Payload,
    ) -> Result<Whole, h2::Error> {
        let Self { runtime, sender } = self;
        runtime.block_on(async {
            let is_whole = payload.body.is_empty() && payload.trailers.is_none();
            let mut ready = sender.clone().ready().await?;
            let (replied, stream) = ready.send_request(head, is_whole)?;
            let sending = async {
                if !is_whole {
                    send(stream, payload).await;
                }
            };
            let receiving = async {
                let (head, body) = replied.await?.into_parts();
                Ok(Response::from_parts(head, receive(body).await?))
            };
            tokio::join!(sending, receiving).1
        })
    }
}

/// Sends a body as its windows open; a peer may want no more of it.
pub(crate) async fn send(mut stream: SendStream<Bytes>, payload: Payload) {
    let Payload { body, trailers } = payload;
    let mut body = Bytes::from(body);
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(room)) = granted else {
            return;
        };
        let piece = body.split_to(room.min(body.len()));
        let is_last = body.is_empty() && trailers.is_none();
        if stream.send_data(piece, is_last).is_err() {
            return;
        }
    }
    if let Some(trailers) = trailers {
        // As above.
        let _ = stream.send_trailers(trailers);
    }
}

pub(crate) async fn receive(mut stream: RecvStream) -> Result<Content, h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok((body, stream.trailers().await?))
}
