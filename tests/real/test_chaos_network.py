"""A network that loses packets, swallows them, or resets connections."""

import contextlib
import subprocess
import time
import unittest

from callers import Ask, Callers, tally
from chaos import ChaosTest, is_up, seconds_until, served
from namespaces import FAR, cabled

SEED = 1
# `connect_timeout` and `response_timeout` here; the clock that tells them is late by up to 0.2 s.
TIMEOUT = 0.3
LIMITS = 'connect_timeout = "300ms"\nresponse_timeout = "300ms"\nslow_start = "0s"'
SLOWEST = 2 * (TIMEOUT + 0.2) + 0.5
KINDS = [Ask(), Ask(), Ask(), Ask("POST")]


class Network(ChaosTest):
    @classmethod
    def setUpClass(cls):
        try:
            cls.far = cls.enterClassContext(cabled())
        except (OSError, AssertionError, subprocess.CalledProcessError) as fault:
            raise unittest.SkipTest(f"needs root and network namespaces: {fault}")

    def setUp(self):
        self.endpoints = [
            self.start_endpoint(name, host=host, prefix=self.far.prefix)
            for name, host in zip("abc", FAR)
        ]

    @contextlib.contextmanager
    def calling(self, proxy, rate=300):
        with Callers(proxy.port, rate, lambda draw: draw.choice(KINDS), 40, SEED) as callers:
            time.sleep(1)
            yield callers
        # None of them got anything else, or nothing.
        self.assertLessEqual(
            {end for _, end in tally(callers.calls)}, {200, 502, 504}, tally(callers.calls)
        )

    def cut_off(self, proxy, lost, rule):
        """Keeps an endpoint off by a rule of the network until it is out, and for half a second;
        how long both ways took, and when it was back."""
        self.far.filter(rule)
        out = seconds_until(lambda: not is_up(proxy, lost), "it is still used")
        time.sleep(0.5)
        self.far.unfilter()
        before = served(proxy, lost)
        back = seconds_until(
            lambda: served(proxy, lost) > before, "it gets nothing although it is back"
        )
        healed = time.monotonic()
        time.sleep(1)
        return out, back, healed

    def test_a_black_hole_around_one_endpoint_costs_no_get(self):
        lost, *_ = self.endpoints
        proxy = self.start_proxy(LIMITS, 'for = "1s"')
        with self.calling(proxy) as callers:
            out, back, healed = self.cut_off(proxy, lost, f"ip daddr {lost.host} drop")
        calls = callers.calls
        self.assert_all_good([call for call in calls if call.ask.method == "GET"])
        self.assert_all_good([call for call in calls if call.sent > healed + 0.5])
        slowest = max(call.seconds for call in calls)
        self.assertLess(slowest, SLOWEST + callers.lag)
        self.assert_nothing_leaked(proxy)
        print(
            f"black hole: {tally(calls)}, out after {out:.2f} s, back after {back:.2f} s, "
            f"slowest {slowest * 1e3:.0f} ms"
        )

    def test_a_cut_cable_is_answered_in_time_and_heals_at_once(self):
        proxy = self.start_proxy(LIMITS, 'for = "1s"')
        with self.calling(proxy) as callers:
            self.far.link("down")
            cut = time.monotonic()
            time.sleep(2)
            self.far.link("up")
            mended = time.monotonic()
            time.sleep(2.5)
        calls = callers.calls
        dark = [call for call in calls if cut < call.sent < mended - SLOWEST]
        self.assertGreater(len(dark), 10)
        self.assertEqual([call for call in dark if call.is_good], [])
        slowest = max(call.seconds for call in calls)
        self.assertLess(slowest, SLOWEST + callers.lag)
        bad = [call for call in calls if not call.is_good]
        healed = max(0, max(call.ended for call in bad) - mended)
        self.assertLess(healed, 1 + callers.lag)
        self.assert_nothing_leaked(proxy)
        print(
            f"cut cable: {tally(calls)}, healed after {healed:.2f} s, "
            f"slowest {slowest * 1e3:.0f} ms"
        )

    def test_lost_packets_are_late_and_cost_nothing_else(self):
        # Long enough for what the kernel sends again.
        proxy = self.start_proxy('connect_timeout = "5s"\nresponse_timeout = "10s"')
        self.far.filter("numgen random mod 100 < 5 drop")
        self.addCleanup(self.far.unfilter)
        with self.calling(proxy) as callers:
            time.sleep(4)
        self.assert_all_good(callers.calls)
        seconds = sorted(call.seconds for call in callers.calls)
        median, slowest = seconds[len(seconds) // 2], seconds[-1]
        # The kernel waits for 200 ms before it sends again: some were lost, most were not.
        self.assertGreater(slowest, 0.15)
        self.assertLess(median, 0.1 + callers.lag)
        metrics = proxy.metrics()
        self.assertEqual(metrics.sum("cutover_endpoint_ejections_total", path="legacy"), 0)
        self.assert_nothing_leaked(proxy)
        print(
            f"loss of 5 %: {tally(callers.calls)}, median {median * 1e3:.1f} ms, "
            f"slowest {slowest * 1e3:.0f} ms"
        )

    def test_resets_by_the_network_are_the_endpoints_and_cost_no_get(self):
        lost, *good = self.endpoints
        proxy = self.start_proxy(LIMITS, 'for = "1s"')
        with self.calling(proxy) as callers:
            reject = f"ip daddr {lost.host} meta l4proto tcp reject with tcp reset"
            out, back, healed = self.cut_off(proxy, lost, reject)
        calls = callers.calls
        self.assert_all_good([call for call in calls if call.ask.method == "GET"])
        self.assert_all_good([call for call in calls if call.sent > healed + 0.5])
        self.assertEqual([served(proxy, other, "failure") for other in good], [0, 0])
        self.assertGreaterEqual(served(proxy, lost, "failure"), 5)
        # A refusal is told at once: nobody waits for a timeout.
        slowest = max(call.seconds for call in calls)
        self.assertLess(slowest, TIMEOUT + callers.lag)
        self.assert_nothing_leaked(proxy)
        print(
            f"resets: {tally(calls)}, out after {out * 1e3:.0f} ms, back after {back:.2f} s, "
            f"slowest {slowest * 1e3:.0f} ms"
        )
