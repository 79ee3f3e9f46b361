//! Any bytes as a backend's reply: the client gets what a strict reader reads of them, or is told that
//! there is nothing to be had; and never the reply to another request.
//!
//! The first byte chooses the request and the reply's end; [`FRAMES`] stands for a list of HTTP/2
//! frames that are put together here, as for a client's connection.

use std::sync::OnceLock;

use crate::http1::{End, Manner, Message, reply};
use crate::http2::{FRAMES, Said, composed};
use crate::peers::{CUT, Ended, Peer};
use crate::scripted_backend::{After, Script, ScriptedBackend};
use crate::stage::Stage;

/// Fields of a reply that the proxy adds, makes anew or takes away.
const OWN: [&str; 6] =
    ["connection", "content-length", "date", "proxy-status", "transfer-encoding", "x-request-id"];

const REQUESTS: [&str; 4] = [
    "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "GET /x HTTP/1.0\r\nHost: a\r\n\r\n",
];

struct Scene {
    stage: Stage,
    backend: ScriptedBackend,
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let backend = ScriptedBackend::start();
        let tail = "protocol = \"http2\"\n\
                    [[route]]\nname = \"h2\"\nmatch = \"* /h2\"\npin = \"async\"\n\
                    [retry]\nbudget = 1.0\n";
        let stage = Stage::start(backend.http1, backend.http2, tail);
        Scene { stage, backend }
    })
}

/// Answers a request with `data`.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((&FRAMES, list)) => check_http2(scene(), list),
        Some((choice, bytes)) => check_http1(scene(), *choice, bytes),
        None => {}
    }
    scene().stage.settle();
}

// === HTTP/1 ===

fn check_http1(scene: &Scene, choice: u8, script: &[u8]) {
    let aborts = scene.stage.aborts();
    let request = REQUESTS[usize::from(choice & 3)];
    let method = request.split(' ').next().unwrap_or_default().as_bytes();
    let bytes: Vec<u8> = script.iter().copied().filter(|byte| *byte != CUT).collect();
    let (hints, expected) = read(&bytes, method, Manner::Lenient, choice & 12 != 8);
    // Who waits for more than there is would take the proxy's whole patience.
    let after = match (choice & 12, expected.end) {
        (8, _) => After::Reset,
        (0, End::Whole) if !expected.until_close => After::Next,
        _ => After::Close,
    };
    // What comes a moment behind a whole reply could be that to the next request, for all that the proxy
    // can know.
    let is_whole = expected.end == End::Whole && !expected.until_close;
    let script = if is_whole { up_to(script, expected.length) } else { script };
    scene.backend.will_answer(Script { bytes: script.to_vec(), after });
    let mut client = Peer::client(scene.stage.address).0;
    client.send(request.as_bytes());
    let (seen, got, ended) = await_reply(&mut client, method);
    assert!(seen <= hints, "{seen} hints of {hints}: {client:?}");
    assert_came(scene, &got, ended);
    let is_next = check_reply(&got, &expected, (script, method));
    // A retry is for what may be sent again and had no reply.
    assert!(!is_next || (!expected.has_head && method != b"POST"), "the reply of another: {got:?}");
    let goes_on = got.end == End::Whole
        && !got.until_close
        && !got.has_token("connection", "close")
        && !request.contains("HTTP/1.0");
    let first = format!("{got:?}, then the same connection: {goes_on}");
    let mut client = if goes_on {
        client.got.drain(..);
        client
    } else {
        leave(client);
        Peer::client(scene.stage.address).0
    };
    client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let (_, got, ended) = await_reply(&mut client, b"GET");
    let shown = String::from_utf8_lossy(script);
    let told = scene.stage.told();
    assert!(is_next_reply(&got), "{got:?} {ended:?} after {first} for {shown:?}; {told}");
    client.got.drain(..got.length);
    leave(client);
    scene.stage.settle();
    assert_eq!(
        scene.stage.aborts(),
        aborts,
        "a client is blamed that waited to the end: {shown:?}"
    );
}

/// The pieces of `script` up to that which holds the end of its first `length` bytes.
fn up_to(script: &[u8], length: usize) -> &[u8] {
    let mut left = length;
    for (at, byte) in script.iter().enumerate() {
        match (*byte == CUT, left) {
            (true, 0) => return &script[..at],
            (true, _) => {}
            (false, _) => left = left.saturating_sub(1),
        }
    }
    script
}

/// The request came to the backend, and a reply to the client.
fn assert_came(scene: &Scene, got: &Message, ended: Option<Ended>) {
    let told = || scene.stage.told();
    assert!(!scene.backend.take_back(), "without the backend: {got:?} {ended:?} {}", told());
    let came = got.has_head || ended == Some(Ended::Reset);
    assert!(came, "no reply: {got:?} {ended:?} {}", told());
}

