"""A backend that dies."""

import collections
import http.client
import time

from load import Load
from processes import eventually
from world import RealTest, backend_of

CLIENTS = 8
CONNECT_TIMEOUT = 1.0


class Death(RealTest):
    def test_the_death_of_async_is_its_own_and_its_return_is_noticed(self):
        mortal = self.enterContext(self.start_async())
        proxy = self.start_proxy(0.5, more="[split]\nexpose_path = true", async_port=mortal.port)
        with Load(proxy.port, "/whoami", CLIENTS) as load:
            load.await_outcomes(500)
            mortal.process.kill()
            killed = time.monotonic()
            load.await_outcomes(1000)
        self.assert_only_async_failed(proxy, load.outcomes, killed)
        # Counted where it belongs: none of it is legacy's fault.
        metrics = proxy.metrics()
        errors = metrics.samples("cutover_errors_total", path="legacy")
        self.assertEqual(sum(value for _, value in errors), 0)
        reloads = metrics.sum("cutover_config_reloads_total")

        self.enterContext(self.start_async(port=mortal.port))
        with Load(proxy.port, "/whoami", CLIENTS) as load:
            load.await_outcomes(500)
        names = collections.Counter(backend_of(o.reply) for o in load.outcomes)
        self.assertEqual({o.reply.status for o in load.outcomes}, {200})
        self.assertAlmostEqual(names["async"] / names.total(), 0.5, delta=0.05)
        self.assertEqual(proxy.metrics().sum("cutover_config_reloads_total"), reloads)

    def assert_only_async_failed(self, proxy, outcomes, killed):
        cut, whole = [o for o in outcomes if o.fault], [o for o in outcomes if o.reply]
        for outcome in cut:
            # A reply whose head had gone out when its backend died can only be cut short.
            self.assertIsInstance(outcome.fault, http.client.IncompleteRead)
            self.assertLess(outcome.sent, killed)
        codes = collections.Counter()
        for outcome in whole:
            reply = outcome.reply
            codes[reply.headers["X-Cutover-Path"], reply.status] += 1
            if reply.status != 200:
                self.assertEqual(reply.status, 502)
                self.assertRegex(reply.headers["Proxy-Status"], r"^cutover; error=connection_")
                self.assertLess(outcome.seconds, CONNECT_TIMEOUT)
        self.assertNotIn(("legacy", 502), codes)
        # None of those cut short was legacy's: all of its replies have arrived.
        served = codes["legacy", 200]
        eventually(
            lambda: proxy.counts()["legacy", 200] == served,
            2,
            lambda: f"{served} replies of legacy have arrived, {proxy.counts()} is counted",
        )
        dead = [o for o in whole if o.sent > killed]
        served = [o for o in dead if o.reply.status == 200]
        self.assertEqual({backend_of(o.reply) for o in served}, {"legacy"})
        self.assertAlmostEqual(len(served) / len(dead), 0.5, delta=0.05)
        slowest = max(o.seconds for o in dead if o.reply.status == 502) * 1e3
        print(f"death: {len(dead)} requests, {len(served)} served, slowest 502 {slowest:.0f} ms")
