"""A backend for the chaos tests: quick enough for its third of 2,000 requests a second, and able to
misbehave. A program of its own, with nothing but the standard library, so that it is soon up again.

    backend.py HOST PORT NAME JOURNAL [MANNER]

It answers every method and path with its name. `/slow?ms=N` takes that long, `/stream?ms=N` has
half of its body before and half after. The number of each POST (`X-Call`) goes into the journal as
it begins: what was written there is still there after a SIGKILL. MANNER makes it misbehave instead:
`reset` and `half-close` do so to each connection, `garbage`, `late`, `cut`,
`gigabyte` (a body of one) and `endless` (a body without end) to each request.
"""

import asyncio
import os
import socket
import struct
import sys
from urllib.parse import parse_qs, urlsplit

LATE_SECONDS = 2
BACKLOG = 1024
GIGABYTE = 1024**3
BLOCK = b"x" * 64 * 1024
CHUNK = b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK)


class Connection(asyncio.Protocol):
    """One connection: a request at a time, as a proxy sends them."""

    def __init__(self, name, journal, manner):
        self.name = name.encode()
        self.journal = journal
        self.manner = manner
        self.received = b""
        self.poured = b"", 0
        self.is_paused = False

    def connection_made(self, transport):
        self.transport = transport
        match self.manner:
            case "reset":
                # A close with a linger time of zero is a reset.
                link = transport.get_extra_info("socket")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            case "half-close":
                transport.write_eof()

    def eof_received(self):
        return False

    def data_received(self, data):
        if self.manner == "half-close":
            return
        self.received += data
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        first, *fields = head.split(b"\r\n")
        method, target, _ = first.split(b" ")
        headers = {}
        for field in fields:
            name, _, value = field.partition(b":")
            headers[name.lower()] = value.strip()
        length = int(headers.get(b"content-length", 0))
        if method == b"POST" and not self.is_begun(headers):
            return
        if len(rest) >= length:
            self.received = rest[length:]
            self.answer(method, target)

    def is_begun(self, headers):
        """Notes a POST once; false for a request that can't be told from another."""
        number = headers.get(b"x-call")
        if number is None:
            self.reply(b"400 Bad Request", b"no X-Call")
            return False
        if number != getattr(self, "noted", None):
            self.noted = number
            os.write(self.journal, number + b"\n")
        return True

    def answer(self, method, target):
        parts = urlsplit(target.decode())
        seconds = float(parse_qs(parts.query).get("ms", ["0"])[0]) / 1000
        body = self.name if method != b"HEAD" else b""
        match self.manner or parts.path:
            case "garbage":
                self.transport.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            case "late":
                self.later(LATE_SECONDS, lambda: self.reply(b"200 OK", body))
            case "cut":
                self.transport.write(self.head(b"200 OK", 2 * len(body)) + body)
                self.later(0.01, self.transport.close)
            case "gigabyte":
                self.transport.write(self.head(b"200 OK", GIGABYTE))
                self.pour(BLOCK, GIGABYTE // len(BLOCK))
            case "endless":
                self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self.pour(CHUNK, None)
            case "/slow":
                self.later(seconds, lambda: self.reply(b"200 OK", body))
            case "/stream":
                self.transport.write(self.head(b"200 OK", 2 * len(body)) + body)
                self.later(seconds, lambda: self.transport.write(body))
            case _:
                self.reply(b"200 OK", body)

    def pour(self, block, left):
        """So many blocks, or blocks without end, as fast as they are read."""
        self.poured = block, left
        self.resume_writing()

    def pause_writing(self):
        self.is_paused = True

    def resume_writing(self):
        self.is_paused = False
        asyncio.get_running_loop().call_soon(self.pour_on)

    def pour_on(self):
        """One block, and the next in the loop's next round: other connections have theirs."""
        block, left = self.poured
        if self.is_paused or left == 0 or self.transport.is_closing():
            return
        self.poured = block, left and left - 1
        self.transport.write(block)
        if not self.is_paused:
            asyncio.get_running_loop().call_soon(self.pour_on)

    def later(self, seconds, action):
        # What is written to a connection that is gone by then goes nowhere.
        asyncio.get_running_loop().call_later(seconds, action)

    def reply(self, status, body):
        self.transport.write(self.head(status, len(body)) + body)

    def head(self, status, length):
        return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nX-Backend: %s\r\n\r\n" % (
            status,
            length,
            self.name,
        )


def listener(host, port):
    # The test holds the port by a socket that does not listen, so that the system gives it to
    # nobody else while this process is dead.
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    return listening


async def main(host, port, name, journal, manner=None):
    journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(name, journal, manner),
        sock=listener(host, int(port)),
        backlog=BACKLOG,
    )
    print(f"listening on {host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
