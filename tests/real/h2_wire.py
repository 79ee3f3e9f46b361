"""A connection of HTTP/2 in the hands of a test: any frame can be sent, also a wrong one, and each
that comes back is told in a word or two, such as `GOAWAY PROTOCOL_ERROR` or `reply 200`.
"""

import socket
import struct
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
# ACK is END_STREAM's bit.
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
WHOLE = END_STREAM | END_HEADERS

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = range(1, 6)
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED "
    "FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM "
    "INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()
NAMES = (
    "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH PING GOAWAY WINDOW_UPDATE CONTINUATION"
).split()

GET = [(":method", "GET"), (":scheme", "http"), (":path", "/whoami"), (":authority", "test")]
POST = [(":method", "POST"), (":scheme", "http"), (":path", "/digest"), (":authority", "test")]


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """One frame; `length` is what it says of itself, if that is not the truth."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs, flags=0, stream=0):
    payload = b"".join(struct.pack(">HI", *pair) for pair in pairs)
    return frame(SETTINGS, flags, stream, payload)


def window(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream, code=CODES.index("CANCEL")):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(stream=0, code=0):
    return frame(GOAWAY, 0, stream, struct.pack(">II", 0, code))


def priority(stream, depends_on=0, weight=255):
    return frame(PRIORITY, 0, stream, struct.pack(">IB", depends_on, weight))


def ping(text=b"8 octets", flags=0, stream=0):
    return frame(PING, flags, stream, text)


def data(stream=1, payload=b"test", flags=END_STREAM):
    return frame(DATA, flags, stream, payload)


def continuation(block, stream=1, flags=END_HEADERS):
    return frame(CONTINUATION, flags, stream, block)


class Wire:
    """A connection. What it receives it takes apart, and remembers the last of some."""

    def __init__(self, port, timeout=2.0, greets=True):
        self.timeout = timeout
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.peer_settings = {}
        self._received = b""
        self._fragment = b""
        if greets:
            self.send(PREFACE + settings())
            self.expect("SETTINGS")
            self.send(settings(flags=ACK))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, octets):
        try:
            self.socket.sendall(octets)
        except OSError:
            # The peer has left, perhaps with a last word that can still be read.
            pass

    def block(self, fields):
        return self.encoder.encode(fields)

    def request(self, fields=GET, stream=1, flags=WHOLE, block=b"", before=b"", after=b""):
        """A HEADERS frame of `fields` and of what is encoded already."""
        payload = before + self.block(fields) + block + after
        return frame(HEADERS, flags, stream, payload)

    def expect(self, *wanted):
        """Reads on to the first of `wanted`, the end, or a refusal; which, or else the reply."""
        end = time.monotonic() + self.timeout
        reply = None
        while time.monotonic() < end:
            event = self.read_event(end)
            if event is None:
                break
            if event in wanted or event.startswith(("GOAWAY", "RST_STREAM", "closed", "reset")):
                return event
            if event.startswith("reply"):
                reply = event
        return reply or "silence"

    def read_event(self, end):
        """One frame in a word or two; None if none came in time."""
        head = self._read(9, end)
        if not isinstance(head, bytes):
            return head
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        payload = self._read(length, end)
        return self._name(kind, flags, stream, payload) if isinstance(payload, bytes) else payload

    def _read(self, length, end):
        while len(self._received) < length:
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                piece = self.socket.recv(64 * 1024)
            except TimeoutError:
                return None
            except OSError:
                return "reset"
            if not piece:
                return "closed"
            self._received += piece
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    def _name(self, kind, flags, stream, payload):
        if kind in (HEADERS, CONTINUATION):
            self._fragment += payload
            if not flags & END_HEADERS:
                return "a part of a head"
            fields, self._fragment = dict(self.decoder.decode(self._fragment)), b""
            end = " whole" if flags & END_STREAM else ""
            return f"reply {fields[':status']}{end}" if ":status" in fields else f"trailers{end}"
        if kind == DATA:
            return "end" if flags & END_STREAM else f"DATA {len(payload)}"
        if kind == RST_STREAM:
            return f"RST_STREAM {CODES[int.from_bytes(payload, 'big')]}"
        if kind == GOAWAY:
            return f"GOAWAY {CODES[int.from_bytes(payload[4:8], 'big')]}"
        if kind == SETTINGS and not flags & ACK:
            self.peer_settings |= dict(struct.iter_unpack(">HI", payload))
        if kind == PING and flags & ACK:
            return f"pong {payload.decode()}"
        name = NAMES[kind] if kind < len(NAMES) else f"frame {kind}"
        return f"{name} ACK" if kind == SETTINGS and flags & ACK else name
