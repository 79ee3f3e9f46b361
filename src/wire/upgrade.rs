//! A tunnel: after `101 Switching Protocols` bytes go both ways until both sides are done.
//!
//! What either HTTP parser had already read beyond its message comes first (RFC 9110 section 7.8).
//! Each direction ends with its own half-close. The drain holds tunnels with a deadline of its own.

use std::cell::Cell;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

/// The size of a copy buffer, one for each direction.
const BUFFER: usize = 16 * 1024;

/// One end of a tunnel: the socket, and the bytes that were read from it already.
#[derive(Debug)]
pub struct TunnelEnd<S> {
    /// The socket.
    pub io: S,
    /// Read ahead.
    pub early: Bytes,
}

/// What has passed through a tunnel so far.
#[derive(Debug, Default)]
pub struct Flow {
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Flow {
    /// The bytes that went from the client, and to it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.get(), self.received.get())
    }
}

/// Copies both ways until both directions have ended, or one breaks.
pub async fn tunnel<C, U>(client: TunnelEnd<C>, upstream: TunnelEnd<U>, flow: &Flow)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = split(client.io);
    let (upstream_read, upstream_write) = split(upstream.io);
    // A broken direction breaks the tunnel: `try_join` drops the other.
    let _ = tokio::try_join!(
        copy(client.early, client_read, upstream_write, &flow.sent),
        copy(upstream.early, upstream_read, client_write, &flow.received),
    );
}

async fn copy<R: AsyncRead, W: AsyncWrite>(
    early: Bytes,
    mut from: ReadHalf<R>,
    mut to: WriteHalf<W>,
    copied: &Cell<u64>,
) -> io::Result<()> {
    to.write_all(&early).await?;
    copied.set(early.len() as u64);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        copied.set(copied.get() + read as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_bytes_come_first_and_each_half_closes_alone() {
        let (mut client, client_end) = tokio::io::duplex(64);
        let (mut backend, backend_end) = tokio::io::duplex(64);
        let ends = (
            TunnelEnd { io: client_end, early: Bytes::from_static(b"early ") },
            TunnelEnd { io: backend_end, early: Bytes::from_static(b"hello ") },
        );
        let talk = async {
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = String::new();
            backend.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "early late");
            backend.write_all(b"world").await.unwrap();
            backend.shutdown().await.unwrap();
            let mut got = String::new();
            client.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "hello world");
        };
        let flow = Flow::default();
        tokio::join!(tunnel(ends.0, ends.1, &flow), talk);
        assert_eq!(flow.bytes(), (10, 11));
    }
}
