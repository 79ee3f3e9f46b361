//! A raw HTTP/1.1 client: what it sends is what the test wrote, what it reads is kept as it came.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// For each read: a test that hangs fails instead.
const READ_MAX: Duration = Duration::from_secs(15);

/// One connection to the proxy.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// How a reply's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As its framing said.
    Whole,
    /// By the connection's end, where its framing said that more would come.
    Cut,
    /// By the connection's end, as a reply without framing does.
    Close,
}

/// One reply.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Without its chunk framing.
    pub(crate) body: Vec<u8>,
    pub(crate) ended: Ended,
}

impl Response {
    /// The first field called `name`.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The first field called `name` of a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the proxy accepts connections")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, READ_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_MAX))?;
        stream.set_write_timeout(Some(READ_MAX))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy takes what is sent");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a GET for `target`; `fields` are whole lines, each with its `\r\n`.
    pub(crate) fn ask(&mut self, target: &str, fields: &str) {
        self.send(get(target, fields));
    }

    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.get_with(target, "")
    }

    /// A GET with further fields; whole lines, each with its `\r\n`.
    pub(crate) fn get_with(&mut self, target: &str, fields: &str) -> Response {
        self.ask(target, fields);
        self.response()
    }

    /// The next reply; panics if there is none.
    pub(crate) fn response(&mut self) -> Response {
        self.try_response().expect("a reply")
    }

    /// The next reply. An error is a connection that ended before a whole head had come.
    pub(crate) fn try_response(&mut self) -> io::Result<Response> {
        let head = self.head()?;
        self.body_of(head)
    }

    /// Status and head of the next reply, its body still to come.
    pub(crate) fn head(&mut self) -> io::Result<(u16, String)> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.take(end + 4);
                let head = String::from_utf8_lossy(&head).into_owned();
                let status = head.get(9..12).and_then(|code| code.parse().ok());
                return Ok((status.ok_or(io::ErrorKind::InvalidData)?, head));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The body that follows a head.
    pub(crate) fn body_of(&mut self, (status, head): (u16, String)) -> io::Result<Response> {
        let chunked = header(&head, "transfer-encoding").is_some();
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let (body, ended) = match (chunked, length) {
            _ if matches!(status, 100..=199 | 204 | 304) => (Vec::new(), Ended::Whole),
            (true, _) => self.chunks()?,
            (false, Some(length)) => self.exactly(length)?,
            (false, None) => (self.rest()?, Ended::Close),
        };
        Ok(Response { status, head, body, ended })
    }

    /// All that still comes, until the connection ends (also by a reset).
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the proxy has closed, or closes within the time limit of a read, without a byte.
    pub(crate) fn is_closed_silently(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.fill(), Ok(0))
    }

    /// Exactly `length` bytes that come next, as they are.
    pub(crate) fn exactly(&mut self, length: usize) -> io::Result<(Vec<u8>, Ended)> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Ok((std::mem::take(&mut self.buffer), Ended::Cut));
            }
        }
        Ok((self.take(length), Ended::Whole))
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Closes with a reset instead of a handshake.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket can be told not to linger");
    }

    fn chunks(&mut self) -> io::Result<(Vec<u8>, Ended)> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line()? else {
                return Ok((body, Ended::Cut));
            };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                // Trailers, up to an empty line.
                loop {
                    match self.line()? {
                        Some(line) if line.is_empty() => return Ok((body, Ended::Whole)),
                        Some(_) => {}
                        None => return Ok((body, Ended::Cut)),
                    }
                }
            }
            let (chunk, ended) = self.exactly(size)?;
            body.extend(chunk);
            if ended == Ended::Cut || self.line()?.is_none() {
                return Ok((body, Ended::Cut));
            }
        }
    }

    /// The next line without its end; `None` at the connection's end.
    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2);
                let line = &line[..end];
                return Ok(Some(String::from_utf8_lossy(line).into_owned()));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads once more; 0 is the connection's end, a reset too.
    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// The bytes of a GET; `fields` are whole lines, each with its `\r\n`.
pub(crate) fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

/// Where `pattern` first occurs.
pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
