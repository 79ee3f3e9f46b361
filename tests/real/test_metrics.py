"""The counters against what the clients know."""

import collections
import itertools
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from processes import eventually
from world import RealTest, ask, connect, exchange

ROUTE = '[split]\nexpose_path = true\n[[route]]\nname = "orders"\nmatch = "* /orders/{id}"\n'
# Replies of each kind, with and without a body.
REQUESTS = [
    ("GET", "/whoami", None),
    ("HEAD", "/orders/7", None),
    ("GET", "/orders/8", None),
    ("GET", "/nowhere", None),
    ("POST", "/orders", b'{"item": "tea", "quantity": 3}'),
    ("POST", "/orders", b"not json"),
    ("POST", "/digest", b"x" * 100_000),
    ("GET", "/bytes/100000", None),
    ("GET", "/status/503", None),
    ("GET", "/status/204", None),
]


class MetricsPage(RealTest):
    def test_each_reply_is_counted_once_with_its_path_and_code(self):
        proxy = self.start_proxy(0.3, more=ROUTE)

        def client(_):
            connection = connect(proxy.port)
            replies = [
                exchange(connection, path, method, body) for method, path, body in REQUESTS * 5
            ]
            connection.close()
            return [(reply.headers["X-Cutover-Path"], reply.status) for reply in replies]

        with ThreadPoolExecutor(8) as pool:
            seen = collections.Counter(itertools.chain(*pool.map(client, range(8))))
        self.assertEqual(seen.total(), 8 * 5 * len(REQUESTS))
        proxy.await_counts(seen)
        metrics = proxy.metrics()
        self.assertEqual(metrics.sum("cutover_requests_total", route="orders"), 8 * 5 * 2)
        self.assertEqual(metrics.sum("cutover_request_duration_seconds_count"), seen.total())
        self.assertEqual(metrics.sum("cutover_split_decisions_total"), seen.total())
        self.assertEqual(metrics.sum("cutover_requests_in_flight"), 0)

    def test_ten_thousand_requests_of_h2load_are_ten_thousand(self):
        proxy = self.start_proxy(0.5)
        load = ["h2load", "--h1", "--requests", "10000", "--clients", "32"]
        command = [*load, f"{proxy.url}/whoami"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertIn("10000 succeeded, 0 failed, 0 errored, 0 timeout", done.stdout)
        eventually(
            lambda: proxy.counts().total() == 10_000, 2, lambda: f"{proxy.counts()} is counted"
        )
        counts = proxy.counts()
        self.assertEqual(counts.keys(), {("legacy", 200), ("async", 200)})
        self.assertAlmostEqual(counts["async", 200], 5000, delta=4)

    def test_a_refused_request_is_counted_for_no_path(self):
        proxy = self.start_proxy(0.5)
        reply = ask(proxy.port, "/whoami", headers={"Host": "a b"})
        self.assertEqual(reply.status, 400)
        proxy.await_counts({("none", 400): 1})

    def test_who_asks_for_openmetrics_gets_it_with_the_traces_of_slow_requests(self):
        # Nobody takes the spans: exemplars are there all the same.
        trace = '[trace]\notlp_endpoint = "http://127.0.0.1:9"\nsample_ratio = 1.0\n'
        proxy = self.start_proxy(0.5, more=ROUTE + trace)
        for _ in range(10):
            ask(proxy.port, "/orders/7")
        eventually(lambda: proxy.counts().total() == 10, 2, proxy.counts)
        plain = proxy.metrics()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        reply = ask(proxy.admin_port, "/metrics", headers=accept)
        kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
        self.assertEqual(reply.headers["Content-Type"], kind)
        families = {f.name: f for f in text_string_to_metric_families(reply.body.decode())}
        self.assertGreater(len(families), 40)
        requests = families["cutover_requests"]
        self.assertEqual(requests.type, "counter")
        orders = [s.value for s in requests.samples if s.labels["route"] == "orders"]
        self.assertEqual(sum(orders), plain.sum("cutover_requests_total", route="orders"))
        samples = families["cutover_request_duration_seconds"].samples
        exemplars = [s.exemplar for s in samples if s.exemplar]
        self.assertGreaterEqual(len(exemplars), 2)
        for exemplar in exemplars:
            self.assertRegex(exemplar.labels["trace_id"], "^[0-9a-f]{32}$")
            self.assertAlmostEqual(float(exemplar.timestamp), time.time(), delta=60)
