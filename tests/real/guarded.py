"""What a test of the guard stands on: a proxy that judges, load by the clock over eight routes, and
the wait for what the guard decides.

The backends are those of docker/. Where one must fail by chance, which they don't, it is `Faulty`.
"""

import asyncio
import concurrent.futures
import contextlib
import datetime
import http.server
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from callers import Ask, Callers
from processes import eventually, running
from world import CUTOVER, CUTOVER_SAYS, Proxy, RealTest

RATE = 100
# So many that a rate is kept up while each call on one path hangs until its timeout.
CLIENTS = 80
PATIENCE_SECONDS = 5
COMMAND_SECONDS = 120

# The routes by their names in metrics: as they are configured, and a call of each.
ROUTES = {
    "health": ("GET /healthz", Ask(path="/healthz")),
    "whoami": ("GET /whoami", Ask(path="/whoami")),
    "orders": ("GET /orders/{id}", Ask(path="/orders/7")),
    "reports": ("GET /reports/{first}", Ask(path="/reports/10")),
    "sleep": ("GET /sleep", Ask(path="/sleep?ms=20")),
    "bytes": ("GET /bytes/{length}", Ask(path="/bytes/2000")),
    "digest": ("POST /digest", Ask("POST", "/digest")),
    "status": ("GET /status/{code}", Ask(path="/status/200")),
}
CALLS = [ask for _, ask in ROUTES.values()]
ROUTE_TABLES = "".join(
    f'[[route]]\nname = "{name}"\nmatch = "{match}"\n' for name, (match, _) in ROUTES.items()
)


def any_route(drawing):
    return drawing.choice(CALLS)


# === The proxy ===


class Plan(NamedTuple):
    """What a config says; the texts go into its tables."""

    weight: float
    legacy: str = ""
    async_: str = ""
    guard: str = 'mode = "enforce"'
    more: str = ""

    def text(self, legacy, async_):
        return (
            f"async_weight = {self.weight}\n"
            '[listen]\naddress = "127.0.0.1:0"\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            f"[legacy]\nendpoints = [{endpoint(legacy)}]\n{self.legacy}\n"
            f"[async]\nendpoints = [{endpoint(async_)}]\n{self.async_}\n"
            f"[guard]\n{self.guard}\n{self.more}\n{ROUTE_TABLES}"
        )


def endpoint(server):
    """With its process, so that its memory is known, if it is one of its own."""
    if process := getattr(server, "process", None):
        return f'{{ url = "{server.url}", process = {{ pid = {process.pid} }} }}'
    return f'"{server.url}"'


class Guarded(Proxy):
    """A proxy in front of two backends, whose guard is asked for its verdicts and decisions."""

    @classmethod
    def start(cls, stack, plan, legacy, async_):
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="guard-"))
        config = Path(directory) / "cutover.toml"
        config.write_text(plan.text(legacy, async_))
        return cls.start_from(stack, config)

    @classmethod
    def start_from(cls, stack, config):
        """Also after another one has ended: what that one kept lies beside the file."""
        command = [CUTOVER, "run", "--config", config]
        return cls(stack.enter_context(running(command, CUTOVER_SAYS)), config)

    def apply(self, text):
        """Writes the file, and waits until it is in force."""
        name = "cutover_config_reloads_total"
        before = self.metrics().sum(name, result="success")
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)
        eventually(
            lambda: self.metrics().sum(name, result="success") > before,
            PATIENCE_SECONDS,
            lambda: f"not in force: {self.status()['config']}",
        )

    def document(self, name):
        return json.loads(self.admin(f"/api/v1/{name}").body)

    def status(self):
        return self.document("status")

    def guard(self):
        return self.status()["guard"]

    def effective(self):
        """The largest weight in effect, as it was written: it is held in steps of 2^-32."""
        return round(max(route["effective"] for route in self.status()["weights"]), 6)

    def decisions(self, kind=None):
        found = self.document("decisions")["decisions"]
        return [decision for decision in found if kind in (None, decision["kind"])]

    def await_decision(self, kind, seconds, number=1):
        """The last of `number` decisions of this kind."""
        eventually(
            lambda: len(self.decisions(kind)) >= number,
            seconds,
            lambda: f"no {kind} in {seconds} s: {json.dumps(self.guard())}",
        )
        return self.decisions(kind)[-1]

    def await_effective(self, weight, seconds):
        eventually(
            lambda: self.effective() == weight,
            seconds,
            lambda: f"not at {weight} in {seconds} s: {json.dumps(self.guard())}",
        )

    def await_verdict(self, verdict, seconds):
        eventually(
            # There is none in the first beat of a step.
            lambda: (self.guard()["verdict"] or {}).get("verdict") == verdict,
            seconds,
            lambda: f"not to {verdict} in {seconds} s: {json.dumps(self.guard())}",
        )

    def command(self, *arguments):
        """What became of a command about this proxy."""
        place = ["--config", self.config, "--admin", f"127.0.0.1:{self.admin_port}"]
        return subprocess.run(
            [CUTOVER, *arguments, *place],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def record_baseline(self, seconds):
        """At the weight of now, which is best 0."""
        return self.cutover_slow("baseline", "record", "--for", f"{seconds}s")

    def cutover_slow(self, *arguments):
        """The output of a command that takes its time."""
        done = self.command(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def requests_of(self, path):
        return sum(number for (side, _), number in self.counts().items() if side == path)

    def stalls(self):
        """Stalls counted so far, by path and route."""
        found = self.metrics().samples("cutover_path_stalls_total")
        return {(of["path"], of["route"]): int(value) for of, value in found if value}


def together(jobs):
    """What each of these functions returns; they run at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [job.result() for job in [pool.submit(job) for job in jobs]]


def callers(proxy, seed, draw=any_route, rate=RATE):
    return Callers(proxy.port, rate, draw, CLIENTS, seed)


def on_clock(decision):
    """When it was made, on the clock by which calls are timed."""
    made = datetime.datetime.fromisoformat(decision["time"]).timestamp()
    return made - time.time() + time.monotonic()


def is_bad(call):
    return call.fault is not None or call.status >= 500


def first_failure(calls, since):
    return min(call.ended for call in list(calls) if is_bad(call) and call.ended >= since)


# === Backends ===


class Shop(RealTest):
    """Starts the backends of docker/ for scenes that bring their own, on one database."""

    @classmethod
    @contextlib.contextmanager
    def opened(cls):
        with tempfile.TemporaryDirectory(prefix="real-") as directory:
            cls.directory = Path(directory)
            yield cls

    @classmethod
    def start_pair(cls, stack, **environment):
        legacy = stack.enter_context(cls.start_legacy())
        return legacy, stack.enter_context(cls.start_async(**environment))


class Faulty:
    """A backend in a thread of its own, which answers 500 to a share of the requests."""

    def __init__(self, share, seed):
        self.share = share
        self.drawing = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                # POSTs of this load have a body of 100 bytes.
                if head.startswith(b"POST"):
                    await reader.readexactly(100)
                is_good = self.drawing.random() >= self.share
                status = b"200 OK" if is_good else b"500 Internal Server Error"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nok" % status)
        writer.close()


class Hook:
    """A webhook: keeps each document that is posted to it."""

    def __init__(self):
        self.received = received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                received.append(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
