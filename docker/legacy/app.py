"""The legacy backend: a plain WSGI application for gunicorn's threaded worker.

A request holds one of the ten threads until its last byte is sent, waiting for the driver included.
That is the limit which the migration is to lift. The contract: ../README.md.
"""

import hashlib
import json
import re
import traceback
from http import HTTPStatus
from http.client import responses as REASONS
from typing import Iterable, NamedTuple
from urllib.parse import parse_qsl

import shop

shop.create_store()


class Reply(NamedTuple):
    status: int
    headers: list
    body: Iterable[bytes]


def document(value, status=200, **headers):
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    return Reply(status, list(headers.items()), [body])


def failure(status, text, **headers):
    return document({"error": text}, status, **headers)


def body_chunks(environ):
    total = 0
    try:
        while chunk := environ["wsgi.input"].read(shop.BODY_BYTES_MAX):
            total += len(chunk)
            yield chunk
    except OSError:
        raise shop.Refused(400, "body ended early") from None
    # gunicorn raises for a chunked body that is cut off, but ends one of known length in silence.
    if total < int(environ.get("CONTENT_LENGTH") or 0):
        raise shop.Refused(400, "body ended early")


# === Handlers ===


def healthz(environ):
    return document({"status": "ok"})


def whoami(environ):
    return document({"backend": "legacy"})


def read_order(environ, order_id):
    return document(shop.find_order(shop.number(order_id)))


def create_order(environ):
    body = bytearray()
    for chunk in body_chunks(environ):
        body += chunk
        if len(body) > shop.BODY_BYTES_MAX:
            break
    order = shop.add_order(*shop.parse_order(bytes(body)))
    return document(order, HTTPStatus.CREATED, Location=f"/orders/{order['id']}")


def report(environ, first):
    return document(shop.report(shop.number(first)), **shop.REPORT_HEADERS)


def receipt(environ, order_id):
    return document(shop.receipt(shop.number(order_id)))


def sleep(environ):
    query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    return document(shop.pause(shop.milliseconds(query.get("ms", ""))))


def stream(environ, length):
    length = shop.number(length, at_most=shop.STREAM_BYTES_MAX)
    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))]
    return Reply(200, headers, shop.blocks(length))


def digest(environ):
    total, sha256 = 0, hashlib.sha256()
    for chunk in body_chunks(environ):
        total += len(chunk)
        sha256.update(chunk)
    return document({"bytes": total, "sha256": sha256.hexdigest()})


def status(environ, code):
    code = shop.status_code(code)
    return Reply(code, [], []) if code in shop.BODYLESS else document({"status": code}, code)


# === Dispatch ===

ROUTES = [
    ("GET", re.compile("/healthz"), healthz),
    ("GET", re.compile("/whoami"), whoami),
    ("GET", re.compile("/orders/([^/]+)"), read_order),
    ("POST", re.compile("/orders"), create_order),
    ("GET", re.compile("/reports/([^/]+)"), report),
    ("GET", re.compile("/receipts/([^/]+)"), receipt),
    ("GET", re.compile("/sleep"), sleep),
    ("GET", re.compile("/bytes/([^/]+)"), stream),
    ("POST", re.compile("/digest"), digest),
    ("GET", re.compile("/status/([^/]+)"), status),
]


def dispatch(environ):
    for method, path, handler in ROUTES:
        if found := path.fullmatch(environ["PATH_INFO"]):
            allowed = ("GET", "HEAD") if method == "GET" else (method,)
            if environ["REQUEST_METHOD"] not in allowed:
                raise shop.Refused(405, "method not allowed", Allow=", ".join(allowed))
            return handler(environ, *found.groups())
    raise shop.Refused(404, "not found")


def app(environ, start_response):
    try:
        reply = dispatch(environ)
    except shop.Refused as refused:
        reply = failure(refused.status, str(refused), **refused.headers)
    except Exception:
        # Left to gunicorn it would become an HTML page, which is not the contract.
        traceback.print_exc()
        reply = failure(500, "internal server error")
    start_response(f"{reply.status:d} {REASONS.get(reply.status, 'Unknown')}", reply.headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else reply.body
