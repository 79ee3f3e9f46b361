"""The cases of h2spec's section `http2`, by its numbers; see h2_cases.py."""

from h2_cases import COMPRESSION, PONG, REPLIED, connection, finished, stream
from h2_wire import *

PROTOCOL = connection("PROTOCOL_ERROR")
STREAM_PROTOCOL = stream("PROTOCOL_ERROR")
FRAME_SIZE = connection("FRAME_SIZE_ERROR")
FLOW_CONTROL = connection("FLOW_CONTROL_ERROR")
CLOSED = stream("STREAM_CLOSED")
# A frame on a closed stream (RFC 9113 section 5.1): of either kind, as the endpoint remembers it.
CLOSED_OR_PROTOCOL = stream("STREAM_CLOSED", "PROTOCOL_ERROR")
DUMMY = [("x-dummy", "dummy")]
MAX_FRAME_SIZE = 16_384
WINDOW_MAX = (1 << 31) - 1


def opened(c, *frames, fields=POST):
    """A stream that is open both ways, and frames behind it."""
    c.send(c.request(fields, flags=END_HEADERS) + b"".join(frames))


def half_closed(c, *frames):
    """A stream that waits for its reply, and frames behind it."""
    slow = [(":path", "/sleep?ms=300") if name == ":path" else (name, value) for name, value in GET]
    c.send(c.request(slow) + b"".join(frames))


def unended(c, *frames, fields=GET, flags=END_STREAM):
    """A head that goes on, and frames in its midst."""
    c.send(c.request(fields, flags=flags) + b"".join(frames))


def malformed(number, what, fields):
    return number, what, lambda c: c.send(c.request(fields)), STREAM_PROTOCOL


def sends(number, what, octets, allowed):
    return number, what, lambda c: c.send(octets), allowed


def large_head(c):
    c.send(c.request(GET + [("x-large", "\x7f~" * MAX_FRAME_SIZE)]))


def too_many(c):
    limit = c.peer_settings[MAX_STREAMS]
    c.send(settings((INITIAL_WINDOW, 0)))
    for number in range(limit + 1):
        c.send(c.request(stream=2 * number + 1))


def with_window(c, size):
    c.send(settings((INITIAL_WINDOW, size)))
    c.expect("SETTINGS ACK")
    c.expect("SETTINGS ACK")
    c.send(c.request())


def later_window(c):
    with_window(c, 0)
    c.expect("reply 200")
    c.send(settings((INITIAL_WINDOW, 1)))


def negative_window(c):
    with_window(c, 3)
    c.expect("DATA 3")
    c.send(settings((INITIAL_WINDOW, 2)))
    c.expect("SETTINGS ACK")
    c.send(window(1, 2))


FRAMING = [
    ("http2/3.5/1", "preface", lambda c: None, PONG),
    # Its connection does without the preface.
    sends("http2/3.5/2", "no preface", b"INVALID CONNECTION PREFACE\r\n\r\n", ("closed", "reset")),
    sends("http2/4.1/1", "unknown type", frame(0x16, payload=bytes(8)), PONG),
    sends("http2/4.1/2", "unknown flags", ping(b"flags 16", flags=0x16), ("pong flags 16",)),
    sends("http2/4.1/3", "reserved bit", ping(b"reserved", stream=1 << 31), ("pong reserved",)),
    (
        "http2/4.2/1", "DATA of 2^14 octets",
        lambda c: opened(c, data(payload=bytes(MAX_FRAME_SIZE))), REPLIED,
    ),
    (
        "http2/4.2/2", "DATA over the frame size",
        lambda c: opened(c, data(payload=bytes(MAX_FRAME_SIZE + 1))), stream("FRAME_SIZE_ERROR"),
    ),
    ("http2/4.2/3", "HEADERS over the frame size", large_head, FRAME_SIZE),
    sends("http2/4.3/1", "broken block", frame(HEADERS, WHOLE, 1, b"\x40"), COMPRESSION),
    (
        "http2/4.3/2", "PRIORITY within a head",
        lambda c: unended(c, priority(1), continuation(c.block(DUMMY))), PROTOCOL,
    ),
    (
        "http2/4.3/3", "another stream's HEADERS within a head",
        lambda c: unended(c, c.request(stream=3), continuation(c.block(DUMMY))), PROTOCOL,
    ),
]

