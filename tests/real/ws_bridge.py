"""WebSockets between HTTP/1.1 and HTTP/2 (RFC 8441), for clients and servers that speak the former
alone. The bytes in them pass as they are, so what comes of it is what a peer of HTTP/2 would see.

`ToHttp2` is for a client and stands before the proxy, `FromHttp2` for a server and stands behind
it.
"""

import asyncio
import base64
import contextlib
import hashlib

import h2.config
import h2.connection
import h2.events
import h2.settings

SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(bytes(16)).decode()
PIECE = 16 * 1024
# Of HTTP/1.1 alone, or said by the pseudo-fields.
DROPPED = {"host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-accept"}
BROKEN = (OSError, asyncio.IncompleteReadError)


class Mux:
    """A connection of HTTP/2, whose streams are pairs of byte streams."""

    def __init__(self, reader, writer, client_side, on_stream=None):
        config = h2.config.H2Configuration(client_side=client_side)
        self.http = h2.connection.H2Connection(config)
        self.settled = asyncio.Event()
        self.streams = {}
        self._reader, self._writer, self._on_stream = reader, writer, on_stream
        self.http.initiate_connection()
        if not client_side:
            self.http.update_settings({h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
        self.flush()

    async def run(self):
        """Until the peer closes it."""
        with contextlib.suppress(*BROKEN):
            while octets := await self._reader.read(4 * PIECE):
                for event in self.http.receive_data(octets):
                    self._take(event)
                self.flush()
        for stream in self.streams.values():
            stream.take_end(is_reset=True)
        self._writer.close()

    def _take(self, event):
        match event:
            case h2.events.RemoteSettingsChanged():
                self.settled.set()
            case h2.events.RequestReceived():
                self._on_stream(self.stream(event.stream_id), text(event.headers))
            case h2.events.ResponseReceived():
                self.stream(event.stream_id).replied.set_result(text(event.headers))
            case h2.events.DataReceived():
                stream = self.stream(event.stream_id)
                stream.received.put_nowait((event.data, event.flow_controlled_length))
            case h2.events.StreamEnded():
                self.stream(event.stream_id).take_end()
            case h2.events.StreamReset():
                self.stream(event.stream_id).take_end(is_reset=True)
        for stream in self.streams.values():
            stream.has_room.set()

    def stream(self, number):
        return self.streams.setdefault(number, Stream(self, number))

    def flush(self):
        self._writer.write(self.http.data_to_send())

    async def drain(self):
        await self._writer.drain()

    def close(self):
        self._writer.close()


class Stream:
    def __init__(self, mux, number):
        self.mux, self.number = mux, number
        self.received = asyncio.Queue()
        self.replied = asyncio.get_running_loop().create_future()
        self.has_room = asyncio.Event()
        self.is_reset = False

    def take_end(self, is_reset=False):
        self.is_reset |= is_reset
        self.received.put_nowait((b"", 0))
        if not self.replied.done():
            self.replied.set_result({":status": "502"})

    async def join(self, reader, writer):
        """Carries octets both ways until both have ended."""
        sending = asyncio.create_task(self._send_all(reader))
        await self._receive_all(writer)
        if self.is_reset:
            sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, *BROKEN):
            await sending
        writer.close()

    async def _send_all(self, reader):
        http = self.mux.http
        while piece := await reader.read(PIECE):
            while piece and not self.is_reset:
                self.has_room.clear()
                room = http.local_flow_control_window(self.number)
                if room <= 0:
                    await self.has_room.wait()
                    continue
                room = min(room, len(piece), http.max_outbound_frame_size)
                http.send_data(self.number, piece[:room])
                piece = piece[room:]
                self.mux.flush()
                await self.mux.drain()
        if not self.is_reset:
            http.end_stream(self.number)
            self.mux.flush()

    async def _receive_all(self, writer):
        with contextlib.suppress(*BROKEN):
            while True:
                octets, length = await self.received.get()
                if not length:
                    break
                writer.write(octets)
                await writer.drain()
                if not self.is_reset:
                    self.mux.http.acknowledge_received_data(length, self.number)
                    self.mux.flush()
            if self.is_reset:
                writer.transport.abort()
            elif writer.can_write_eof():
                writer.write_eof()


class Bridge:
    """Listens at `self.port`, and goes on to `port`."""

    def __init__(self, port):
        self.to = port
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader, writer):
        self.spawn(self.serve(reader, writer))

    def spawn(self, work):
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class ToHttp2(Bridge):
    async def serve(self, reader, writer):
        first, fields = parse(await reader.readuntil(b"\r\n\r\n"))
        mux = Mux(*await asyncio.open_connection("127.0.0.1", self.to), client_side=True)
        self.spawn(mux.run())
        await mux.settled.wait()
        stream = mux.stream(mux.http.get_next_available_stream_id())
        connect = {
            ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http",
            ":path": first.split()[1], ":authority": fields["host"],
        }
        mux.http.send_headers(stream.number, list((connect | kept(fields)).items()))
        mux.flush()
        reply = await stream.replied
        if reply[":status"] == "200":
            reply |= upgrade() | {"Sec-WebSocket-Accept": accept(fields["sec-websocket-key"])}
            writer.write(head("HTTP/1.1 101 Switching Protocols", reply))
            await stream.join(reader, writer)
        else:
            writer.write(head(f"HTTP/1.1 {reply[':status']} Refused", {"Content-Length": "0"}))
            writer.close()
        mux.close()


class FromHttp2(Bridge):
    async def serve(self, reader, writer):
        serve = lambda stream, fields: self.spawn(self._serve(stream, fields))
        await Mux(reader, writer, client_side=False, on_stream=serve).run()

    async def _serve(self, stream, fields):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.to)
        asked = kept(fields) | upgrade() | {"Host": "test", "Sec-WebSocket-Key": KEY}
        writer.write(head(f"GET {fields[':path']} HTTP/1.1", asked))
        first, reply = parse(await reader.readuntil(b"\r\n\r\n"))
        status = first.split()[1]
        reply = {":status": "200" if status == "101" else status} | kept(reply) | {"x-version": "2"}
        stream.mux.http.send_headers(stream.number, list(reply.items()), status != "101")
        stream.mux.flush()
        await stream.join(reader, writer)


def upgrade():
    return {"Upgrade": "websocket", "Connection": "Upgrade"}


def accept(key):
    return base64.b64encode(hashlib.sha1(key.encode() + SUFFIX).digest()).decode()


def head(first, fields):
    lines = (f"{name}: {value}\r\n" for name, value in fields.items() if name[0] != ":")
    return f"{first}\r\n{''.join(lines)}\r\n".encode()


def parse(octets):
    first, *lines = octets.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def kept(fields):
    return {n: v for n, v in fields.items() if n not in DROPPED and n[0] != ":"}


def text(fields):
    return {name.decode(): value.decode() for name, value in fields}
