"""What a chaos test stands on: endpoints that it breaks, a proxy in front of them, load, and the
look at what is left behind."""

import contextlib
import re
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from callers import tally
from endpoints import serving
from processes import eventually, running
from world import CUTOVER, CUTOVER_SAYS, Proxy

# What an idle proxy may have open beside what it had at its start: the connection of a scrape that
# is just being closed.
SPARE_DESCRIPTORS = 2
# `pool_idle_timeout`, the sweep after it, and the beat of the clocks.
POOL_SECONDS = 5
# What takes longer to be noticed is not waited for.
PATIENCE_SECONDS = 10

GONE_WHEN_IDLE = [
    "cutover_requests_in_flight",
    "cutover_queue_depth",
    "cutover_connections_open",
    "cutover_endpoint_requests_in_flight",
    "cutover_endpoint_connections",
]

# So that what an idle proxy keeps is soon seen to be nothing.
BASE = 'min_idle = 0\npool_idle_timeout = "1s"'


class ChaosTest(unittest.TestCase):
    """Its proxy sends everything to legacy, whose endpoints are called a, b and c."""

    def start_endpoints(self, *manners):
        """One for each manner, or three that behave."""
        named = zip("abc", manners or (None,) * 3)
        self.endpoints = [self.start_endpoint(name, manner=manner) for name, manner in named]
        return self.endpoints

    def start_endpoint(self, name, **how):
        return self.enterContext(serving(name, **how))

    def start_proxy(self, legacy="", eject="", top="", more="", prefix=(), async_=()):
        """The texts go into the config's tables; what the command runs under is `prefix`."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="chaos-")))
        config = directory / "cutover.toml"
        config.write_text(
            f"async_weight = 0.0\n{top}\n"
            '[listen]\naddress = "127.0.0.1:0"\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            f"[legacy]\nendpoints = {urls(self.endpoints)}\n{BASE}\n{legacy}\n"
            f"[legacy.eject]\n{eject}\n"
            f"[async]\nendpoints = {urls(async_ or self.endpoints)}\n{BASE}\n"
            f"{more}\n"
        )
        command = [*prefix, CUTOVER, "run", "--config", config]
        proxy = Proxy(self.enterContext(running(command, CUTOVER_SAYS)), config)
        self.descriptors = idle_descriptors(proxy)
        return proxy

    def assert_nothing_leaked(self, proxy):
        """The clients have gone: nothing is in flight, no connection stays beyond its time."""
        left = lambda: left_behind(proxy, self.descriptors)
        eventually(lambda: not left(), POOL_SECONDS, lambda: f"left behind: {left()}")
        self.assertEqual(proxy.metrics().sum("cutover_panics_total"), 0)

    def assert_all_good(self, calls):
        bad = [call for call in calls if not call.is_good]
        self.assertEqual(bad[:5], [], f"{len(bad)} of {tally(calls)}")


def idle_descriptors(proxy):
    """How many a proxy has open that serves nobody yet, but has been scraped."""
    proxy.metrics()
    return proxy.process.descriptors()


def left_behind(proxy, descriptors):
    """What there is more than none of at a proxy whose clients have gone."""
    metrics = proxy.metrics()
    found = {name: metrics.sum(name) for name in GONE_WHEN_IDLE}
    more = proxy.process.descriptors() - descriptors - SPARE_DESCRIPTORS
    found["descriptors more than at the start"] = max(0, more)
    return {name: number for name, number in found.items() if number}


def urls(endpoints):
    return "[" + ", ".join(f'"{endpoint.url}"' for endpoint in endpoints) + "]"


def is_up(proxy, endpoint):
    return proxy.metrics().sum("cutover_endpoint_up", endpoint=endpoint.label, path="legacy") == 1


def served(proxy, endpoint=None, result="success"):
    """Requests that an endpoint has answered so far, or all of them together."""
    labels = {"endpoint": endpoint.label} if endpoint else {}
    found = proxy.metrics().samples(
        "cutover_endpoint_requests_total", path="legacy", result=result, **labels
    )
    return sum(value for _, value in found)


def seconds_until(look, complaint):
    began = time.monotonic()
    eventually(look, PATIENCE_SECONDS, lambda: complaint)
    return time.monotonic() - began


def share(proxy, endpoint, seconds):
    """Which share of the answers of the next `seconds` is the endpoint's."""
    before = served(proxy, endpoint), served(proxy)
    time.sleep(seconds)
    after = served(proxy, endpoint), served(proxy)
    return (after[0] - before[0]) / (after[1] - before[1])


def share_of(calls, endpoint, since, until):
    """Of the calls that were sent in that time."""
    names = [call.backend for call in calls if since <= call.sent < until]
    return names.count(endpoint.name) / len(names)


@contextlib.contextmanager
def h2load(proxy, rate, seconds, clients=40):
    """A load of GETs by the clock; its report once it is over."""
    report = H2load()
    command = [
        "h2load", "--h1", "--clients", str(clients), "--rps", str(rate / clients),
        "--duration", str(seconds), f"{proxy.url}/",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield report
            report.read(process.communicate(timeout=seconds + 20)[0])
        finally:
            process.kill()


class H2load:
    """What h2load says that became of its requests."""

    def read(self, output):
        self.output = output
        found = re.search(
            r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
            r"(\d+) failed, (\d+) errored, (\d+) timeout",
            output,
        )
        _, _, self.done, self.succeeded, failed, errored, late = map(int, found.groups())
        self.failed = failed + errored + late
