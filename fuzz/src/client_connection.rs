//! Any bytes as a client's connection: the proxy and the backend see no request that a strict reader
//! does not, nobody hangs, and nothing leaks.
//!
//! The bytes are HTTP/1, or HTTP/2 if they begin with its preface. Behind a first byte of
//! [`FRAMES`] they are a list of frames, put together here.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::http1::{End, Manner, Message, reply, request};
use crate::http2::{FRAMES, PREFACE, Said, composed};
use crate::peers::{Ended, Peer};
use crate::sound_backend::{ECHO, SoundBackend};
use crate::stage::Stage;

/// Fields that the proxy adds, makes anew or changes. All others must be the client's, as they were.
const OWN: [&str; 15] = [
    "connection",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "max-forwards",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// How long a reply on an HTTP/2 stream is waited for before the connection is ended.
const STREAM_WAIT: Duration = Duration::from_millis(30);

struct Scene {
    stage: Stage,
    backend: SoundBackend,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let backend = SoundBackend::start();
        let stage = Stage::start(backend.address, backend.address, "");
        Scene { stage, backend }
    })
}

/// Plays `data` as a client's connection.
pub fn check(data: &[u8]) {
    let scene = scene();
    let (mut client, address) = Peer::client(scene.stage.address);
    let built;
    let (input, frames) = match data.split_first() {
        Some((&FRAMES, list)) => {
            built = composed(list, PREFACE);
            (&built[..], Some(list))
        }
        Some(_) | None => (data, None),
    };
    let sent = client.send_pieces(input);
    if let Some(frames_sent) = sent.strip_prefix(PREFACE) {
        let said = Said::of(frames_sent);
        await_streams(&mut client, &said);
        end(scene, &mut client);
        drop(client);
        scene.stage.settle();
        check_streams(&said, frames, &scene.backend.take_got(address));
    } else {
        let ended = end(scene, &mut client);
        let got = std::mem::take(&mut client.got);
        drop(client);
        scene.stage.settle();
        check_messages(&sent, (&got, ended), &scene.backend.take_got(address), address);
    }
}

/// Says that no more will come, and waits for the end.
fn end(scene: &Scene, client: &mut Peer) -> Ended {
    client.finish();
    client.wait_at_most(Some(crate::stage::PATIENCE));
    let ended = client.fill_up();
    assert!(ended != Ended::Open, "{} hangs: {client:?}", scene.stage.address);
    ended
}

// === HTTP/1 ===

/// All requests that the bytes can be read as; the last of them may be no whole one.
fn asked(mut bytes: &[u8]) -> Vec<Message> {
    let mut asked = Vec::new();
    while !bytes.is_empty() {
        let message = request(bytes, Manner::Lenient);
        bytes = &bytes[message.length..];
        let is_last = message.end != End::Whole || message.has_token("connection", "close");
        asked.push(message);
        if is_last {
            break;
        }
    }
    asked
}

fn check_messages(sent: &[u8], got: (&[u8], Ended), backend: &[Message], address: Ipv4Addr) {
    let asked = asked(sent);
    let mut rest = asked.iter();
    for request in backend {
        let known = rest.any(|asked| is_same(asked, request));
        assert!(known, "{address} never asked for {request:?}, but for {asked:?}");
    }
    let echoes = check_replies(&asked, got);
    assert!(echoes <= backend.len(), "{echoes} replies to {} requests", backend.len());
}

/// Whether what the backend got is what was asked for.
fn is_same(asked: &Message, got: &Message) -> bool {
    let is_own = |name: &str| OWN.contains(&name);
    let fields = got.fields.iter().filter(|(name, _)| !is_own(name));
    asked.has_head
        && asked.end == End::Whole
        && asked.method() == got.method()
        && is_same_target(asked.target(), got.target())
        && asked.body == got.body
        && { fields }.all(|field| asked.fields.contains(field))
}

/// An absolute target loses its authority, any its fragment; nothing else may change.
fn is_same_target(asked: &[u8], got: &[u8]) -> bool {
    let end = asked.iter().position(|byte| *byte == b'#').unwrap_or(asked.len());
    let asked = &asked[..end];
    let tail = got.strip_prefix(b"/").unwrap_or(got);
    asked == got || (!asked.starts_with(b"/") && asked.ends_with(tail))
}

/// The replies are sound, each to its request; how many of them are the backend's.
fn check_replies(asked: &[Message], (mut bytes, ended): (&[u8], Ended)) -> usize {
    let mut echoes = 0;
    let mut open = asked.iter();
    let mut current = open.next();
    while !bytes.is_empty() {
        let Some(request) = current else {
            panic!("a reply to nothing: {:?} for {asked:?}", String::from_utf8_lossy(bytes));
        };
        let reply = reply(bytes, request.method(), Manner::Strict, ended == Ended::Closed);
        match reply.end {
            End::Whole => {}
            // What was on its way is lost with a reset.
            End::Open if ended == Ended::Reset => break,
            End::Open | End::Broken(_) => {
                panic!("an unsound reply: {:?}: {reply:?}", String::from_utf8_lossy(bytes))
            }
        }
        let is_refusal = reply.all("proxy-status") == [b"cutover; error=http_request_error"];
        if is_refusal && request.method() == b"HEAD" {
            // What is refused before it was seen to be a HEAD gets a body, and the connection ends.
            break;
        }
        bytes = &bytes[reply.length..];
        match reply.status() {
            101 => break,
            100..=199 => continue,
            _ => current = open.next(),
        }
        if let [echo] = reply.all(ECHO)[..] {
            echoes += 1;
            let is_own = is_same_target(request.target(), echo);
            assert!(is_own, "the reply to another request: {reply:?} to {request:?}");
        }
    }
    echoes
}

// === HTTP/2 ===

/// Waits until each stream has ended that the client opened, for a moment.
fn await_streams(client: &mut Peer, said: &Said) {
    client.wait_at_most(Some(STREAM_WAIT));
    while !said.opened.is_subset(&Said::of(&client.got).ended) {
        if client.fill().is_err() {
            break;
        }
    }
}

fn check_streams(said: &Said, frames: Option<&[u8]>, backend: &[Message]) {
    let streams = said.opened.len();
    assert!(backend.len() <= streams, "{} requests of {streams} streams", backend.len());
    for request in backend {
        let empty = request.body.is_empty();
        let known = empty || said.bodies.values().any(|body| *body == request.body);
        assert!(known, "a body that nobody sent: {request:?}");
        if let Some(list) = frames {
            // What is not in the text was never a field.
            let target = request.target();
            let target = target.strip_prefix(b"/").unwrap_or(target);
            let known = target.is_empty() || list.windows(target.len()).any(|part| part == target);
            assert!(known, "a target that nobody sent: {request:?}");
        }
    }
}
