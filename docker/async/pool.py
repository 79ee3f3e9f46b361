"""A bounded bridge from the event loop to blocking calls.

asyncio's own `to_thread` has a queue without end: when the driver slows down, requests pile up in
it until clients have long gone. Here so many calls run, so many wait, and the next is refused at
once, which a proxy can see and act upon. How deep and how long the queue is can be scraped.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

DEPTH = Gauge("backend_queue_depth", "Blocking calls that wait for a thread.")
BUSY = Gauge("backend_threads_busy", "Threads that run a blocking call.")
WAIT = Histogram("backend_queue_wait_seconds", "From submission to a thread.", buckets=BUCKETS)
REFUSED = Counter("backend_refused_total", "Calls refused because the queue was full.")


class QueueFull(Exception):
    """Every thread is busy and the queue is at its limit."""


class BlockingPool:
    def __init__(self, threads, waiting_max):
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="blocking")
        # One slot for each call that runs or waits; the executor's own queue is unbounded.
        self._slots = threading.BoundedSemaphore(threads + waiting_max)

    async def run(self, call, *args):
        if not self._slots.acquire(blocking=False):
            REFUSED.inc()
            raise QueueFull
        DEPTH.inc()
        future = self._executor.submit(self._measured, time.perf_counter(), call, args)
        # The slot comes back when the call ends, not when its caller gives up: a thread that is
        # still blocked in the driver is not free, whoever has stopped waiting for it.
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self):
        self._executor.shutdown()

    def _measured(self, submitted, call, args):
        DEPTH.dec()
        WAIT.observe(time.perf_counter() - submitted)
        with BUSY.track_inprogress():
            return call(*args)

    def _release(self, future):
        if future.cancelled():
            # It never reached a thread, so nobody else has taken it off the queue's depth.
            DEPTH.dec()
        self._slots.release()
