"""A WebSocket server that sends each message back: the backend of test_websocket.py. A program of
its own.

The server is that of websockets, which speaks HTTP/1.1; before it stands a bridge, which speaks
HTTP/2. Each has a port, and says in the handshake which version it is spoken to in, as `X-Version`.
"""

import asyncio
import logging

from websockets.asyncio.server import serve

from ws_bridge import FromHttp2

MESSAGE_MAX = 16 << 20


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def tell_version(connection, request, response):
    response.headers["X-Version"] = "1.1"


async def main():
    # A client that breaks the rules is what the tests are about: no news for a log.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    options = {"max_size": MESSAGE_MAX, "process_response": tell_version}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        async with FromHttp2(port) as bridge:
            print(f"websockets on 127.0.0.1:{port}, with HTTP/2 on {bridge.port}", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
