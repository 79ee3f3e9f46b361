"""Connections that are kept warm for a threaded backend."""

import time

from world import RealTest, ask

# As on a machine with sixteen cores: more than legacy has threads.
WORKERS = 16
# In which the proxy opens what it keeps warm, and again after `pool_idle_timeout`.
SECONDS = 6


class Warm(RealTest):
    def test_an_idle_proxy_takes_no_thread_of_legacy(self):
        # gunicorn's threaded worker gives a fresh connection a thread, which waits for 5 s for its
        # first byte: connections that are opened in advance can hold all of its threads.
        self.start_proxy(0.0, listen=f"workers = {WORKERS}")
        end = time.monotonic() + SECONDS
        while (began := time.monotonic()) < end:
            # Not through the proxy, whose own requests use what it keeps warm.
            self.assertEqual(ask(self.legacy.port, "/healthz").status, 200)
            self.assertLess(time.monotonic() - began, 1)
            time.sleep(0.1)