STATES = [
    sends("http2/5.1/1", "idle: DATA", data(), PROTOCOL),
    sends("http2/5.1/2", "idle: RST_STREAM", reset(1), PROTOCOL),
    sends("http2/5.1/3", "idle: WINDOW_UPDATE", window(1, 100), PROTOCOL),
    ("http2/5.1/4", "idle: CONTINUATION", lambda c: c.send(continuation(c.block(GET))), PROTOCOL),
    ("http2/5.1/5", "half-closed: DATA", lambda c: half_closed(c, data()), CLOSED),
    (
        "http2/5.1/6", "half-closed: HEADERS",
        lambda c: half_closed(c, c.request()), CLOSED,
    ),
    (
        "http2/5.1/7", "half-closed: CONTINUATION",
        lambda c: half_closed(c, continuation(c.block(GET))), CLOSED_OR_PROTOCOL,
    ),
    ("http2/5.1/8", "reset: DATA", lambda c: opened(c, reset(1), data()), CLOSED),
    ("http2/5.1/9", "reset: HEADERS", lambda c: opened(c, reset(1), c.request()), CLOSED),
    (
        "http2/5.1/10", "reset: CONTINUATION",
        lambda c: opened(c, reset(1), continuation(c.block(DUMMY))), CLOSED_OR_PROTOCOL,
    ),
    ("http2/5.1/11", "closed: DATA", lambda c: (finished(c), c.send(data())), CLOSED),
    ("http2/5.1/12", "closed: HEADERS", lambda c: (finished(c), c.send(c.request())), CLOSED),
    (
        "http2/5.1/13", "closed: CONTINUATION",
        lambda c: (finished(c), c.send(continuation(c.block(DUMMY)))),
        connection("STREAM_CLOSED", "PROTOCOL_ERROR"),
    ),
    ("http2/5.1.1/1", "even stream", lambda c: c.send(c.request(stream=2)), PROTOCOL),
    (
        "http2/5.1.1/2", "smaller stream",
        lambda c: c.send(c.request(stream=5) + c.request(stream=3)), PROTOCOL,
    ),
    (
        "http2/5.1.2/1", "more streams than allowed", too_many,
        stream("REFUSED_STREAM", "PROTOCOL_ERROR"),
    ),
    (
        "http2/5.3.1/1", "HEADERS that depend on themselves",
        lambda c: c.send(
            frame(HEADERS, WHOLE | PRIORITIZED, 1, b"\x00\x00\x00\x01\xff" + c.block(GET))
        ), STREAM_PROTOCOL,
    ),
    sends("http2/5.3.1/2", "PRIORITY that depends on itself", priority(2, 2), STREAM_PROTOCOL),
    sends("http2/5.4.1/1", "PING on a stream: close", ping(stream=3), (*PROTOCOL, "closed")),
    sends("http2/5.4.1/2", "PING on a stream: GOAWAY", ping(stream=3), PROTOCOL),
    sends("http2/5.5/1", "unknown frame", frame(0x16, payload=bytes(8)), PONG),
    (
        "http2/5.5/2", "unknown frame within a head",
        lambda c: unended(c, frame(0x16, payload=bytes(8))), PROTOCOL,
    ),
]

