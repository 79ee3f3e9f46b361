"""Endpoints that die, hang and come back under load."""

import itertools
import json
import random
import time

from callers import Ask, Callers, only_get, tally
from chaos import (
    ChaosTest,
    h2load,
    is_up,
    seconds_until,
    served,
    share,
    share_of,
    urls,
)
from soak import Soak

RATE = 2000
SEED = 1
# A deadline that passed is noticed this late at the most, on a machine that has time for it.
LATE_SECONDS = 0.5
EVEN = 1 / 3


class Deaths(ChaosTest):
    def test_a_killed_endpoint_costs_no_get_of_two_thousand_a_second(self):
        mortal, *_ = self.start_endpoints()
        # Out for 1 s, then tried again, and for 2 s as it is still dead.
        proxy = self.start_proxy('slow_start = "3s"', 'for = "1s"')
        with h2load(proxy, RATE, 12) as report:
            time.sleep(1.5)
            even = share(proxy, mortal, 0.5)
            mortal.kill()
            out = seconds_until(lambda: not is_up(proxy, mortal), "the dead one is still used")
            time.sleep(1.5)
            mortal.start()
            before = served(proxy, mortal)
            back = seconds_until(
                lambda: served(proxy, mortal) > before, "the one that came back gets nothing"
            )
            first = share(proxy, mortal, 1)
            time.sleep(2)
            last = share(proxy, mortal, 1)
        self.assertEqual(report.failed, 0, report.output)
        self.assertEqual(report.succeeded, report.done)
        self.assertGreater(report.done, 0.7 * RATE * 12, "too slow for what is shown here")
        self.assertRegex(report.output, r" 0 3xx, 0 4xx, 0 5xx")
        retries = {
            labels["result"]: value
            for labels, value in proxy.metrics().samples("cutover_retries_total", path="legacy")
        }
        # Five failures eject it, and five more when it is tried again.
        self.assertGreaterEqual(retries.pop("success"), 5)
        self.assertEqual(sum(retries.values()), 0, retries)
        self.assertAlmostEqual(even, EVEN, delta=0.05)
        self.assertLess(first, 0.75 * EVEN)
        self.assertAlmostEqual(last, EVEN, delta=0.07)
        self.assert_nothing_leaked(proxy)
        print(
            f"kill: {report.done} GETs, 0 failed, out after {out * 1e3:.0f} ms, back {back:.2f} s "
            f"after its start, shares {even:.2f} {first:.2f} {last:.2f}"
        )

    def test_of_posts_only_those_that_the_killed_endpoint_had_fail(self):
        mortal, *others = self.start_endpoints()
        proxy = self.start_proxy(eject='for = "30s"')
        post = Ask("POST", "/slow?ms=50")
        with h2load(proxy, RATE * 3 / 4, 6) as report:
            with Callers(proxy.port, RATE / 4, lambda _: post, 60, SEED) as callers:
                time.sleep(2)
                kill_began = time.monotonic()
                mortal.kill()
                killed = time.monotonic()
                time.sleep(2)
        self.assertEqual(report.failed, 0, report.output)
        self.assertRegex(report.output, r" 0 3xx, 0 4xx, 0 5xx")

        failed = [call for call in callers.calls if not call.is_good]
        good = {call.number for call in callers.calls if call.is_good}
        self.assertGreater(len(good), 0.7 * RATE / 4 * 4, "too slow for what is shown here")
        self.assertLessEqual(tally(failed).keys(), {("POST", 502)})
        for call in failed:
            self.assertLess(call.sent, killed + 0.1 + callers.lag, "that is long after the death")
            self.assertGreater(call.ended, kill_began)
        # What it had begun and not answered is what was in flight there. A few more were on their
        # way: in its sockets, or sent before the proxy had been told of the end.
        begun = mortal.begun()
        in_flight = set(begun) - good
        unread = {call.number for call in failed} - in_flight
        self.assertGreater(len(in_flight), 0, "the kill has met no POST")
        self.assertEqual({call.number for call in failed} - unread, in_flight)
        self.assertLessEqual(len(unread), 5)
        # None was begun twice, and each that succeeded was begun.
        everywhere = begun + list(itertools.chain(*(other.begun() for other in others)))
        self.assertEqual(len(everywhere), len(set(everywhere)), "a POST was begun twice")
        self.assertLessEqual(good, set(everywhere))
        resets = proxy.metrics().sum("cutover_errors_total", kind="reset", path="legacy")
        self.assertEqual(resets, len(failed))
        self.assert_nothing_leaked(proxy)
        print(
            f"kill: {report.done} GETs, {len(callers.calls)} POSTs, {len(failed)} failed, "
            f"{len(in_flight)} begun there and not answered, {len(unread)} on their way"
        )

    def test_an_endpoint_that_flaps_costs_no_get(self):
        flapping, *_ = self.start_endpoints()
        # Each of its deaths is met: it is out for no longer than it is dead.
        proxy = self.start_proxy('slow_start = "0s"', 'for = "100ms"\nmax_for = "200ms"')
        timing = random.Random(SEED)
        with Callers(proxy.port, 500, only_get, seed=SEED) as callers:
            time.sleep(0.5)
            end = time.monotonic() + 5
            deaths = 0
            while time.monotonic() < end:
                time.sleep(timing.uniform(0.2, 0.4))
                flapping.kill()
                deaths += 1
                time.sleep(timing.uniform(0.0, 0.2))
                flapping.start()
            time.sleep(0.5)
        self.assert_all_good(callers.calls)
        self.assertGreater(deaths, 4)
        metrics = proxy.metrics()
        retries = metrics.sum("cutover_retries_total", path="legacy", result="success")
        self.assertGreaterEqual(retries, deaths)
        slowest = max(call.seconds for call in callers.calls)
        self.assert_nothing_leaked(proxy)
        print(
            f"flapping: {len(callers.calls)} GETs, {deaths} deaths, {retries:.0f} retries, "
            f"slowest {slowest * 1e3:.0f} ms"
        )


