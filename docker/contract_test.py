"""The contract of README.md as a test, for one backend or for several compared with each other.

    python3 docker/contract_test.py http://127.0.0.1:9001 http://127.0.0.1:9002
    BASE_URLS=http://127.0.0.1:8080 python3 docker/contract_test.py

Each request goes to every backend given. Their answers must agree in status, body and the headers
that a client may rely on; what the answer must be is then asserted once. Standard library only.
"""

import hashlib
import http.client
import json
import os
import sys
import unittest
from typing import NamedTuple
from urllib.parse import urlsplit

BASE_URLS = os.environ.get("BASE_URLS", "").split()
COMPARED = ("Content-Type", "Content-Length", "Allow", "Location", "Retry-After", "Cache-Control")
MANY = 20_000_003


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def ask(base, method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        kept = {name: response.getheader(name) for name in COMPARED}
        return Answer(response.status, kept, response.read())
    finally:
        connection.close()


def pattern(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


class Contract(unittest.TestCase):
    def setUp(self):
        self.assertTrue(BASE_URLS, "no backend given: name base URLs as arguments or BASE_URLS")

    def alike(self, method, path, body=None, headers={}):
        """The answer that every backend gives, once they are seen to agree."""
        first, *others = (ask(base, method, path, body, headers) for base in BASE_URLS)
        for base, other in zip(BASE_URLS[1:], others):
            self.assertEqual(first, other, f"{method} {path}: {BASE_URLS[0]} against {base}")
        return first

    def refused(self, status, text, method, path, body=None, headers={}):
        answer = self.alike(method, path, body, headers)
        self.assertEqual((answer.status, answer.json), (status, {"error": text}), path)
        return answer

    def test_healthz_is_ok(self):
        answer = self.alike("GET", "/healthz")
        self.assertEqual((answer.status, answer.json), (200, {"status": "ok"}))
        self.assertEqual(answer.headers["Content-Type"], "application/json")

    def test_each_backend_names_itself(self):
        for base in BASE_URLS:
            answer = ask(base, "GET", "/whoami")
            self.assertEqual(answer.status, 200)
            self.assertIn(answer.json, ({"backend": "legacy"}, {"backend": "async"}))

    def test_a_seeded_order_is_found(self):
        answer = self.alike("GET", "/orders/7")
        self.assertEqual(answer.json, {"id": 7, "item": "item-7", "quantity": 8})

    def test_head_is_get_without_its_body(self):
        for path in ("/orders/7", "/bytes/1000", "/bytes/4294967296"):
            answer = self.alike("HEAD", path)
            self.assertEqual((answer.status, answer.body), (200, b""), path)
        self.assertEqual(answer.headers["Content-Length"], "4294967296")

    def test_a_new_order_is_found_where_its_location_says(self):
        order = {"item": "tea, 茶", "quantity": 3}
        for base in BASE_URLS:
            created = ask(base, "POST", "/orders", json.dumps(order))
            self.assertEqual(created.status, 201)
            self.assertEqual(created.headers["Location"], f"/orders/{created.json['id']}")
            self.assertEqual(created.json, {"id": created.json["id"], **order})
            found = ask(base, "GET", created.headers["Location"])
            self.assertEqual((found.status, found.body), (200, created.body))

    def test_a_bad_order_is_refused(self):
        item = "item must be 1 to 200 printable characters"
        quantity = "quantity must be a number from 1 to 1000"
        for body, text in (
            (b"", "body is not valid JSON"),
            (b'{"item": "tea"', "body is not valid JSON"),
            (b"\xff\xfe\xfd", "body is not valid JSON"),
            (b"[" * 60_000, "body is not valid JSON"),
            (b"[]", "an order is a JSON object"),
            (b'{"quantity": 1}', item),
            (rb'{"item": "\ud800", "quantity": 1}', item),
            (b'{"item": "tea", "quantity": true}', quantity),
            (b'{"item": "tea", "quantity": 1001}', quantity),
        ):
            self.refused(400, text, "POST", "/orders", body)

    def test_an_order_that_is_too_large_is_refused(self):
        self.refused(413, "body is over 65536 bytes", "POST", "/orders", b" " * 65_537)

    def test_a_report_sums_up_the_first_orders(self):
        answer = self.alike("GET", "/reports/10")
        self.assertEqual(answer.json, {"id": 10, "orders": 10, "quantity": 47})
        self.assertEqual(answer.headers["Cache-Control"], "private, max-age=60")

    def test_a_receipt_is_issued_anew_each_time(self):
        issued = set()
        for base in BASE_URLS * 2:
            receipt = ask(base, "GET", "/receipts/7").json
            issued.add((receipt.pop("request_uuid"), receipt.pop("served_at")))
            order = {"id": 7, "item": "item-7", "quantity": 8}
            self.assertEqual(receipt, {**order, "labels": ["paid", "packed", "posted"]})
        self.assertEqual(len(issued), 2 * len(BASE_URLS))

    def test_sleep_says_how_long_it_slept(self):
        self.assertEqual(self.alike("GET", "/sleep?ms=20").json, {"slept_ms": 20})
        for query in ("", "?ms=", "?ms=-1", "?ms=1.5", "?ms=10001", "?ms=5&ms=x"):
            self.refused(400, "ms must be a number from 0 to 10000", "GET", f"/sleep{query}")

    def test_bytes_are_all_there_and_in_order(self):
        for length in (0, 1, 64_255, 64_256, 64_257, MANY):
            answer = self.alike("GET", f"/bytes/{length}")
            self.assertEqual(answer.headers["Content-Length"], str(length))
            # Not assertEqual: its message would print the whole body.
            self.assertTrue(answer.body == pattern(length), f"the {length} bytes differ")
        self.refused(400, "at most 4294967296", "GET", "/bytes/4294967297")

    def test_digest_is_of_the_whole_body(self):
        body = pattern(MANY)
        expected = {"bytes": MANY, "sha256": hashlib.sha256(body).hexdigest()}
        self.assertEqual(self.alike("POST", "/digest", body).json, expected)
        self.assertEqual(self.alike("POST", "/digest", b"").json["bytes"], 0)

    def test_digest_takes_a_chunked_body(self):
        body = pattern(1_000_003)
        for base in BASE_URLS:
            # One iterator for each backend, as a request uses it up.
            chunks = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
            answer = ask(base, "POST", "/digest", chunks)
            self.assertEqual(answer.json["sha256"], hashlib.sha256(body).hexdigest())

    def test_status_is_as_asked(self):
        for code in (200, 299, 302, 404, 418, 500, 503, 599):
            answer = self.alike("GET", f"/status/{code}")
            self.assertEqual((answer.status, answer.json), (code, {"status": code}))
        for code in (204, 304):
            answer = self.alike("GET", f"/status/{code}")
            self.assertEqual((answer.status, answer.body), (code, b""))
        for code in (0, 101, 199, 600):
            text = "status must be a number from 200 to 599"
            self.refused(400, text, "GET", f"/status/{code}")

    def test_what_does_not_exist_is_not_found(self):
        for path in (
            "/", "/nowhere", "/healthz/", "/orders/", "/orders/1001001", "/orders/x",
            "/orders/7/more", "/orders/-1", "/orders/1%2F2", "/orders/" + "9" * 3000, "/reports/x",
            "/receipts/x", "/receipts/1001001",
            "/bytes/x", "/status/x",
        ):
            self.refused(404, "not found", "GET", path)

    def test_the_wrong_method_is_told_the_right_one(self):
        for method, path in (("POST", "/healthz"), ("DELETE", "/orders/7"), ("OPTIONS", "/sleep")):
            answer = self.refused(405, "method not allowed", method, path)
            self.assertEqual(answer.headers["Allow"], "GET, HEAD")
        for path in ("/orders", "/digest"):
            answer = self.refused(405, "method not allowed", "GET", path)
            self.assertEqual(answer.headers["Allow"], "POST")


if __name__ == "__main__":
    # What looks like a URL is a backend; the rest is for unittest (-v, -k, test names).
    BASE_URLS += [argument for argument in sys.argv[1:] if "://" in argument]
    unittest.main(argv=[argument for argument in sys.argv if "://" not in argument])
