"""The load: wrk for throughput and latency, h2load for exact counts, plain sockets to hold open."""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from peers import find

WRK_SCRIPT = Path(__file__).parent / "load.lua"
ERRORS = ("connect_errors", "read_errors", "write_errors", "timeouts", "bad_statuses")
H2LOAD_COUNTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")
SOCKET_SECONDS = 10
# Longer than a proxy may wait before it gives back the buffers of an idle connection.
SETTLE_SECONDS = 3


@dataclass(frozen=True)
class Scenario:
    name: str
    what: str
    path: str
    connections: int
    reply_bytes: int = 128
    body_bytes: int = 0
    close: bool = False
    wire: str = "h1"
    # Of HTTP/2; 0 is HTTP/1.1.
    streams: int = 0


SCENARIOS = [
    Scenario("small64", "GET of 128 bytes, 64 connections", "/small", 64),
    Scenario("c1", "GET of 128 bytes, 1 connection", "/small", 1),
    Scenario("k64", "GET of 64 KiB, 32 connections", "/k64", 32, reply_bytes=64 * 1024),
    Scenario("post16k", "POST of 16 KiB, 32 connections", "/post", 32, body_bytes=16 * 1024),
    Scenario("close", "GET of 128 bytes, a connection each, 64 at once", "/small", 64, close=True),
    Scenario("m1", "GET of 1 MiB, 8 connections", "/m1", 8, reply_bytes=1024 * 1024),
    Scenario("h2", "HTTP/2, GET of 128 bytes, 64 x 10", "/small", 64, wire="h2", streams=10),
    Scenario("h2tls", "the same through TLS", "/small", 64, wire="tls", streams=10),
    Scenario("tls", "TLS, HTTP/1.1, GET of 128 bytes, 64 connections", "/small", 64, wire="tls"),
    Scenario("handshake", "the same, a connection each", "/small", 16, close=True, wire="tls"),
]


class LoadError(Exception):
    """The load program failed, so there is nothing to report."""


def load(port, scenario, seconds):
    """Requests, seconds, bytes, p50_us, p99_us and a count per kind of error."""
    return h2(port, scenario, seconds) if scenario.streams else wrk(port, scenario, seconds)


