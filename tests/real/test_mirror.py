"""The mirror before real backends: it finds the faults that SHOP_DRIFT=1 plants and nothing else,
and whatever becomes of its own requests, clients are answered, memory is bounded, the proxy ends.
"""

import collections
import contextlib
import http.client
import json
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from callers import Callers, only_get, tally
from chaos import ChaosTest
from endpoints import hold_port, serving
from processes import eventually
from world import RealTest, connect, exchange

SEED = 1
CLIENTS = 8
SETTLE_SECONDS = 15
# All of it, so far as the rates and caps are concerned.
ALL = 'share = 1.0\nmax_rps = 10000\nconnections = 64\nin_flight = 256\nnoise_share = 0.4\n'


class Ask(NamedTuple):
    """A request, the statuses that are right for it, and the body's length if that is known."""

    path: str
    method: str = "GET"
    statuses: tuple = (200,)
    length: int | None = None


def ask_all(port, asks):
    """Asks for all of it over some connections. What was not answered right, each as a line."""

    def client(number):
        wrong = []
        with contextlib.closing(connect(port)) as connection:
            for ask in asks[number::CLIENTS]:
                try:
                    reply = exchange(connection, ask.path, ask.method)
                except (OSError, http.client.HTTPException) as fault:
                    wrong.append(f"{ask.method} {ask.path}: {fault!r}")
                    connection.close()
                else:
                    is_right = reply.status in ask.statuses
                    if not is_right or ask.length not in (None, len(reply.body)):
                        wrong.append(f"{ask.method} {ask.path}: {reply.status} {reply.body[:99]}")
        return wrong

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS)), [])


def shuffled(cycle, times):
    asks = cycle * times
    random.Random(SEED).shuffle(asks)
    return asks


def results(proxy):
    """What became of requests, by the mirror's counts."""
    return counted(proxy, "cutover_mirror_total", "result")


def left_out(proxy):
    """Why some were not mirrored."""
    return counted(proxy, "cutover_mirror_skipped_total", "reason")


def counted(proxy, metric, label):
    found = collections.Counter()
    for labels, value in proxy.metrics().samples(metric):
        found[labels[label]] += int(value)
    return +found


# === What it finds ===

# 400 or more of each route that differs, of which 160 are asked for twice: 100 are what a finding
# takes. Reports set the pace, and the P95 of both paths: so a machine that is busy with something
# else does not make async look twice as slow, at which the mirror would pause.
CYCLE = [
    Ask("/orders/7"),
    Ask("/orders/8"),
    Ask("/orders/1001001", statuses=(404, 200)),
    Ask("/reports/10"),
    Ask("/reports/20"),
    Ask("/reports/30", "HEAD"),
    Ask("/receipts/7"),
    Ask("/receipts/8"),
    Ask("/healthz"),
    Ask("/bytes/1000", length=1000),
    Ask("/status/503", statuses=(503,)),
]
ROUTES = ("orders", "reports", "receipts", "bytes", "status")

# The five as they are told: a member with another name is missing, and another one is there.
STATUS = ("orders", "status", "")
TEXT = ("orders", "type", "/quantity")
HEADER = ("reports", "header", "cache-control (presence)")
RENAMED = {("reports", "missing", "/orders"), ("reports", "extra", "/order_count")}
ORDER = ("receipts", "order", "/labels")
NEW_EACH_TIME = {("receipts", "value", "/request_uuid"), ("receipts", "value", "/served_at")}

RULES = {
    "orders": {"ignore": ["/quantity"]},
    "reports": {"ignore": ["/orders", "/order_count"]},
    "receipts": {"ignore": ["/request_uuid", "/served_at"], "unordered": ["/labels"]},
}


def route_tables(rules):
    # A list of texts is the same in TOML and in JSON.
    return "".join(
        f'[[route]]\nname = "{name}"\nmatch = "* /{name}/{{id}}"\n'
        + "".join(f"{key} = {json.dumps(list_)}\n" for key, list_ in rules.get(name, {}).items())
        for name in ROUTES
    )


