"""SIGTERM under load."""

import time

from load import Load
from processes import eventually
from world import RealTest

CLIENTS = 40


class Drain(RealTest):
    def test_sigterm_under_load_fails_no_request(self):
        proxy = self.start_proxy(0.5, more='[drain]\ndelay = "1s"')
        with Load(proxy.port, "/sleep?ms=300", CLIENTS) as load:
            load.await_outcomes(CLIENTS)
            self.assertEqual(proxy.admin("/readyz").status, 200)
            began = time.monotonic()
            proxy.process.terminate()
            leaving = lambda: proxy.admin("/readyz").status == 503
            eventually(leaving, 0.5, lambda: "/readyz is not 503 in the drain's delay")
            code = proxy.process.wait()
            took = time.monotonic() - began
        self.assertEqual(code, 0, proxy.process.read_output())
        self.assertTrue(load.refused.is_set(), "no client saw the listener closed")

        failed = [o for o in load.outcomes if o.fault or o.reply.status != 200]
        self.assertEqual(failed, [])
        late = [o for o in load.outcomes if o.sent > began]
        self.assertGreater(len(late), CLIENTS, "requests came in the drain's delay too")
        # Their replies came 300 ms later at the earliest, and told the clients to go elsewhere.
        told = [o.reply.headers["Connection"] == "close" for o in late]
        self.assertTrue(all(told), f"{told.count(False)} of {len(told)} were not told to close")
        # The delay, the wait for late handshakes, and the longest request with its queue.
        self.assertLess(took, 1 + 0.25 + max(o.seconds for o in load.outcomes) + 0.5)
        print(f"drain: {len(load.outcomes)} requests, {len(late)} of them late, {took:.2f} s")
