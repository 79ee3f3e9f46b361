"""Clients that call by the clock, whatever becomes of the replies, and account for each call.

One thread with an event loop, for some hundred calls a second of which each has to be known. Where
only their number matters, h2load is cheaper.
"""

import asyncio
import collections
import itertools
import random
import socket
import struct
import threading
import time
from typing import NamedTuple

CALL_SECONDS = 20
JOIN_SECONDS = CALL_SECONDS + 10
BEAT_SECONDS = 0.02
HEAD_MAX = 16 * 1024


class Ask(NamedTuple):
    """What a call asks for, and whether its client leaves before it is answered."""

    method: str = "GET"
    path: str = "/"
    # Seconds after which the client breaks its connection; None: it stays.
    patience: float | None = None


class Call(NamedTuple):
    """One call and its end. A reply without a fault came whole."""

    ask: Ask
    number: str
    sent: float
    ended: float
    status: int | None = None
    backend: str | None = None
    # "cut": in the reply's body. "closed": instead of a reply. "hang". "left": the client did.
    fault: str | None = None

    @property
    def is_good(self):
        return self.status == 200 and self.fault is None

    @property
    def seconds(self):
        return self.ended - self.sent


class Callers:
    """`rate` calls a second to `port` over `clients` connections.

    `draw` makes an `Ask` of a seeded source of random numbers. Each call is given to `note`: by
    default to the list `calls`.
    """

    def __init__(self, port, rate, draw, clients=40, seed=1, note=None):
        self.calls = []
        self.sent = 0
        # By how much the machine itself has kept a clock waiting, in seconds, at the most.
        self.lag = 0
        self._note = note or self.calls.append
        self._draw = draw
        self._port = port
        self._period = clients / rate
        self._clients = clients
        self._seed = seed
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._fault = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive(), "a client hangs"
        if self._fault:
            raise self._fault

    def _run(self):
        try:
            asyncio.run(self._call_all())
        except Exception as fault:  # Raised again where the test is.
            self._fault = fault

    async def _call_all(self):
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_lag())
            for client in range(self._clients):
                group.create_task(self._client(client))

    async def _watch_lag(self):
        while not self._stop.is_set():
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.lag = max(self.lag, time.monotonic() - due)

    async def _client(self, client):
        drawing = random.Random(f"{self._seed} {client}")
        wire = Wire(self._port)
        due = time.monotonic() + self._period * client / self._clients
        while not self._stop.is_set():
            await asyncio.sleep(due - time.monotonic())
            # One that is late does not make up for it: that would be a burst.
            due = max(due + self._period, time.monotonic())
            self.sent += 1
            number = f"{self._seed}-{next(self._numbers)}"
            self._note(await wire.call(self._draw(drawing), number))
        wire.close()


class Wire:
    """One client's connection; opened again where it was closed."""

    def __init__(self, port):
        self._port = port
        self._reader = self._writer = None

    async def call(self, ask, number):
        sent = time.monotonic()
        seen = {}
        try:
            async with asyncio.timeout(ask.patience or CALL_SECONDS):
                await self._exchange(ask, number, seen)
        except TimeoutError:
            seen["fault"] = "left" if ask.patience else "hang"
            self._break()
        except (OSError, asyncio.IncompleteReadError):
            seen["fault"] = "cut" if seen else "closed"
            self.close()
        return Call(ask, number, sent, time.monotonic(), **seen)

    async def _exchange(self, ask, number, seen):
        if self._writer is None:
            opened = asyncio.open_connection("127.0.0.1", self._port, limit=HEAD_MAX)
            self._reader, self._writer = await opened
        body = b"x" * 100 if ask.method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        line = f"{ask.method} {ask.path} HTTP/1.1\r\n"
        head = f"{line}Host: chaos\r\nX-Call: {number}\r\n{length}\r\n"
        self._writer.write(head.encode() + body)
        first, fields = parse(await self._reader.readuntil(b"\r\n\r\n"))
        seen["status"] = int(first.split()[1])
        seen["backend"] = fields.get("x-backend")
        await self._reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()

    def _break(self):
        """Leaves by a reset: a plain close looks like a client that still reads."""
        if self._writer:
            link = self._writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
            self._writer = None

    def close(self):
        if self._writer:
            self._writer.close()
            self._writer = None


def parse(head):
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def tally(calls):
    """How many calls of each method had each end."""
    return collections.Counter((call.ask.method, call.fault or call.status) for call in calls)


def only_get(_):
    return Ask()