class Drift(RealTest):
    @classmethod
    def environment(cls, **more):
        return super().environment(SHOP_DRIFT="1", **more)

    def compare(self, rules):
        """Mirrors the whole load; the report of it, and what it found as sets of places."""
        proxy = self.start_proxy(0.1, more=f"[mirror]\n{ALL}{route_tables(rules)}")
        asks = shuffled(CYCLE, 200)
        began = time.monotonic()
        self.assertEqual(ask_all(proxy.port, asks), [])
        took = time.monotonic() - began
        eventually(
            lambda: results(proxy).total() == len(asks),
            SETTLE_SECONDS,
            lambda: f"{results(proxy)} of {len(asks)}",
        )
        document = json.loads(proxy.admin("/api/v1/diffs").body)
        told = json.dumps(document, indent=1)
        found = collections.defaultdict(set)
        for line in document["differences"]:
            found[line["finding"]].add((line["route"], line["kind"], line["place"]))
        twice = {of["route"]: of["asked_twice"] for of in document["routes"]}
        few = {route: twice[route] for route in ("orders", "reports", "receipts")}
        self.assertGreaterEqual(min(few.values()), 100, f"{few}, {left_out(proxy)}\n{told}")
        shown = json.loads(proxy.cutover("diffs", "--json"))
        self.assertEqual(shown["differences"], document["differences"])
        self.assertFalse(document["gate"]["open"], told)
        became = f"{dict(results(proxy))} {dict(left_out(proxy))}"
        print(f"\ndrift: {len(asks)} requests in {took:.1f} s, {became}", file=sys.stderr)
        return document, found, told

    def test_the_five_planted_differences_are_found_and_nothing_else(self):
        _, found, told = self.compare({})
        expected = {STATUS, TEXT, HEADER, ORDER} | RENAMED
        self.assertEqual(found["regression"], expected, told)
        self.assertEqual(found["noise"], NEW_EACH_TIME, told)
        self.assertEqual(found["difference"], set(), told)

    def test_rules_silence_what_they_name_and_show_their_hits(self):
        document, found, told = self.compare(RULES)
        self.assertEqual(found, {"regression": {STATUS, HEADER}}, told)
        hits = {(of["route"], of["rule"], of["text"]): of["hits"] for of in document["rules"]}
        named = {
            (route, rule, text)
            for route, lists in RULES.items()
            for rule, texts in lists.items()
            for text in texts
        }
        self.assertEqual(hits.keys(), named, told)
        self.assertTrue(all(hits.values()), f"a rule has no hit: {hits}")


# === What it costs, whatever becomes of it ===

# Fits `response_bytes`, and 400 of it do not fit `memory`.
LENGTH = 250_000
PLAIN = [
    Ask(f"/bytes/{LENGTH}", length=LENGTH),
    Ask("/orders/7", length=len('{"id":7,"item":"item-7","quantity":8}')),
    Ask("/nowhere", statuses=(404,)),
    Ask("/orders/8", "HEAD"),
]
LARGE = [Ask(f"/bytes/{LENGTH}", length=LENGTH)] * 4
TIMES = 100
MIRROR = "[mirror]\nshare = 1.0\nmax_rps = 10000\n"
# So that of all caps that of the memory is met first.
WIDE = "connections = 1024\nin_flight = 1024\n"
MEMORY_MIB = 32
# What the workers, the clients' connections and the mirror's own hold beside that.
SLACK_MIB = 24
# The wait for handshakes under way is 0.25 s of it; the rest is a machine that has no time.
EXIT_SECONDS = 1.5


