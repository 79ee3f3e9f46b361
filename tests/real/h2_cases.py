"""The cases of h2spec's sections `generic` and `hpack`, by its numbers: what is sent, and which
reactions RFC 9113 and RFC 7541 allow.

Each is (number, what it is, what sends it, allowed reactions); the sender has a fresh connection.
"""

import itertools

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from h2_wire import *

GREETED = ("SETTINGS",)
REPLIED = ("reply 200", "reply 200 whole")
PONG = ("pong 8 octets",)


def connection(*codes):
    """A connection error: GOAWAY; a close alone is one too, but says nothing."""
    return tuple(f"GOAWAY {code}" for code in codes)


def stream(*codes):
    """A stream error, which may be made one of the connection (RFC 9113 section 5.4.2)."""
    return tuple(f"RST_STREAM {code}" for code in codes) + connection(*codes)


def finished(c):
    """A whole reply on stream 1, so that the stream is closed."""
    c.send(c.request())
    c.expect("end")


def withheld(c):
    """A stream that waits for a window, so that the peer can't end it."""
    c.send(settings((INITIAL_WINDOW, 0)) + c.request())


def padded(c):
    block = c.block(GET)
    c.send(frame(HEADERS, WHOLE | PADDED, 1, b"\x08" + block + bytes(8)))


def prioritized(c):
    c.send(frame(HEADERS, WHOLE | PRIORITIZED, 1, b"\x00\x00\x00\x00\xff" + c.block(GET)))


def split_head(c, parts):
    block = c.block(GET)
    size = len(block) // parts + 1
    pieces = [block[start : start + size] for start in range(0, len(block), size)]
    c.send(frame(HEADERS, END_STREAM, 1, pieces[0]))
    for piece in pieces[1:-1]:
        c.send(continuation(piece, flags=0))
    c.send(continuation(pieces[-1]))


GENERIC = [
    ("generic/1/1", "preface", lambda c: None, PONG),
    ("generic/2/1", "PRIORITY on an idle stream", lambda c: c.send(priority(1)), PONG),
    (
        "generic/2/2", "WINDOW_UPDATE on a half-closed stream",
        lambda c: (withheld(c), c.send(window(1, 1))), ("DATA 1",),
    ),
    (
        "generic/2/3", "PRIORITY on a half-closed stream",
        lambda c: (withheld(c), c.send(priority(1) + window(1, 1))), ("DATA 1",),
    ),
    (
        "generic/2/4", "RST_STREAM on a half-closed stream",
        lambda c: c.send(c.request() + reset(1)), PONG,
    ),
    (
        "generic/2/5", "PRIORITY on a closed stream",
        lambda c: (finished(c), c.send(priority(1))), PONG,
    ),
    (
        "generic/3.1/1", "DATA",
        lambda c: c.send(c.request(POST, flags=END_HEADERS) + data()), REPLIED,
    ),
    (
        "generic/3.1/2", "several DATA",
        lambda c: c.send(c.request(POST, flags=END_HEADERS) + data(flags=0) + data()), REPLIED,
    ),
    (
        "generic/3.1/3", "DATA with padding",
        lambda c: c.send(
            c.request(POST, flags=END_HEADERS)
            + data(payload=b"\x06test" + bytes(6), flags=END_STREAM | PADDED)
        ), REPLIED,
    ),
    ("generic/3.2/1", "HEADERS", lambda c: c.send(c.request()), REPLIED),
    ("generic/3.2/2", "HEADERS with padding", padded, REPLIED),
    ("generic/3.2/3", "HEADERS with priority", prioritized, REPLIED),
    (
        "generic/3.3/1", "PRIORITY with weight 1",
        lambda c: c.send(priority(1, weight=0) + c.request()), REPLIED,
    ),
    (
        "generic/3.3/2", "PRIORITY with weight 256",
        lambda c: c.send(priority(1) + c.request()), REPLIED,
    ),
    (
        "generic/3.3/3", "PRIORITY with a dependency",
        lambda c: c.send(priority(1) + priority(3, 1) + c.request()), REPLIED,
    ),
    (
        "generic/3.3/4", "PRIORITY, exclusive",
        lambda c: c.send(priority(1) + priority(3, 1 | 1 << 31) + c.request()), REPLIED,
    ),
    (
        "generic/3.3/5", "PRIORITY depending on an idle stream, then HEADERS",
        lambda c: c.send(priority(1, 123) + c.request()), REPLIED,
    ),
    ("generic/3.4/1", "RST_STREAM", lambda c: c.send(c.request() + reset(1)), PONG),
    (
        "generic/3.5/1", "SETTINGS",
        lambda c: (c.expect("SETTINGS ACK"), c.send(settings((ENABLE_PUSH, 0)))), ("SETTINGS ACK",),
    ),
    ("generic/3.7/1", "PING", lambda c: None, PONG),
    ("generic/3.8/1", "GOAWAY", lambda c: c.send(goaway()), (*PONG, "closed", "GOAWAY NO_ERROR")),
    ("generic/3.9/1", "WINDOW_UPDATE of the connection", lambda c: c.send(window(0, 1)), PONG),
    (
        "generic/3.9/2", "WINDOW_UPDATE of a stream",
        lambda c: c.send(c.request() + window(1, 1)), REPLIED,
    ),
    ("generic/3.10/1", "one CONTINUATION", lambda c: split_head(c, 2), REPLIED),
    ("generic/3.10/2", "several CONTINUATION", lambda c: split_head(c, 4), REPLIED),
    ("generic/4/1", "GET", lambda c: c.send(c.request()), REPLIED),
    (
        "generic/4/2", "HEAD",
        lambda c: c.send(c.request([(":method", "HEAD"), *GET[1:]])),
        # The backend of the tests answers HEAD as it likes.
        (*REPLIED, "reply 405", "reply 405 whole"),
    ),
    (
        "generic/4/3", "POST",
        lambda c: c.send(c.request(POST, flags=END_HEADERS) + data()), REPLIED,
    ),
    (
        "generic/4/4", "POST with trailers",
        lambda c: c.send(
            c.request(POST + [("trailer", "x-test")], flags=END_HEADERS)
            + data(flags=0) + c.request([("x-test", "ok")])
        ), REPLIED,
    ),
]


