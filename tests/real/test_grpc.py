"""A real gRPC server and client with the proxy between them, without TLS and with it."""

import asyncio
import collections
import contextlib
import functools
import tempfile
import time
import unittest

import grpc

from fronts import Certificate, both, start_front, start_program
from grpc_backend import OPTIONS, SERVICE
from processes import eventually

GRPC_SAYS = r"grpc on 127\.0\.0\.1:(\d+)"
CALL_SECONDS = 15
MIB = 1 << 20
MESSAGES = 100
# Binary metadata goes in base64, where each side has its own idea of padding.
METADATA = (("x-ask", "how are you"), ("x-ask-bin", bytes(range(7))))

CHANNELS = 20
STREAMS = 50


_runner = None


def setUpModule():
    """One loop for all tests: that of grpc.aio can't be another one later."""
    global _runner
    _runner = asyncio.Runner()
    unittest.addModuleCleanup(_runner.close)


def on_loop(test):
    @functools.wraps(test)
    def run(self):
        _runner.run(test(self))

    return run


class Client:
    """One channel to the proxy or a backend, and the methods of the service."""

    def __init__(self, port, authority=None, compression=None):
        # A pool of its own: else channels to one target share a connection.
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        if authority:
            with open(authority, "rb") as pem:
                credentials = grpc.ssl_channel_credentials(pem.read())
            self.channel = grpc.aio.secure_channel(
                f"localhost:{port}", credentials, options, compression
            )
        else:
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options, compression)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.channel.close()

    def unary(self, name, request=b"", **more):
        return self._method("unary_unary", name)(request, **{"timeout": CALL_SECONDS, **more})

    def unary_stream(self, name, request=b"", **more):
        return self._method("unary_stream", name)(request, **{"timeout": CALL_SECONDS, **more})

    def stream_unary(self, name, requests, **more):
        return self._method("stream_unary", name)(requests, timeout=CALL_SECONDS, **more)

    def chat(self, timeout=CALL_SECONDS):
        return self._method("stream_stream", "Chat")(timeout=timeout)

    def _method(self, kind, name):
        return getattr(self.channel, kind)(f"/{SERVICE}/{name}")


