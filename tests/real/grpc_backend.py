"""A gRPC server that does what it is asked to: the backend of test_grpc.py. A program of its own.

    grpc_backend.py NAME [CERTIFICATE KEY]

Messages are plain bytes, so nothing is generated. The methods of `real.Echo`:

    Unary    the request, in upper case      Name     its own name
    Count    as many messages as it says     Fail     ends with the code and details asked for
    Join     all messages in one             FailLate the same, behind one message
    Chat     each message back at once       Hang     begins, and goes on until it is cancelled
    Tally    how many calls of Hang have been cancelled

Each reply has the backend's name, the time that the caller gave, and the caller's metadata of
`x-ask` and `x-ask-bin` in its initial metadata, and the latter in its trailing metadata too.
"""

import asyncio
import sys

import grpc

SERVICE = "real.Echo"
MESSAGE_MAX = 8 << 20
CODES = {code.value[0]: code for code in grpc.StatusCode}
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
]


class Echo:
    def __init__(self, name):
        self.name = name
        self.cancelled = 0

    async def begin(self, context):
        left = context.time_remaining()
        told = [("x-backend", self.name), ("x-left", "none" if left is None else f"{left:.3f}")]
        given = context.invocation_metadata()
        asked = [pair for pair in given if pair[0] in ("x-ask", "x-ask-bin")]
        context.set_trailing_metadata(tuple(asked))
        await context.send_initial_metadata((*told, *asked))

    async def unary(self, request, context):
        await self.begin(context)
        return request.upper()

    async def name_(self, _, context):
        return self.name.encode()

    async def count(self, request, context):
        await self.begin(context)
        for number in range(int(request)):
            yield b"%d" % number

    async def join(self, requests, context):
        await self.begin(context)
        return b" ".join([request async for request in requests])

    async def chat(self, requests, context):
        await self.begin(context)
        async for request in requests:
            yield request

    async def fail(self, request, context):
        """Nothing was sent before, so that the status comes with the head: in trailers only."""
        code, _, details = request.decode().partition(" ")
        await context.abort(CODES[int(code)], details, (("x-why", "asked to"),))

    async def fail_late(self, request, context):
        await self.begin(context)
        yield b"one"
        await self.fail(request, context)

    async def hang(self, _, context):
        await self.begin(context)
        yield b"begun"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def tally(self, _, context):
        return b"%d" % self.cancelled

    def handler(self):
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Name": grpc.unary_unary_rpc_method_handler(self.name_),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Join": grpc.stream_unary_rpc_method_handler(self.join),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
                "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
                "Hang": grpc.unary_stream_rpc_method_handler(self.hang),
                "Tally": grpc.unary_unary_rpc_method_handler(self.tally),
            },
        )


async def main(name, certificate=None, key=None):
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Echo(name).handler(),))
    if certificate:
        with open(key, "rb") as key, open(certificate, "rb") as certificate:
            pair = key.read(), certificate.read()
        credentials = grpc.ssl_server_credentials([pair])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"grpc on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
