//! Messages that can be sent in either version of HTTP, and compared in whichever they arrived.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};

use crate::harness::eventually;
use crate::harness::h2_backend::Http2Backend;
use crate::harness::h2_client::{Content, Http2, Payload};
use crate::harness::raw::{Message, Raw, wire};
use crate::harness::raw_backend::Scripted;

/// Fields that only HTTP/1 has (RFC 9113 section 8.2.2).
pub(crate) const OF_CONNECTIONS: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// How a message says where its body ends, in HTTP/1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It has none.
    Bodiless,
    Length,
    Chunked,
    /// By the end of its connection.
    Close,
}

/// A message as its sender has it. Of a line `GET /x` or `200`.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) line: &'static str,
    /// `|` between them.
    pub(crate) fields: &'static str,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: &'static str,
}

/// A message as its receiver has it, in any version. Names are in lower case and sorted, equal ones
/// in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) is_whole: bool,
}

impl Sent {
    /// As HTTP/1.1, behind `start`.
    fn bytes(&self, start: &str) -> Vec<u8> {
        let fields = if self.fields.is_empty() { "" } else { "|" };
        let framing = match self.framing {
            Framing::Bodiless | Framing::Close => String::new(),
            Framing::Length => format!("|Content-Length: {}", self.body.len()),
            Framing::Chunked => "|Transfer-Encoding: chunked".to_owned(),
        };
        let head = wire(&format!("{start}{fields}{}{framing}||", self.fields));
        if self.framing != Framing::Chunked {
            return [head, self.body.clone()].concat();
        }
        let chunk = match self.body.len() {
            0 => Vec::new(),
            length => [format!("{length:x}\r\n").as_bytes(), &self.body, b"\r\n"].concat(),
        };
        let end = if self.trailers.is_empty() { "0||" } else { &format!("0|{}||", self.trailers) };
        [head, chunk, wire(end)].concat()
    }

    /// Its fields as HTTP/2 can have them.
    fn fields(&self) -> HeaderMap {
        let mut fields = map(self.fields);
        OF_CONNECTIONS.iter().for_each(|name| drop(fields.remove(*name)));
        if self.framing == Framing::Length {
            fields.insert("content-length", self.body.len().into());
        }
        fields
    }

    fn payload(&self) -> Payload {
        let trailers = (!self.trailers.is_empty()).then(|| map(self.trailers));
        Payload { body: self.body.clone(), trailers }
    }
}

fn map(fields: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields.split('|').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(':').unwrap();
        let value = HeaderValue::from_bytes(&wire(value.trim_start_matches(' '))).unwrap();
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    map
}

fn sorted(mut fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields
}

fn of_lines(lines: &[String]) -> Vec<(String, String)> {
    let field = |line: &String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim_matches(' ').to_owned())
    };
    sorted(lines.iter().map(field).collect())
}

fn of_map(map: &HeaderMap) -> Vec<(String, String)> {
    let text =
        |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    sorted(map.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

fn of_message(message: &Message, line: &str) -> Received {
    Received {
        line: line.to_owned(),
        fields: of_lines(&message.fields),
        body: message.body.clone(),
        trailers: of_lines(&message.trailers),
        is_whole: message.complete,
    }
}

fn of_content(line: String, fields: &HeaderMap, (body, trailers): Content) -> Received {
    let trailers = trailers.as_ref().map(of_map).unwrap_or_default();
    Received { line, fields: of_map(fields), body, trailers, is_whole: true }
}

/// A backend in one of the versions.
pub(crate) enum Origin {
    Http1(Scripted),
    Http2(Http2Backend),
}

impl Origin {
    pub(crate) fn expect(&self, reply: &Sent) {
        match self {
            Self::Http1(backend) => {
                let bytes = reply.bytes(&format!("HTTP/1.1 {} Reason", reply.line));
                backend.will_answer(bytes, reply.framing == Framing::Close);
            }
            Self::Http2(backend) => {
                let mut head = Response::new(());
                *head.status_mut() = reply.line.parse().unwrap();
                *head.headers_mut() = reply.fields();
                backend.will_answer(head, reply.payload());
            }
        }
    }

    pub(crate) fn got(&self) -> Received {
        match self {
            Self::Http1(backend) => {
                let got = backend.one();
                of_message(&got, got.line.strip_suffix(" HTTP/1.1").unwrap())
            }
            Self::Http2(backend) => {
                let mut got = Vec::new();
                eventually!({
                    got.extend(backend.take_got());
                    !got.is_empty()
                });
                assert_eq!(got.len(), 1, "{got:?}");
                let (mut head, content) = got.remove(0).into_parts();
                let authority = head.uri.authority().map(|authority| authority.as_str());
                head.headers.insert("host", authority.unwrap_or_default().parse().unwrap());
                let path = head.uri.path_and_query().unwrap();
                of_content(format!("{} {path}", head.method), &head.headers, content)
            }
        }
    }
}

pub(crate) fn over_http1(address: SocketAddr, request: &Sent) -> Received {
    let mut client = Raw::connect(address);
    client.send(request.bytes(&format!("{} HTTP/1.1|Host: a", request.line)));
    let is_head = request.line.starts_with("HEAD");
    let mut next = || if is_head { client.head_reply() } else { client.reply() };
    let mut reply = next();
    if reply.status() == 100 {
        reply = next();
    }
    of_message(&reply, &reply.status().to_string())
}

pub(crate) fn over_http2(address: SocketAddr, request: &Sent) -> Received {
    let (method, path) = request.line.split_once(' ').unwrap();
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *head.uri_mut() = format!("http://a{path}").parse().unwrap();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = request.fields();
    let reply = Http2::connect(address).exchange(head, request.payload()).unwrap();
    let (head, content) = reply.into_parts();
    of_content(head.status.as_u16().to_string(), &head.headers, content)
}