class Return(ChaosTest):
    def test_an_endpoint_that_appears_gets_more_by_and_by(self):
        for balance in ("round_robin", "least_request"):
            with self.subTest(balance):
                self.check(balance)

    def check(self, balance):
        new, *old = self.start_endpoints()
        self.endpoints = old
        proxy = self.start_proxy(f'balance = "{balance}"\nslow_start = "4s"')
        with Callers(proxy.port, 500, only_get, seed=SEED) as callers:
            time.sleep(0.5)
            text = proxy.config.read_text()
            proxy.config.write_text(text.replace(urls(old), urls([new, *old]), 1))
            is_known = lambda: any(
                proxy.metrics().samples("cutover_endpoint_up", endpoint=new.label)
            )
            seconds_until(is_known, "the new endpoint is not in force")
            appeared = time.monotonic()
            time.sleep(6)
        self.assert_all_good(callers.calls)
        seconds = [
            share_of(callers.calls, new, appeared + second, appeared + second + 1)
            for second in range(6)
        ]
        print(f"slow start, {balance}: shares {' '.join(f'{share:.2f}' for share in seconds)}")
        # By weight alone: an eighth of a weight to two whole ones, three eighths, and so on.
        self.assertLess(seconds[0], EVEN / 2)
        self.assertAlmostEqual(seconds[2], 5 / 8 / (2 + 5 / 8), delta=0.12)
        self.assertAlmostEqual(seconds[5], EVEN, delta=0.1)


class Stalls(ChaosTest):
    """SIGSTOP: the kernel still accepts connections and requests, and nobody answers."""

    INTERVAL = 0.5
    HEALTH = 'health = { path = "/healthz", interval = "500ms", timeout = "200ms" }'

    def test_probes_find_one_that_hangs_and_one_that_is_back(self):
        hanging, *_ = self.start_endpoints()
        # No ejection: what is seen here is what the probes see.
        limits = 'slow_start = "3s"\nresponse_timeout = "1s"\n' + self.HEALTH
        proxy = self.start_proxy(limits, "consecutive_failures = 0")
        with Callers(proxy.port, 500, only_get, seed=SEED) as callers:
            time.sleep(1.5)
            hanging.pause()
            stopped = time.monotonic()
            down = seconds_until(
                lambda: not is_up(proxy, hanging), "nobody has noticed that it hangs"
            )
            time.sleep(1.5)
            hanging.resume()
            up = seconds_until(lambda: is_up(proxy, hanging), "nobody has noticed it")
            back = time.monotonic()
            time.sleep(5)
        unhealthy_after, healthy_after = 3, 2
        late = LATE_SECONDS + callers.lag
        self.assertLess(down, unhealthy_after * self.INTERVAL + late)
        self.assertLess(up, healthy_after * self.INTERVAL + late)
        self.assert_all_good(callers.calls)
        gone = stopped + down
        self.assertEqual(share_of(callers.calls, hanging, gone + 0.2, gone + 1.5), 0)
        first = share_of(callers.calls, hanging, back, back + 1)
        last = share_of(callers.calls, hanging, back + 4, back + 5)
        self.assertLess(first, 0.75 * EVEN)
        self.assertAlmostEqual(last, EVEN, delta=0.1)
        self.assert_nothing_leaked(proxy)
        print(
            f"stop with probes: {len(callers.calls)} GETs, 0 failed, down after {down:.2f} s, "
            f"up {up:.2f} s after it goes on, shares {first:.2f} {last:.2f}"
        )

    def test_without_probes_requests_that_get_no_answer_eject_it(self):
        hanging, *_ = self.start_endpoints()
        proxy = self.start_proxy('response_timeout = "300ms"\nslow_start = "0s"', 'for = "2s"')
        # Mostly POST: the few requests that it gets must not all be such as are sent again.
        kinds = [Ask(), Ask("POST"), Ask("POST"), Ask("POST")]
        with Callers(proxy.port, 300, lambda draw: draw.choice(kinds), seed=SEED) as callers:
            time.sleep(1)
            hanging.pause()
            stopped = time.monotonic()
            out = seconds_until(lambda: not is_up(proxy, hanging), "it was not ejected")
            time.sleep(1)
            hanging.resume()
            seconds_until(lambda: is_up(proxy, hanging), "it was not taken back")
            back = time.monotonic()
            time.sleep(1)
        calls = callers.calls
        # A GET is sent to another endpoint; a POST may have been processed, so it is not.
        self.assertLessEqual(tally(calls).keys(), {("GET", 200), ("POST", 200), ("POST", 504)})
        late = [call for call in calls if not call.is_good]
        self.assertLess(max(call.sent for call in late) - stopped, out + LATE_SECONDS + callers.lag)
        slowest = max(call.seconds for call in calls)
        self.assertLess(slowest, 0.3 + 0.2 + LATE_SECONDS + callers.lag)
        self.assertEqual(share_of(calls, hanging, stopped + out + 0.2, stopped + out + 1), 0)
        again = share_of(calls, hanging, back + 0.2, back + 1)
        self.assertAlmostEqual(again, EVEN, delta=0.12)
        ejections = proxy.metrics().sum(
            "cutover_endpoint_ejections_total", path="legacy", endpoint=hanging.label
        )
        self.assertEqual(ejections, 1)
        self.assert_nothing_leaked(proxy)
        print(
            f"stop without probes: {tally(calls)}, out after {out:.2f} s, "
            f"slowest {slowest * 1e3:.0f} ms, share after its return {again:.2f}"
        )


