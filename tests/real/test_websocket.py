"""The Autobahn cases against a WebSocket server, and the same through the proxy in each combination
of HTTP versions: what the proxy carries, it must not change.
"""

import asyncio
import re
import time
import unittest

from fronts import both, start_front, start_program
from kosoku import FailureError, run_fuzzingclient
from ws_bridge import ToHttp2

BACKEND_SAYS = r"websockets on 127\.0\.0\.1:(\d+), with HTTP/2 on (\d+)"
RUN_SECONDS = 25
AT_ONCE = 4

# All but those of compression (12 and 13): they take minutes, and differ but in octets that the
# proxy does not read.
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
LARGE = ["9.*"]


class WebSocket(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        server = start_program(cls.enterClassContext, BACKEND_SAYS, "ws_backend.py")
        cls.port, cls.http2_port = map(int, server.process.told)
        cls.direct = asyncio.run(run(cls.port, CASES + LARGE))

    def check(self, name, cases, client="1.1", backend="1.1"):
        """Each case has the same end through the proxy as without it."""
        url = f"http://127.0.0.1:{self.port if backend == '1.1' else self.http2_port}"
        keys = "" if backend == "1.1" else 'protocol = "http2"'
        proxy = start_front(self.enterContext, 0.0, both(url, url, keys))
        began = time.monotonic()
        proxied = asyncio.run((run if client == "1.1" else run_bridged)(proxy.port, cases))
        took = time.monotonic() - began
        differ = {
            case: (end(self.direct[case]), end(result), result.was_not_clean_reason)
            for case, result in proxied.items()
            if end(result) != end(self.direct[case])
        }
        failed = [case for case, result in proxied.items() if not result.passed]
        figures = f"{len(proxied)} cases, {took:.1f} s"
        print(f"websocket {name}: {figures}; fail with and without: {failed}")
        self.assertEqual(differ, {})
        self.assertEqual(spoken(proxied), {backend}, "the proxy spoke another version")
        # That the runs compare anything at all.
        self.assertGreater(len(proxied), 50)
        self.assertLess(len(failed), 0.1 * len(proxied))
        faults = [sample for sample in proxy.metrics().samples("cutover_errors_total") if sample[1]]
        self.assertEqual(faults, [], "what clients do is counted against the path")

    def test_http1_to_http1(self):
        self.check("1 to 1", CASES)

    def test_large_messages(self):
        self.check("1 to 1, large", LARGE)

    def test_http2_to_http1(self):
        self.check("2 to 1", CASES, client="2")

    def test_http1_to_http2(self):
        self.check("1 to 2", CASES, backend="2")

    def test_http2_to_http2(self):
        self.check("2 to 2", CASES, client="2", backend="2")


async def run(port, cases):
    """The results by case."""
    url = f"ws://127.0.0.1:{port}"
    async with asyncio.timeout(RUN_SECONDS):
        try:
            results = await run_fuzzingclient(url, cases, concurrency=AT_ONCE)
        except FailureError as failure:
            results = failure.results
    return {result.case_id: result for result in results}


async def run_bridged(port, cases):
    async with ToHttp2(port) as bridge:
        return await run(bridge.port, cases)


def end(result):
    # Which of the two good ones it is depends on what comes first, an echo or the end.
    behavior = result.behavior.value.replace("NON-STRICT", "OK")
    return behavior, result.behavior_close.value, result.remote_close_code


def spoken(results):
    """What the backend says of the proxy's version."""
    heads = (result.http_response.lower() for result in results.values())
    return set(re.search(r"x-version: (.*)\r", head)[1] for head in heads)