def h2(port, scenario, seconds):
    with tempfile.TemporaryDirectory(prefix="cutover-h2load-") as directory:
        log = Path(directory) / "log"
        scheme = "https" if scenario.wire == "tls" else "http"
        command = [
            *(find("h2load"), "-t1", f"-c{scenario.connections}", f"-m{scenario.streams}"),
            *(f"-D{seconds}", f"--log-file={log}"),
            f"{scheme}://127.0.0.1:{port}{scenario.path}",
        ]
        output = run(command, seconds + 30)
        # A line each: when it began, its status, and how long it took in microseconds.
        lines = [line.split() for line in log.read_text().splitlines()]
    took = sorted(int(words[2]) for words in lines if words[1] == "200")
    counts = dict.fromkeys(ERRORS, 0)
    counts["bad_statuses"] = len(lines) - len(took)
    _, failed, errored = map(int, H2LOAD_COUNTS.search(output).groups())
    counts["read_errors"] = failed + errored
    return {
        "requests": len(took),
        "seconds": float(seconds),
        "bytes": len(took) * scenario.reply_bytes,
        "p50_us": took[len(took) // 2] if took else 0,
        "p99_us": took[len(took) * 99 // 100] if took else 0,
        **counts,
    }


def wrk(port, scenario, seconds):
    """What load.lua prints."""
    command = [
        *(find("wrk"), "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--timeout", "5s"),
        *("-s", WRK_SCRIPT, *(["-H", "Connection: close"] if scenario.close else [])),
        f"{'https' if scenario.wire == 'tls' else 'http'}://127.0.0.1:{port}{scenario.path}",
    ]
    environment = {**os.environ, "BODY_BYTES": str(scenario.body_bytes)}
    output = run(command, seconds + 30, environment)
    return json.loads(output.splitlines()[-1])


def measured(proxy, scenario, seconds):
    """One round: wrk's figures and the CPU time that the proxy spent on them, per request."""
    user_before, system_before = proxy.process.cpu_seconds()
    sample = load(proxy.port, scenario, seconds)
    user, system = proxy.process.cpu_seconds()
    requests = max(sample["requests"], 1)
    sample["user_us"] = (user - user_before) / requests * 1e6
    sample["system_us"] = (system - system_before) / requests * 1e6
    sample["cpu_us"] = sample["user_us"] + sample["system_us"]
    sample["requests_per_second"] = sample["requests"] / sample["seconds"]
    sample["rss_mib"] = proxy.process.memory_kib("Rss") / 1024
    counts = {kind: sample.pop(kind) for kind in ERRORS}
    # wrk takes any 2xx for good: that the whole body came is for us to check.
    counts["short_replies"] = int(sample["bytes"] < sample["requests"] * scenario.reply_bytes)
    sample["errors"] = {kind: count for kind, count in counts.items() if count}
    return sample


def h2load(port, path, requests, connections, wire="h1"):
    """Exactly `requests` keep-alive requests, each answered with 2xx."""
    version = ["--h1"] if wire == "h1" else ["-m10"]
    scheme = "https" if wire == "tls" else "http"
    command = [
        *(find("h2load"), *version, "-t1", f"-n{requests}", f"-c{connections}"),
        f"{scheme}://127.0.0.1:{port}{path}",
    ]
    output = run(command, 600)
    if f" {requests} succeeded, 0 failed, 0 errored" not in output:
        raise LoadError(f"h2load did not get {requests} good replies: {output}")


def run(command, seconds, environment=None):
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise LoadError(f"{command[0]} did not end in {seconds} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise LoadError(f"{command[0]} ended with status {process.returncode}: {output}")
    return output


@contextlib.contextmanager
def held_connections(port, count):
    """`count` keep-alive connections, all open before the first asks, each after one request."""
    with contextlib.ExitStack() as stack:
        try:
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS))
                for _ in range(count)
            ]
            for client in clients:
                ask(client)
        except OSError as error:
            raise LoadError(f"{count} connections held open: {error}") from None
        yield


def ask(client):
    """One GET /small. Its reply ends in 128 x, and nothing else in it does."""
    client.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
    reply = b""
    while not reply.endswith(b"x" * 128):
        if not (part := client.recv(4096)):
            raise LoadError(f"the proxy closed a connection after {reply!r}")
        reply += part
    if not reply.startswith(b"HTTP/1.1 200"):
        raise LoadError(f"the proxy answered {reply!r}")


def idle_kib(proxy, count):
    """KiB of proportional memory per idle connection."""
    with held_connections(proxy.port, 16):  # what is allocated once is not charged to the rest
        pass
    time.sleep(0.5)
    before = proxy.process.memory_kib("Pss")
    with held_connections(proxy.port, count):
        time.sleep(SETTLE_SECONDS)
        after = proxy.process.memory_kib("Pss")
    return {
        "kib_per_connection": (after - before) / count,
        "before_mib": before / 1024,
        "after_mib": after / 1024,
    }


def spread(proxy, count):
    """Open connections of each worker, by the proxy's own gauge, with `count` clients."""
    with held_connections(proxy.port, count):
        deadline = time.monotonic() + SOCKET_SECONDS
        while True:
            workers = [
                int(float(line.split()[-1]))
                for line in metrics(proxy.admin)
                if line.startswith("cutover_worker_connections{")
            ]
            # The connection that asked whether the proxy is up may still be counted.
            if sum(workers) == count or time.monotonic() > deadline:
                return workers
            time.sleep(0.1)


def metrics(port):
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=SOCKET_SECONDS)) as admin:
        try:
            admin.request("GET", "/metrics")
            return admin.getresponse().read().decode().splitlines()
        except OSError as error:
            raise LoadError(f"no metrics on the admin port: {error}") from None
