"""What the rewrite kept: the rules of the orders service and its blocking database driver.

Both backends import this module, as a real migration keeps its driver for a while. Nothing here
knows of HTTP servers or event loops; every function marked "blocks" holds its thread.
"""

import datetime
import json
import os
import re
import sqlite3
import tempfile
import time
import uuid
from contextlib import closing

SEEDED_ORDERS = 1000
BODY_BYTES_MAX = 64 * 1024
STREAM_BYTES_MAX = 4 * 1024**3
SLEEP_MS_MAX = 10_000
DRIVER_SECONDS = 0.005
REPORT_SECONDS = float(os.environ.get("REPORT_SECONDS", "0.1"))
BODYLESS = (204, 205, 304)
REPORT_HEADERS = {"Cache-Control": "private, max-age=60"}
LABELS = ("paid", "packed", "posted")

# The byte at offset o of any stream is o mod 251. A block is a whole number of periods, so
# blocks follow each other without a seam, and a lost or doubled piece shows in the digest.
BLOCK = bytes(range(251)) * 256

# With DATABASE unset each process has a store of its own, removed as the process ends.
_own = None if os.environ.get("DATABASE") else tempfile.TemporaryDirectory(prefix="orders-")
DATABASE = os.path.join(_own.name, "orders.db") if _own else os.environ["DATABASE"]


class Refused(Exception):
    """An answer other than success that the contract fixes, word for word."""

    def __init__(self, status, text, **headers):
        super().__init__(text)
        self.status = status
        self.headers = headers


# === Rules ===


def number(text, at_most=10**18):
    """A path segment as a number; what is no number names nothing, hence 404."""
    # The length is limited because int() refuses very long digits with an error of its own.
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Refused(404, "not found")
    if int(text) > at_most:
        raise Refused(400, f"at most {at_most}")
    return int(text)


def milliseconds(text):
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > SLEEP_MS_MAX:
        raise Refused(400, f"ms must be a number from 0 to {SLEEP_MS_MAX}")
    return int(text)


def status_code(text):
    code = number(text)
    if not 200 <= code <= 599:
        raise Refused(400, "status must be a number from 200 to 599")
    return code


def parse_order(body):
    """The item and quantity of an order sent as JSON."""
    if len(body) > BODY_BYTES_MAX:
        raise Refused(413, f"body is over {BODY_BYTES_MAX} bytes")
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "body is not valid JSON") from None
    if type(order) is not dict:
        raise Refused(400, "an order is a JSON object")
    item, quantity = order.get("item"), order.get("quantity")
    # isprintable() also keeps out lone surrogates, which the database cannot store.
    if type(item) is not str or not item.isprintable() or not 1 <= len(item) <= 200:
        raise Refused(400, "item must be 1 to 200 printable characters")
    if type(quantity) is not int or not 1 <= quantity <= 1000:
        raise Refused(400, "quantity must be a number from 1 to 1000")
    return item, quantity


def blocks(length):
    """The stream of `length` bytes, never more than one block of it in memory."""
    for _ in range(length // len(BLOCK)):
        yield BLOCK
    if rest := length % len(BLOCK):
        yield BLOCK[:rest]


# === Driver: everything below blocks ===


def find_order(order_id):
    rows = _query("SELECT id, item, quantity FROM orders WHERE id = ?", order_id)
    if not rows:
        raise Refused(404, "not found")
    return dict(zip(("id", "item", "quantity"), rows[0]))


def add_order(item, quantity):
    sql = "INSERT INTO orders (item, quantity) VALUES (?, ?) RETURNING id"
    [(order_id,)] = _query(sql, item, quantity)
    return {"id": order_id, "item": item, "quantity": quantity}


def report(first):
    """Sums up the first so many orders, which new orders do not change: answers stay comparable."""
    time.sleep(REPORT_SECONDS)
    sql = "SELECT count(*), coalesce(sum(quantity), 0) FROM orders WHERE id <= ?"
    [(orders, quantity)] = _query(sql, first)
    return {"id": first, "orders": orders, "quantity": quantity}


def receipt(order_id):
    """An order and how far it is. No two receipts are the same, though nothing has changed."""
    now = datetime.datetime.now(datetime.UTC)
    issued = {"request_uuid": str(uuid.uuid4()), "served_at": now.isoformat()}
    return {**find_order(order_id), "labels": list(LABELS), **issued}


def pause(ms):
    time.sleep(ms / 1000)
    return {"slept_ms": ms}


def create_store():
    """Creates and seeds the store; harmless where the other backend has done so before."""
    seed = "\n".join(
        f"INSERT OR IGNORE INTO orders VALUES ({n}, 'item-{n}', {1 + n % 9});"
        for n in range(1, SEEDED_ORDERS + 1)
    )
    with closing(_connect()) as db:
        db.executescript(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS orders ("
            "id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, quantity INTEGER NOT NULL);"
            f"{seed} COMMIT;"
        )


def remove_store():
    """For a server that ends by a signal, as uvicorn does: then no exit handler runs."""
    if _own:
        _own.cleanup()


def _query(sql, *values):
    time.sleep(DRIVER_SECONDS)
    with closing(_connect()) as db, db:
        return db.execute(sql, values).fetchall()


def _connect():
    db = sqlite3.connect(DATABASE, timeout=5)
    # A demonstration need not survive a power cut, and should not measure this machine's disk.
    db.execute("PRAGMA synchronous = OFF")
    return db
