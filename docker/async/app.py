"""The async backend: the rewrite on Starlette, with the contract of ../README.md.

One event loop serves every connection, so nothing here may block it. The driver still does, hence
each of its calls goes through `pool`. BLOCK_THE_LOOP=1 leaves one call out of it, on purpose;
SHOP_DRIFT=1 takes some from `drift`.
"""

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import shop

from . import drift
from .pool import BlockingPool, QueueFull

BLOCK_THE_LOOP = os.environ.get("BLOCK_THE_LOOP") == "1"
# Where the answers come from.
source = drift if os.environ.get("SHOP_DRIFT") == "1" else shop

shop.create_store()
pool = BlockingPool(threads=10, waiting_max=int(os.environ.get("WAITING_MAX", "100")))


# === Handlers ===


async def healthz(request):
    return JSONResponse({"status": "ok"})


async def whoami(request):
    return JSONResponse({"backend": "async"})


async def read_order(request):
    order_id = shop.number(request.path_params["id"])
    return JSONResponse(await pool.run(source.find_order, order_id))


async def create_order(request):
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > shop.BODY_BYTES_MAX:
            break
    order = await pool.run(shop.add_order, *shop.parse_order(bytes(body)))
    headers = {"Location": f"/orders/{order['id']}"}
    return JSONResponse(order, HTTPStatus.CREATED, headers)


async def report(request):
    first = shop.number(request.path_params["first"])
    if BLOCK_THE_LOOP:
        # The classic mistake: the old call, moved as it was. Every other request stands still.
        answer = source.report(first)
    else:
        answer = await pool.run(source.report, first)
    return JSONResponse(answer, headers=source.REPORT_HEADERS)


async def receipt(request):
    order_id = shop.number(request.path_params["id"])
    return JSONResponse(await pool.run(source.receipt, order_id))


async def sleep(request):
    ms = shop.milliseconds(request.query_params.get("ms", ""))
    return JSONResponse(await pool.run(shop.pause, ms))


async def stream(request):
    length = shop.number(request.path_params["length"], at_most=shop.STREAM_BYTES_MAX)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(fair_blocks(length), headers=headers)


async def fair_blocks(length):
    for block in shop.blocks(length):
        yield block
        # A client that reads as fast as we send never makes the server wait, so without this
        # one download would keep the loop to itself.
        await asyncio.sleep(0)


async def digest(request):
    total, sha256 = 0, hashlib.sha256()
    async for chunk in request.stream():
        total += len(chunk)
        sha256.update(chunk)
    return JSONResponse({"bytes": total, "sha256": sha256.hexdigest()})


async def status(request):
    code = shop.status_code(request.path_params["code"])
    return Response(None, code) if code in shop.BODYLESS else JSONResponse({"status": code}, code)


async def metrics(request):
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


# === Errors ===


def failure(status, text, headers=None):
    return JSONResponse({"error": text}, status, headers)


async def on_refused(request, refused):
    return failure(refused.status, str(refused), refused.headers)


async def on_queue_full(request, error):
    return failure(503, "too many requests are waiting", {"Retry-After": "1"})


async def on_http_error(request, error):
    headers = dict(error.headers or {})
    if "Allow" in headers:
        # Starlette lists a set, in another order at each start.
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    return failure(error.status_code, HTTPStatus(error.status_code).phrase.lower(), headers)


async def on_crash(request, error):
    return failure(500, "internal server error")


async def on_disconnect(request, error):
    # Nobody is left to read it; without a reply it would be logged as a crash of ours.
    return failure(400, "the client went away")


# === Application ===


@asynccontextmanager
async def lifespan(app):
    yield
    pool.close()
    shop.remove_store()


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/whoami", whoami),
        Route("/orders/{id}", read_order),
        Route("/orders", create_order, methods=["POST"]),
        Route("/reports/{first}", report),
        Route("/receipts/{id}", receipt),
        Route("/sleep", sleep),
        Route("/bytes/{length}", stream),
        Route("/digest", digest, methods=["POST"]),
        Route("/status/{code}", status),
        Route("/metrics", metrics),
    ],
    exception_handlers={
        shop.Refused: on_refused,
        QueueFull: on_queue_full,
        HTTPException: on_http_error,
        ClientDisconnect: on_disconnect,
        Exception: on_crash,
    },
    lifespan=lifespan,
)
# Off, as the legacy backend never redirected: /healthz/ is not found in both.
app.router.redirect_slashes = False
