"""The queue in front of a threaded backend."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from world import RealTest, ask

THREADS = 10
REQUESTS = 60
SECONDS = 0.2
# The last of them waits for five rounds before its own: more than the default.
LIMITED = f'max_in_flight = {THREADS}\nqueue_timeout = "5s"'


class Admission(RealTest):
    def ask_all_at_once(self, proxy):
        """How long all of them took; each must have succeeded."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            released = []
            gate = threading.Barrier(REQUESTS, lambda: released.append(time.monotonic()))

            def one():
                gate.wait(30)
                return ask(proxy.port, f"/sleep?ms={SECONDS * 1000:.0f}").status

            replies = [pool.submit(one) for _ in range(REQUESTS)]
            self.assertEqual({reply.result(30) for reply in replies}, {200})
        took = time.monotonic() - released[0]
        rounds = REQUESTS / THREADS
        self.assertGreater(took, rounds * SECONDS)
        self.assertLess(took, rounds * SECONDS + 0.6)
        return took

    def test_sixty_requests_for_ten_threads_wait_in_the_proxy(self):
        proxy = self.start_proxy(0.0, legacy=LIMITED)
        done = threading.Event()
        busy, waiting = [], []

        def watch():
            while not done.is_set():
                metrics = proxy.metrics()
                connections = metrics.samples(
                    "cutover_endpoint_connections", path="legacy", state="busy"
                )
                busy.append(sum(value for _, value in connections))
                waiting.append(metrics.sum("cutover_queue_depth", path="legacy"))
                done.wait(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            took = self.ask_all_at_once(proxy)
        finally:
            done.set()
            watcher.join()
        self.assertEqual(max(busy), THREADS)
        self.assertGreaterEqual(max(waiting), 40)
        self.assertEqual(proxy.metrics().sum("cutover_queue_depth", path="legacy"), 0)
        print(f"admission: {took:.2f} s, {max(busy):.0f} busy, {max(waiting):.0f} waiting at most")

    def test_a_backend_without_a_queue_never_sees_an_eleventh_request(self):
        # It answers 503 to one that finds its ten threads busy, however shortly.
        strict = self.enterContext(self.start_async(WAITING_MAX="0"))
        proxy = self.start_proxy(1.0, async_=LIMITED, async_port=strict.port)
        self.ask_all_at_once(proxy)
        with self.subTest("and it does refuse without the proxy's queue"):
            with self.assertRaises(AssertionError):
                self.ask_all_at_once(strict)