class Isolation(RealTest):
    """In each test the shadow's backend is another one, and legacy is well."""

    def check(self, name, port, did, cycle=PLAIN, mirror=MIRROR):
        """`did` says of the results, and of how many are in flight, whether the mirror met it."""
        proxy = self.start_proxy(0.0, more=mirror, async_port=port)
        before = proxy.process.resident_mib()
        asks = shuffled(cycle, TIMES)
        self.assertEqual(ask_all(proxy.port, asks), [], name)
        # Exactly the client's: none twice, none on the shadow's path.
        proxy.await_counts(collections.Counter(("legacy", *ask.statuses) for ask in asks))
        now = lambda: (results(proxy), proxy.metrics().sum("cutover_mirror_in_flight"))
        eventually(lambda: did(*now()), SETTLE_SECONDS, lambda: f"{name}: {now()}")
        counts, in_flight = now()
        became = f"{dict(counts)} {dict(left_out(proxy))}"
        grown = proxy.process.memory_peak_mib() - before
        self.assertLess(grown, MEMORY_MIB + SLACK_MIB, f"{name}: MiB more than {before:.0f}")
        proxy.process.terminate()
        began = time.monotonic()
        code = proxy.process.wait()
        took = time.monotonic() - began
        self.assertEqual(code, 0, f"{name}: {proxy.process.read_output()}")
        self.assertLess(took, EXIT_SECONDS, f"{name}: seconds to its end")
        print(
            f"\nshadow {name}: {len(asks)} of {len(asks)}, {grown:.0f} MiB more than {before:.0f} "
            f"at the most, {in_flight:.0f} in flight, exit after {took:.2f} s, {became}",
            file=sys.stderr,
        )

    def check_manner(self, manner, did):
        with serving("b", manner=manner) as backend:
            self.check(manner, backend.port, did)

    def test_a_shadow_that_hangs(self):
        with serving("b") as backend:
            backend.pause()
            self.check("hung", backend.port, lambda _, in_flight: in_flight > 0)

    def test_a_shadow_that_hangs_while_all_answers_together_are_too_large(self):
        with serving("b") as backend:
            backend.pause()
            # They wait for their shadows: what each holds is for its whole length.
            did = lambda _, in_flight: in_flight > 100
            self.check("hung, large", backend.port, did, LARGE, MIRROR + WIDE)

    def test_a_shadow_that_is_dead(self):
        with contextlib.closing(hold_port("127.0.0.1")) as held:
            port = held.getsockname()[1]
            self.check("dead", port, lambda of, _: of["shadow_error"] >= 10 and of["skipped"])

    def test_a_shadow_that_is_slow(self):
        self.check_manner("late", lambda of, in_flight: of["mismatch"] or in_flight)

    def test_a_shadow_without_end_and_one_of_a_gigabyte(self):
        for manner in ("endless", "gigabyte"):
            self.check_manner(manner, lambda of, _: of["uncompared"] >= 10)

    def test_a_shadow_that_is_garbage(self):
        self.check_manner("garbage", lambda of, _: of["shadow_error"] >= 10 and of["skipped"])


# === What clients feel ===

ROUNDS = 9
ROUND_SECONDS = 0.6
RATE = 400
# Connections are opened then.
OPENING_SECONDS = 0.1
# Far over what was seen, as machines are noisy; what the mirror itself does about harm is finer.
P99_FACTOR = 3


class Cost(ChaosTest):
    def test_clients_wait_no_longer_with_a_mirror_also_if_its_backend_hangs(self):
        self.endpoints = [self.start_endpoint("a")]
        well, hung = self.start_endpoint("b"), self.start_endpoint("c")
        proxies = {
            name: self.start_proxy(async_=[backend], more=f"[mirror]\nshare = {share}\n")
            for name, share, backend in (("off", 0.0, well), ("on", 0.1, well), ("hung", 0.1, hung))
        }
        hung.pause()
        p99s = collections.defaultdict(list)
        order = list(proxies)
        for round_ in range(ROUNDS):
            random.Random(round_).shuffle(order)
            for name in order:
                p99s[name].append(self.p99(proxies[name]))
        figures = {name: 1e3 * statistics.median(of) for name, of in p99s.items()}
        told = ", ".join(f"{name} {figures[name]:.2f} ms" for name in proxies)
        print(f"\nmirror: P99, median of {ROUNDS} rounds: {told}", file=sys.stderr)
        # Both were at work: the backends' names differ, and what hangs stays in flight.
        self.assertGreater(results(proxies["on"])["mismatch"], 0)
        self.assertGreater(proxies["hung"].metrics().sum("cutover_mirror_in_flight"), 0)
        for name in ("on", "hung"):
            self.assertLess(figures[name], P99_FACTOR * figures["off"], told)

    def p99(self, proxy):
        with Callers(proxy.port, RATE, only_get, clients=16, seed=SEED) as callers:
            time.sleep(ROUND_SECONDS)
        self.assert_all_good(callers.calls)
        self.assertEqual({call.backend for call in callers.calls}, {"a"}, tally(callers.calls))
        first = min(call.sent for call in callers.calls)
        felt = [c.seconds for c in callers.calls if c.sent > first + OPENING_SECONDS]
        return statistics.quantiles(felt, n=100)[-1]
