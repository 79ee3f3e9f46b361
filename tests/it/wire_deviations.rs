//! What the proxy is known to do otherwise than a row would have it, and why it is left so for now.
//!
//! Each is seen here as it is: where one goes away its test fails, and a row takes its place.

use crate::harness::Setup;
use crate::harness::raw::{Message, Raw, wire};
use crate::harness::raw_backend::Scripted;

/// A deviation: the section (or threat), what is sent and what is answered to it, what is seen of it,
/// and the reason.
struct Deviation {
    section: &'static str,
    send: &'static str,
    answer: &'static str,
    /// Whether it is still there.
    holds: fn(&Seen) -> bool,
    reason: &'static str,
}

/// What came of an exchange.
struct Seen {
    got: Vec<Message>,
    reply: Message,
}

const OK: &str = "HTTP/1.1 200 OK|Content-Length: 2||ok";
const GET: &str = "GET /x HTTP/1.1|Host: a||";

const DEVIATIONS: &[Deviation] = &[
    Deviation {
        section: "9110 8.6",
        send: "POST /x HTTP/1.1|Host: a|Content-Length: 18446744073709551615||",
        answer: OK,
        holds: |seen| seen.got.is_empty() && seen.reply.status() == 431,
        reason: "a refusal, but for the wrong reason: hyper says of the two largest lengths, and of heads, \
                 no more than that they are too large. It should be 413",
    },
    Deviation {
        section: "9112 3.2.4",
        send: "OPTIONS http://b HTTP/1.1|Host: a||",
        answer: OK,
        holds: |seen| seen.line() == "OPTIONS / HTTP/1.1",
        reason: "`OPTIONS *` would be right for an absolute form without a path; http's Uri makes that a / \
                 before anyone can look",
    },
    Deviation {
        section: "9112 7.1",
        send: "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked||5 \t|hello|0||",
        answer: OK,
        holds: |seen| seen.got.len() == 1 && seen.got[0].body == b"hello",
        reason: "hyper takes spaces behind a chunk's size where no extension follows; the body goes on in \
                 chunks of the proxy's own, so no backend can read it in another way",
    },
    Deviation {
        section: "9112 7.1.1",
        send: "POST /x HTTP/1.1|Host: a|Transfer-Encoding: chunked||5;\0\x07\u{ff}|hello|0||",
        answer: OK,
        holds: |seen| seen.got.len() == 1 && seen.got[0].body == b"hello",
        reason: "hyper does not look into extensions, which end here",
    },
    Deviation {
        section: "9110 15.4.5",
        send: GET,
        answer: "HTTP/1.1 304 Not Modified|Content-Length: 5|ETag: \"e\"||",
        holds: |seen| seen.reply.status() == 304 && seen.reply.field("content-length").is_none(),
        reason: "hyper's server leaves the length out of a 304, where it is optional",
    },
];

impl Seen {
    /// The line of the one request that the backend got.
    fn line(&self) -> &str {
        assert_eq!(self.got.len(), 1, "{:?}", self.got);
        &self.got[0].line
    }
}

fn see(deviation: &Deviation) -> Seen {
    let backend = Scripted::start();
    let setup = Setup::new(backend.address, backend.address).workers(1);
    let proxy = setup.legacy("min_idle = 0").async_("min_idle = 0").start();
    backend.will_answer(wire(deviation.answer), false);
    let reply = Raw::connect(proxy.address).ask(wire(deviation.send));
    proxy.settle();
    Seen { got: backend.take_got(), reply }
}

#[test]
fn each_known_deviation_is_still_one() {
    let mut gone = Vec::new();
    for deviation in DEVIATIONS {
        let seen = see(deviation);
        if !(deviation.holds)(&seen) {
            let Deviation { section, send, reason, .. } = deviation;
            let (got, reply) = (&seen.got, &seen.reply);
            gone.push(format!("{section} {send:?} ({reason}) is gone: {got:?} {reply:?}"));
        }
    }
    assert!(gone.is_empty(), "make them rows:\n{}", gone.join("\n"));
}