class Calls:
    """Each kind of call, through `self.proxy`; `self.authority` is set where it has TLS."""

    @classmethod
    def start_backend(cls, *arguments):
        return start_program(cls.enterClassContext, GRPC_SAYS, "grpc_backend.py", *arguments)

    def client(self, **more):
        return Client(self.proxy.port, self.authority, **more)

    def tearDown(self):
        samples = self.proxy.metrics().samples("cutover_errors_total")
        faults = [sample for sample in samples if sample[1]]
        self.assertEqual(faults, [], "calls that ended as they should are faults of a path")

    @on_loop
    async def test_unary_and_metadata_both_ways(self):
        async with self.client() as client:
            call = client.unary("Unary", b"hello", metadata=METADATA)
            self.assertEqual(await call, b"HELLO")
            initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
            self.assertIn(initial["x-backend"], ("one", "two"))
            for name, value in METADATA:
                self.assertEqual((initial[name], trailing[name]), (value, value))
            self.assertEqual(await call.code(), grpc.StatusCode.OK)

    @on_loop
    async def test_streams_of_the_server_and_of_the_client(self):
        async with self.client() as client:
            call = client.unary_stream("Count", b"1000")
            self.assertEqual([int(message) async for message in call], list(range(1000)))
            words = [b"word%d" % number for number in range(1000)]
            self.assertEqual(await client.stream_unary("Join", iter(words)), b" ".join(words))

    @on_loop
    async def test_ping_pong_each_message_before_the_next(self):
        async with self.client() as client:
            call = client.chat()
            for number in range(MESSAGES):
                await call.write(b"ping %d" % number)
                self.assertEqual(await call.read(), b"ping %d" % number)
            await call.done_writing()
            self.assertIs(await call.read(), grpc.aio.EOF)
            self.assertEqual(await call.code(), grpc.StatusCode.OK)

    @on_loop
    async def test_statuses_and_details_in_trailers_alone_and_behind_messages(self):
        # With what gRPC has to escape in a field: beyond ASCII, a per cent sign, a line's end.
        details = "no order 7 — 100 % räum\nnext"
        async with self.client() as client:
            for code in list(grpc.StatusCode)[1:]:
                asked = f"{code.value[0]} {details}".encode()
                for call in (client.unary("Fail", asked), client.unary_stream("FailLate", asked)):
                    await self.assert_fails(call, code, details)
                    self.assertEqual((await call.trailing_metadata())["x-why"], "asked to")

    async def assert_fails(self, call, code, details=None):
        got = []
        with self.assertRaises(grpc.aio.AioRpcError) as caught:
            if isinstance(call, grpc.aio.UnaryStreamCall):
                async for message in call:
                    got.append(message)
                self.assertEqual(await call.code(), code)
            else:
                await call
        self.assertEqual(caught.exception.code(), code)
        if details:
            self.assertEqual(caught.exception.details(), details)
        return got

    @on_loop
    async def test_an_unknown_method_is_unimplemented(self):
        async with self.client() as client:
            await self.assert_fails(client.unary("Nothing"), grpc.StatusCode.UNIMPLEMENTED)

    async def tally(self):
        """Calls that the backends saw cancelled."""
        found = 0
        for backend in self.backends:
            async with Client(backend.port, self.authority) as client:
                found += int(await client.unary("Tally"))
        return found

    async def await_tally(self, wanted):
        end = time.monotonic() + 5
        while (found := await self.tally()) != wanted:
            self.assertLess(time.monotonic(), end, f"{found} calls were cancelled, not {wanted}")

    @on_loop
    async def test_a_deadline_reaches_the_server_and_ends_the_call(self):
        before = await self.tally()
        async with self.client() as client:
            call = client.unary_stream("Hang", timeout=0.7)
            left = (await call.initial_metadata())["x-left"]
            self.assertTrue(0.2 < float(left) <= 0.7, f"{left} s are left at the server")
            got = await self.assert_fails(call, grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertEqual(got, [b"begun"])
            # One without a deadline must not get one.
            call = client.unary("Unary", b"", timeout=None)
            self.assertEqual((await call.initial_metadata())["x-left"], "none")
        await self.await_tally(before + 1)

    @on_loop
    async def test_a_cancellation_reaches_the_server(self):
        before = await self.tally()
        async with self.client() as client:
            calls = [client.unary_stream("Hang") for _ in range(10)]
            for call in calls:
                self.assertEqual(await call.read(), b"begun")
            for call in calls:
                call.cancel()
            await self.await_tally(before + 10)
            self.assertEqual(await client.unary("Unary", b"and on"), b"AND ON")

    @on_loop
    async def test_messages_of_4_mib(self):
        message = bytes(range(251)) * (4 * MIB // 251)
        async with self.client() as client:
            self.assertEqual(await client.unary("Unary", message), message.upper())
            call = client.chat()
            for _ in range(4):
                await call.write(message)
                self.assertEqual(await call.read(), message)
            await call.done_writing()
            self.assertEqual(await call.code(), grpc.StatusCode.OK)

    @on_loop
    async def test_compressed_messages_stay_compressed(self):
        before = self.proxy.metrics().sum("cutover_request_bytes_total")
        async with self.client(compression=grpc.Compression.Gzip) as client:
            self.assertEqual(await client.unary("Unary", b"x" * MIB), b"X" * MIB)
        sent = self.proxy.metrics().sum("cutover_request_bytes_total") - before
        self.assertLess(sent, MIB / 50)

    @on_loop
    async def test_calls_are_split_over_both_servers(self):
        names = collections.Counter()
        async with self.client() as client:
            for _ in range(100):
                names[await client.unary("Name")] += 1
        self.assertEqual(names.total(), 100)
        # Each worker spreads its own.
        self.assertAlmostEqual(names[b"one"], 50, delta=2)

    @on_loop
    async def test_streams_open_across_a_sigterm_all_finish(self):
        # All of them connect at once to two servers of one thread each.
        proxy = self.start_proxy(self.enterContext, 'connect_timeout = "10s"')
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(Client(proxy.port, self.authority))
                for _ in range(CHANNELS)
            ]
            calls = [client.chat(timeout=60) for client in clients for _ in range(STREAMS)]
            await asyncio.gather(*(self.talk(call, 0) for call in calls))
            self.assertEqual(proxy.metrics().sum("cutover_requests_in_flight"), len(calls))
            connects = int(proxy.metrics().sum("cutover_upstream_connects_total"))
            # 100 streams each; workers share none.
            self.assertLessEqual(connects, 2 * CHANNELS)
            began = time.monotonic()
            proxy.process.terminate()
            eventually(
                lambda: proxy.admin("/readyz").status == 503, 2, lambda: "/readyz is not 503"
            )
            for number in range(1, 4):
                await asyncio.gather(*(self.talk(call, number) for call in calls))
            await asyncio.gather(*(call.done_writing() for call in calls))
            codes = collections.Counter(await asyncio.gather(*(call.code() for call in calls)))
            self.assertEqual(codes, {grpc.StatusCode.OK: len(calls)})
            # Off the loop, which has GOAWAYs to answer.
            code = await asyncio.to_thread(proxy.process.wait)
            took = time.monotonic() - began
        self.assertEqual(code, 0, proxy.process.read_output())
        kind = "with TLS" if self.authority else "without TLS"
        print(f"grpc {kind}: {len(calls)} streams over a drain, {connects} connects, {took:.1f} s")

    async def talk(self, call, number):
        await call.write(b"%d" % number)
        self.assertEqual(await call.read(), b"%d" % number)


class Plain(Calls, unittest.TestCase):
    authority = None

    @classmethod
    def setUpClass(cls):
        cls.backends = [cls.start_backend(name) for name in ("one", "two")]
        cls.proxy = cls.start_proxy(cls.enterClassContext)

    @classmethod
    def start_proxy(cls, enter, more=""):
        urls = (backend.url for backend in cls.backends)
        return start_front(enter, 0.5, both(*urls, f'protocol = "http2"\n{more}'))


class Tls(Calls, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pair = Certificate(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="tls-")))
        cls.authority = cls.pair.authority
        pair = cls.pair.certificate, cls.pair.key
        cls.backends = [cls.start_backend(name, *pair) for name in ("one", "two")]
        cls.proxy = cls.start_proxy(cls.enterClassContext)

    @classmethod
    def start_proxy(cls, enter, more="", protocol="http2"):
        urls = (f"https://localhost:{backend.port}" for backend in cls.backends)
        keys = f'protocol = "{protocol}"\ntls = {{ ca = "{cls.authority}" }}\n{more}'
        return start_front(enter, 0.5, both(*urls, keys), listen=cls.pair.listen())

    @on_loop
    async def test_calls_at_once_share_the_connection_that_chose_http2_by_alpn(self):
        proxy = self.start_proxy(self.enterContext, 'connect_timeout = "10s"', protocol="auto")
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(Client(proxy.port, self.authority))
                for _ in range(4)
            ]
            await asyncio.gather(*(client.unary("Name") for client in clients for _ in range(50)))
        connects = int(proxy.metrics().sum("cutover_upstream_connects_total"))
        print(f"grpc with TLS: 200 calls at once over {connects} connects, by ALPN")
        self.assertLessEqual(connects, 20)