FRAMES = [
    sends("http2/6.1/1", "DATA on stream 0", data(0), PROTOCOL),
    ("http2/6.1/2", "DATA on a half-closed stream", lambda c: half_closed(c, data()), CLOSED),
    (
        "http2/6.1/3", "DATA with too much padding",
        lambda c: opened(c, data(payload=b"\x06test", flags=END_STREAM | PADDED)), PROTOCOL,
    ),
    (
        "http2/6.2/1", "PRIORITY behind half a head",
        lambda c: unended(c, priority(1), continuation(c.block(DUMMY)), flags=0), PROTOCOL,
    ),
    (
        "http2/6.2/2", "another stream's HEADERS behind half a head",
        lambda c: unended(c, c.request(stream=3), continuation(c.block(DUMMY)), flags=0), PROTOCOL,
    ),
    ("http2/6.2/3", "HEADERS on stream 0", lambda c: c.send(c.request(stream=0)), PROTOCOL),
    (
        "http2/6.2/4", "HEADERS with too much padding",
        lambda c: c.send(frame(HEADERS, WHOLE | PADDED, 1, b"\xff" + c.block(GET))),
        STREAM_PROTOCOL,
    ),
    sends("http2/6.3/1", "PRIORITY on stream 0", priority(0), PROTOCOL),
    (
        "http2/6.3/2", "PRIORITY of 4 octets",
        lambda c: half_closed(c, frame(PRIORITY, 0, 1, bytes(4))), stream("FRAME_SIZE_ERROR"),
    ),
    sends("http2/6.4/1", "RST_STREAM on stream 0", reset(0), PROTOCOL),
    sends("http2/6.4/2", "RST_STREAM on an idle stream", reset(1), PROTOCOL),
    (
        "http2/6.4/3", "RST_STREAM of 3 octets",
        lambda c: half_closed(c, frame(RST_STREAM, 0, 1, bytes(3))), FRAME_SIZE,
    ),
    sends("http2/6.5/1", "SETTINGS ACK with content", frame(SETTINGS, ACK, 0, b"\0"), FRAME_SIZE),
    sends("http2/6.5/2", "SETTINGS on a stream", settings((MAX_STREAMS, 9), stream=1), PROTOCOL),
    sends("http2/6.5/3", "SETTINGS of 3 octets", frame(SETTINGS, 0, 0, bytes(3)), FRAME_SIZE),
    sends("http2/6.5.2/1", "ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), PROTOCOL),
    sends("http2/6.5.2/2", "window over 2^31-1", settings((INITIAL_WINDOW, 1 << 31)), FLOW_CONTROL),
    sends("http2/6.5.2/3", "frame size too small", settings((MAX_FRAME, 16_383)), PROTOCOL),
    sends("http2/6.5.2/4", "frame size too large", settings((MAX_FRAME, 1 << 24)), PROTOCOL),
    sends("http2/6.5.2/5", "unknown setting", settings((0xFF, 1)), PONG),
    (
        "http2/6.5.3/1", "one setting twice",
        lambda c: c.send(settings((INITIAL_WINDOW, 100), (INITIAL_WINDOW, 1)) + c.request()),
        ("DATA 1",),
    ),
    (
        "http2/6.5.3/2", "SETTINGS are acknowledged",
        lambda c: (c.expect("SETTINGS ACK"), c.send(settings((ENABLE_PUSH, 0)))), ("SETTINGS ACK",),
    ),
    sends("http2/6.7/1", "PING", ping(b"hello h2"), ("pong hello h2",)),
    sends("http2/6.7/2", "PING ACK", ping(b"no reply", flags=ACK), PONG),
    sends("http2/6.7/3", "PING on a stream", ping(stream=1), PROTOCOL),
    sends("http2/6.7/4", "PING of 6 octets", frame(PING, 0, 0, bytes(6)), FRAME_SIZE),
    sends("http2/6.8/1", "GOAWAY on a stream", goaway(stream=1), PROTOCOL),
    sends("http2/6.9/1", "WINDOW_UPDATE of 0", window(0, 0), PROTOCOL),
    (
        "http2/6.9/2", "WINDOW_UPDATE of 0 on a stream",
        lambda c: opened(c, window(1, 0)), STREAM_PROTOCOL,
    ),
    sends("http2/6.9/3", "WINDOW_UPDATE of 3", frame(WINDOW_UPDATE, 0, 0, b"abc"), FRAME_SIZE),
    ("http2/6.9.1/1", "a window of 1", lambda c: with_window(c, 1), ("DATA 1",)),
    sends("http2/6.9.1/2", "window over 2^31-1", 2 * window(0, WINDOW_MAX), FLOW_CONTROL),
    (
        "http2/6.9.1/3", "a stream's window over 2^31-1",
        lambda c: opened(c, 2 * window(1, WINDOW_MAX)), stream("FLOW_CONTROL_ERROR"),
    ),
    ("http2/6.9.2/1", "the initial window changes later", later_window, ("DATA 1",)),
    ("http2/6.9.2/2", "a window below 0", negative_window, ("DATA 1",)),
    sends(
        "http2/6.9.2/3", "initial window over 2^31-1",
        settings((INITIAL_WINDOW, 1 << 31)), FLOW_CONTROL,
    ),
    (
        "http2/6.10/1", "several CONTINUATION",
        lambda c: unended(
            c, continuation(c.block(DUMMY), flags=0), continuation(c.block(DUMMY))
        ), REPLIED,
    ),
    (
        "http2/6.10/2", "DATA behind a CONTINUATION that goes on",
        lambda c: unended(
            c, continuation(c.block(DUMMY), flags=0), data(), fields=POST, flags=0
        ), PROTOCOL,
    ),
    (
        "http2/6.10/3", "CONTINUATION on stream 0",
        lambda c: unended(c, continuation(c.block(DUMMY), stream=0)), PROTOCOL,
    ),
    (
        "http2/6.10/4", "CONTINUATION behind a whole head",
        lambda c: half_closed(c, continuation(c.block(DUMMY))), PROTOCOL,
    ),
    (
        "http2/6.10/5", "CONTINUATION behind the last one",
        lambda c: unended(c, continuation(c.block(DUMMY)), continuation(c.block(DUMMY))), PROTOCOL,
    ),
    (
        "http2/6.10/6", "CONTINUATION behind DATA",
        lambda c: unended(c, data(), continuation(c.block(DUMMY)), fields=POST, flags=0), PROTOCOL,
    ),
    sends(
        "http2/7/1", "GOAWAY with an unknown code", goaway(code=0xFF),
        (*PONG, "closed", "GOAWAY NO_ERROR"),
    ),
    ("http2/7/2", "RST_STREAM with an unknown code", lambda c: opened(c, reset(1, 0xFF)), PONG),
]


def without(name):
    return [field for field in GET if field[0] != name]


def announced(c, *pieces):
    """One octet is announced."""
    opened(c, *pieces, fields=POST + [("content-length", "1")])


MESSAGES = [
    (
        "http2/8.1/1", "trailers that don't end the stream",
        lambda c: opened(c, data(flags=0), c.request([("x-test", "ok")], flags=END_HEADERS)),
        STREAM_PROTOCOL,
    ),
    malformed("http2/8.1.2/1", "upper case in a name", GET + [("X-TEST", "ok")]),
    malformed("http2/8.1.2.1/1", "unknown pseudo-field", GET + [(":test", "ok")]),
    malformed("http2/8.1.2.1/2", "pseudo-field of responses", GET + [(":status", "200")]),
    (
        "http2/8.1.2.1/3", "pseudo-field in trailers",
        lambda c: opened(c, data(flags=0), c.request([(":method", "POST")], flags=END_HEADERS)),
        STREAM_PROTOCOL,
    ),
    malformed("http2/8.1.2.1/4", "pseudo-field behind others", [("x-test", "ok"), *GET]),
    malformed("http2/8.1.2.2/1", "Connection", GET + [("connection", "keep-alive")]),
    malformed("http2/8.1.2.2/2", "TE other than trailers", GET + [("te", "trailers, deflate")]),
    malformed("http2/8.1.2.3/1", "empty :path", [(n, v if n != ":path" else "") for n, v in GET]),
    malformed("http2/8.1.2.3/2", "no :method", without(":method")),
    malformed("http2/8.1.2.3/3", "no :scheme", without(":scheme")),
    malformed("http2/8.1.2.3/4", "no :path", without(":path")),
    malformed("http2/8.1.2.3/5", "two :method", GET + [(":method", "GET")]),
    malformed("http2/8.1.2.3/6", "two :scheme", GET[:2] + [(":scheme", "http")] + GET[2:]),
    malformed("http2/8.1.2.3/7", "two :path", GET[:3] + [(":path", "/whoami")] + GET[3:]),
    ("http2/8.1.2.6/1", "more than announced", lambda c: announced(c, data()), STREAM_PROTOCOL),
    (
        "http2/8.1.2.6/2", "more than announced, in pieces",
        lambda c: announced(c, data(flags=0), data()), STREAM_PROTOCOL,
    ),
    (
        "http2/8.2/1", "PUSH_PROMISE of a client",
        lambda c: c.send(frame(PUSH_PROMISE, END_HEADERS, 1, bytes(3) + b"\x02" + c.block(GET))),
        PROTOCOL,
    ),
]

# A malformed request may get a reply instead (RFC 9113 section 8.1.1).
REFUSED = (*STREAM_PROTOCOL, "reply 400")


def refused(number, what, fields):
    return number, what, lambda c: c.send(c.request(fields)), REFUSED


# Cases that h2spec has not.
OWN = [
    (
        "own/1", "pseudo-field in trailers that end the stream",
        lambda c: opened(c, data(flags=0), c.request([(":method", "POST")])), REFUSED,
    ),
    refused("own/2", "a line's end in a value", GET + [("x-test", "a\r\nx-more: b")]),
    refused("own/3", "NUL in a value", GET + [("x-test", "a\0b")]),
    refused("own/4", "blanks around a value", GET + [("x-test", " a ")]),
    refused("own/5", "a colon in a name", GET + [("x:test", "a")]),
    refused("own/6", "an empty name", GET + [("", "a")]),
    refused("own/7", "Transfer-Encoding", GET + [("transfer-encoding", "chunked")]),
    refused("own/8", "two lengths", GET + [("content-length", "0"), ("content-length", "1")]),
    refused("own/9", "Host beside another :authority", GET + [("host", "other")]),
    refused("own/10", "a user in :authority", GET[:3] + [(":authority", "user@test")]),
    refused("own/11", "a path without a slash", without(":path") + [(":path", "whoami")]),
    refused("own/12", "a blank in :path", without(":path") + [(":path", "/a b")]),
    refused("own/13", "a blank in :method", [(":method", "GET /"), *GET[1:]]),
    refused("own/14", ":protocol without CONNECT", GET + [(":protocol", "websocket")]),
    refused("own/15", "CONNECT with a path", [(":method", "CONNECT"), *GET[1:]]),
    (
        "own/16", "less than announced",
        lambda c: opened(c, data(), fields=POST + [("content-length", "9")]), REFUSED,
    ),
]

HTTP2 = FRAMING + STATES + FRAMES + MESSAGES