def octets(text, huffman):
    """A string literal (RFC 7541 section 5.2)."""
    raw = text.encode()
    if not huffman:
        return bytes([len(raw)]) + raw
    encoded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(raw)
    return bytes([0x80 | len(encoded)]) + encoded


def literal_cases():
    """Literals of each kind (RFC 7541 section 6.2), with known and new names."""
    kinds = (("incremental indexing", 0x40, 6), ("no indexing", 0, 4), ("never indexed", 0x10, 4))
    number = itertools.count(2)
    for (kind, bits, size), known, huffman in itertools.product(kinds, (1, 0), (0, 1)):
        # 58 is user-agent in the static table; it fits into six bits, and not into four.
        index = bytes([bits | 58]) if size == 6 else bytes([bits | 15, 58 - 15])
        name = index if known else bytes([bits]) + octets("x-test", huffman)
        literal = name + octets("h2spec", huffman)
        what = f"{kind}, {'known' if known else 'new'} name, {'Huffman' if huffman else 'plain'}"
        send = lambda c, literal=literal: c.send(c.request(after=literal))
        yield f"generic/5/{next(number)}", what, send, REPLIED


GENERIC += [
    # user-agent without a value, from the static table.
    ("generic/5/1", "indexed field", lambda c: c.send(c.request(after=b"\xba")), REPLIED),
    *literal_cases(),
    ("generic/5/14", "table size update", lambda c: c.send(c.request(before=b"\x20")), REPLIED),
    (
        "generic/5/15", "two table size updates",
        lambda c: c.send(c.request(before=b"\x20\x3f\xe1\x1f")), REPLIED,
    ),
]

COMPRESSION = connection("COMPRESSION_ERROR")


def value_case(number, what, value):
    encoded = b"\x00" + octets("x-test", False) + bytes([0x80 | len(value)]) + value
    return number, what, lambda c: c.send(c.request(after=encoded)), COMPRESSION


HPACK = [
    (
        "hpack/2.3.3/1", "index beyond the tables",
        lambda c: c.send(c.request(after=b"\xff\x80\x01")), COMPRESSION,
    ),
    (
        "hpack/2.3.3/2", "literal whose name has an index beyond the tables",
        lambda c: c.send(c.request(after=b"\x7f\x80\x01" + octets("v", False))), COMPRESSION,
    ),
    (
        "hpack/4.2/1", "table size update at the end of a block",
        lambda c: c.send(c.request(after=b"\x20")), COMPRESSION,
    ),
    # "test" takes 24 bits but one in Huffman's code: 0x49509f.
    value_case("hpack/5.2/1", "padding of more than 7 bits", bytes.fromhex("49509fff")),
    value_case("hpack/5.2/2", "padding by zeros", bytes.fromhex("49509e")),
    value_case("hpack/5.2/3", "the EOS symbol", b"\xff\xff\xff\xff\xff"),
    ("hpack/6.1/1", "index 0", lambda c: c.send(c.request(after=b"\x80")), COMPRESSION),
    (
        "hpack/6.3/1", "table size update over the setting",
        lambda c: c.send(c.request(before=b"\x3f\xe1\xff\x03")), COMPRESSION,
    ),
]