/// The number of interim replies, and the final one, whose length is that of all of them.
fn read(bytes: &[u8], method: &[u8], manner: Manner, closed: bool) -> (usize, Message) {
    let (mut hints, mut start) = (0, 0);
    loop {
        let mut message = reply(&bytes[start..], method, manner, closed);
        let is_hint = matches!(message.status(), 100 | 102..=199) && message.end == End::Whole;
        start += message.length;
        if !is_hint {
            message.length = start;
            return (hints, message);
        }
        hints += 1;
    }
}

/// Reads up to the final reply; nothing may be behind it.
fn await_reply(client: &mut Peer, method: &[u8]) -> (usize, Message, Option<Ended>) {
    let mut ended = None;
    loop {
        let closed = ended == Some(Ended::Closed);
        let (hints, message) = read(&client.got, method, Manner::Strict, closed);
        let open = message.end == End::Open;
        if !open || ended.is_some() {
            if let End::Broken(rule) = message.end {
                panic!("the client got what breaks a rule: {rule}: {client:?}");
            }
            if !open && !message.until_close {
                assert_eq!(client.got.len(), message.length, "two replies: {client:?}");
            }
            return (hints, message, ended);
        }
        ended = client.fill().err();
        assert!(ended != Some(Ended::Open), "the client waits: {client:?}");
    }
}

/// Whether a sound reply is that of the backend to another request.
fn check_reply(got: &Message, expected: &Message, about: (&[u8], &[u8])) -> bool {
    let about = format!("{:?} to {:?}", String::from_utf8_lossy(about.0), about.1);
    // To HTTP/1.0 the end of a body of unknown length is the connection's, be it cut or not.
    let is_unclear = got.until_close && expected.end != End::Whole && expected.has_head;
    if got.end != End::Whole || is_unclear {
        let is_start = expected.body.starts_with(&got.body);
        assert!(is_start, "{:?} is no part of {:?} in {about}", got.body, expected.body);
        return false;
    }
    if is_next_reply(got) && !is_next_reply(expected) {
        return true;
    }
    let is_own = got.all("proxy-status").iter().any(|value| value.starts_with(b"cutover;"));
    if is_own && matches!(got.status(), 502 | 504) {
        return false;
    }
    assert_eq!(expected.end, End::Whole, "passed for whole: {got:?} for {about}");
    assert_eq!(got.status(), expected.status(), "for {about}");
    assert_eq!(got.body, expected.body, "for {about}");
    for field in got.fields.iter().filter(|(name, _)| !OWN.contains(&&name[..])) {
        assert!(expected.fields.contains(field), "{field:?} out of nowhere for {about}");
    }
    false
}

fn is_next_reply(reply: &Message) -> bool {
    reply.end == End::Whole
        && reply.status() == 200
        && reply.all("x-fuzz") == [b"next"]
        && matches!(&reply.body[..], b"next" | b"")
}

/// Ends a connection that nothing more may come on.
fn leave(mut client: Peer) {
    client.finish();
    let before = client.got.len();
    let ended = client.fill_up();
    assert!(ended != Ended::Open, "hangs: {client:?}");
    assert_eq!(client.got.len(), before, "something came unasked: {client:?}");
}

// === HTTP/2 ===

fn check_http2(scene: &Scene, list: &[u8]) {
    // A connection that still ends would take the next request with it.
    scene.backend.await_rest();
    let bytes: Vec<u8> = composed(list, b"").into_iter().filter(|byte| *byte != CUT).collect();
    let said = Said::of(&bytes);
    scene.backend.will_answer(Script { bytes: list.to_vec(), after: After::Close });
    let mut client = Peer::client(scene.stage.address).0;
    client.send(b"GET /h2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (_, got, ended) = await_reply(&mut client, b"GET");
    assert_came(scene, &got, ended);
    let body = said.bodies.get(&1).map_or(&b""[..], Vec::as_slice);
    let is_own = got.all("proxy-status").iter().any(|value| value.starts_with(b"cutover;"));
    if got.end != End::Whole {
        assert!(body.starts_with(&got.body), "{:?} is no part of {body:?}", got.body);
    } else if !(is_next_reply(&got) || (is_own && matches!(got.status(), 502 | 504))) {
        // Whatever follows, there is no body to these, and no more of one than was announced.
        let is_announced = got.all("content-length") == [got.body.len().to_string().as_bytes()];
        let is_bodiless = matches!(got.status(), 204 | 304);
        let is_finished = said.finished.contains(&1) || is_bodiless || is_announced;
        assert!(is_finished, "passed for whole: {got:?}");
        assert!(body.starts_with(&got.body), "{:?} is not {body:?}", got.body);
        let status = got.status().to_string();
        let has = list.windows(status.len()).any(|part| part == status.as_bytes());
        assert!(
            has || list.iter().any(|byte| byte & 0x80 != 0),
            "{status} out of nowhere: {got:?}"
        );
    }
    client.got.drain(..);
    leave(client);
}