class Misbehaviour(ChaosTest):
    """One of three endpoints misbehaves in a way of its own; it is charged, the others are not."""

    KINDS = {
        "reset": "reset",
        "half-close": "reset",
        "garbage": "protocol",
        "late": "response_timeout",
    }

    def test_each_fault_is_charged_to_its_endpoint_and_gets_go_elsewhere(self):
        for manner, kind in self.KINDS.items():
            with self.subTest(manner):
                self.check(manner, kind)

    def check(self, manner, kind):
        bad, *good = self.start_endpoints(manner, None, None)
        proxy = self.start_proxy('response_timeout = "300ms"', 'for = "30s"')
        kinds = [Ask(), Ask("POST")]
        with Callers(proxy.port, 200, lambda draw: draw.choice(kinds), 20, SEED) as callers:
            time.sleep(2)
        ends = tally(callers.calls)
        failed_posts = sum(n for (method, end), n in ends.items() if end != 200)
        self.assertLessEqual(
            ends.keys(), {("GET", 200), ("POST", 200), ("POST", 502), ("POST", 504)}
        )
        metrics = proxy.metrics()
        # GETs that went elsewhere failed no path; POSTs did, each by this kind of fault.
        errors = {
            labels["kind"]: value
            for labels, value in metrics.samples("cutover_errors_total", path="legacy")
            if value
        }
        self.assertEqual(errors, {kind: failed_posts} if failed_posts else {})
        self.assertEqual(served(proxy, bad), 0)
        self.assertEqual([served(proxy, other, "failure") for other in good], [0, 0])
        charged = served(proxy, bad, "failure")
        retries = metrics.sum("cutover_retries_total", path="legacy", result="success")
        self.assertEqual(charged, retries + failed_posts)
        # More than the five that it takes only by what was under way as the fifth came back.
        self.assertGreaterEqual(charged, 5)
        self.assertLessEqual(charged, 5 + 20)
        self.assertFalse(is_up(proxy, bad))
        self.assert_nothing_leaked(proxy)
        print(f"{manner}: {dict(ends)}, {charged:.0f} charged, {retries:.0f} retried")

    def test_a_reply_that_breaks_off_is_not_made_whole_and_is_charged(self):
        bad, *good = self.start_endpoints("cut", None, None)
        proxy = self.start_proxy(eject='for = "30s"')
        with Callers(proxy.port, 200, only_get, 20, SEED) as callers:
            time.sleep(2)
        ends = tally(callers.calls)
        cut = ends["GET", "cut"]
        self.assertEqual(ends.keys(), {("GET", 200), ("GET", "cut")})
        self.assertLessEqual(cut, 5 + 20)
        self.assertEqual(served(proxy, bad, "failure"), cut)
        self.assertEqual(proxy.metrics().sum("cutover_errors_total", kind="reset"), cut)
        self.assertEqual([served(proxy, other, "failure") for other in good], [0, 0])
        self.assertFalse(is_up(proxy, bad))
        self.assert_nothing_leaked(proxy)
        print(f"cut: {dict(ends)}")


class Soaked(ChaosTest):
    def test_a_short_soak_adds_up(self):
        summary = Soak(20, SEED).run()
        print("soak:", json.dumps(summary))
        self.assertEqual(summary["complaints"], [])
        self.assertGreater(summary["sent"], 2000)
        self.assertGreater(summary["faults"].get("killed", 0), 0)
        self.assertGreater(summary["faults"].get("paused", 0), 0)
