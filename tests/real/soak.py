"""A soak: load for as long as it is told to, faults drawn from a seed, exact accounts at the end.

    target/real-venv/bin/python tests/real/soak.py --seconds 1800 --seed 1

Three endpoints on each path are killed, stopped, restarted, taken out of the config and put back,
and given other weights, while clients get, post, and leave. One line a minute, and a summary in
JSON at the end; exit code 1 and the complaints if anything does not add up:

- Each call is one request of the proxy, and each failover one more: it is counted on both paths. A
  client that left before it saw a status is a 499. Nothing else is counted, and nothing is missing.
- No POST was begun by two endpoints.
- Nothing is in flight, no connection is open, descriptors are as at the start, memory is flat.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from callers import Ask, Callers
from chaos import idle_descriptors, left_behind
from endpoints import serving
from processes import eventually, running
from world import CUTOVER, CUTOVER_SAYS, Proxy

RATE = 400
CLIENTS = 80
PATHS = {"legacy": "abc", "async": "def"}
# Of three endpoints; one that hangs or is dead is so for this long at the most.
HURT_MAX = 2
HURT_SECONDS = 3
# The share of the time that is warm-up: pools, allocators, and the labels of metrics.
WARM_UP = 0.2
RESIDENT_GROWTH, RESIDENT_SLACK_MIB = 1.1, 4
DESCRIPTORS_SLACK = 60
LATE_SECONDS = 0.3
GOOD_GETS_MIN = 0.97
REPORT_SECONDS = 60

# In a hundred calls. Who leaves does so long before the backend's answer.
MIX = [
    (66, Ask()),
    (18, Ask("POST")),
    (5, Ask("GET", "/slow?ms=100")),
    (4, Ask("POST", "/slow?ms=200")),
    (3, Ask("GET", "/stream?ms=50")),
    (2, Ask("GET", "/slow?ms=900", patience=0.2)),
    (2, Ask("GET", "/stream?ms=900", patience=0.3)),
]

SETTINGS = """
[listen]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[retry]
per_request = 2
budget = 0.5
[failover]
enabled = true
budget = 1.0
"""
PATH = """
[{name}]
endpoints = [{endpoints}]
response_timeout = "1s"
slow_start = "2s"
min_idle = 0
pool_idle_timeout = "1s"
{health}
[{name}.eject]
for = "500ms"
max_for = "2s"
"""
HEALTH = 'health = { path = "/healthz", interval = "500ms", timeout = "300ms" }'


def draw(drawing):
    return drawing.choices([ask for _, ask in MIX], [weight for weight, _ in MIX])[0]


class Faults:
    """What happens to the endpoints and the config, in an order that the seed decides."""

    def __init__(self, seed, endpoints, config):
        self.drawing = random.Random(seed)
        self.endpoints = endpoints
        self.config = config
        self.weight = 0.5
        # Name to weight, of those that are in the config.
        self.listed = {path: dict.fromkeys(names, 1) for path, names in PATHS.items()}
        self.hurt = {}
        self.counts = collections.Counter()
        self.proxy = None

    def step(self):
        self.heal(time.monotonic())
        fault = self.drawing.choice([self.kill, self.pause, self.reweigh, self.relist])
        fault()

    def heal(self, now):
        for name, (until, remedy) in list(self.hurt.items()):
            if until <= now:
                remedy()
                del self.hurt[name]

    def heal_all(self):
        self.heal(float("inf"))
        self.listed = {path: dict.fromkeys(names, 1) for path, names in PATHS.items()}
        self.reload("restored")

    def kill(self):
        self.harm("killed", lambda endpoint: (endpoint.kill(), endpoint.start)[1])

    def pause(self):
        self.harm("paused", lambda endpoint: (endpoint.pause(), endpoint.resume)[1])

    def harm(self, how, do):
        """`do` harms an endpoint and returns what puts it right."""
        names = self.drawing.choice(list(PATHS.values()))
        name = self.drawing.choice(names)
        seconds = self.drawing.uniform(0.1, HURT_SECONDS)
        if name in self.hurt or sum(other in self.hurt for other in names) >= HURT_MAX:
            return
        self.hurt[name] = time.monotonic() + seconds, do(self.endpoints[name])
        self.counts[how] += 1

    def reweigh(self):
        self.weight = self.drawing.choice([0.0, 0.25, 0.5, 0.75, 1.0])
        self.reload("weight changed")

    def relist(self):
        path = self.drawing.choice(list(PATHS))
        kept = self.drawing.sample(PATHS[path], self.drawing.randint(2, 3))
        self.listed[path] = {name: self.drawing.randint(1, 3) for name in kept}
        self.reload("endpoints edited")

    def reload(self, why):
        """Writes the config, and waits until it is in force."""
        name = "cutover_config_reloads_total"
        before = self.proxy.metrics().sum(name, result="success")
        self.counts[why] += 1
        self.write()
        eventually(
            lambda: self.proxy.metrics().sum(name, result="success") > before,
            5,
            lambda: f"not in force: {self.config.read_text()}",
        )

    def write(self):
        text = f"# {self.counts.total()}\nasync_weight = {self.weight}\n{SETTINGS}"
        for path, listed in self.listed.items():
            entries = [
                f'{{ url = "{self.endpoints[name].url}", weight = {weight} }}'
                for name, weight in listed.items()
            ]
            health = HEALTH if path == "legacy" else ""
            text += PATH.format(name=path, endpoints=", ".join(entries), health=health)
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)


class Accounts:
    """What became of each call, as its client knows it."""

    def __init__(self):
        self.ends = collections.Counter()
        self.slowest = 0
        # Those that meant to leave, and were kept by the machine until their reply may have come.
        self.left_late = 0

    def note(self, call):
        self.ends[call.ask.method, call.status, call.fault] += 1
        self.slowest = max(self.slowest, call.seconds)
        if call.fault == "left" and call.seconds > call.ask.patience + LATE_SECONDS:
            self.left_late += 1

    def number(self, **wanted):
        fields = ("method", "status", "fault")
        return sum(
            number
            for end, number in self.ends.items()
            if wanted.items() <= dict(zip(fields, end)).items()
        )

    def codes(self):
        """By status, of those calls that saw one."""
        codes = collections.Counter()
        for (_, status, _), number in self.ends.items():
            if status:
                codes[status] += number
        return codes

    def shown(self):
        return {
            f"{method} {status or '-'}{f' {fault}' if fault else ''}": number
            for (method, status, fault), number in sorted(self.ends.items(), key=str)
        }


class Soak:
    def __init__(self, seconds, seed):
        self.seconds = seconds
        self.seed = seed
        self.accounts = Accounts()
        # Of the proxy, once a step: resident MiB, descriptors.
        self.samples = []

    def run(self):
        """The summary; what does not add up is in its `complaints`."""
        with contextlib.ExitStack() as stack:
            names = "".join(PATHS.values())
            endpoints = {name: stack.enter_context(serving(name)) for name in names}
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
            faults = Faults(self.seed, endpoints, Path(directory) / "cutover.toml")
            faults.write()
            command = [CUTOVER, "run", "--config", faults.config]
            faults.proxy = proxy = Proxy(
                stack.enter_context(running(command, CUTOVER_SAYS)), faults.config
            )
            descriptors = idle_descriptors(proxy)
            callers = Callers(proxy.port, RATE, draw, CLIENTS, self.seed, self.accounts.note)
            with callers:
                self.disturb(faults)
                faults.heal_all()
                time.sleep(1)
            return self.summary(faults, callers, descriptors)

    def disturb(self, faults):
        began = time.monotonic()
        report_at = began + REPORT_SECONDS
        while (now := time.monotonic()) < began + self.seconds:
            time.sleep(faults.drawing.uniform(0.2, 1.0))
            faults.step()
            process = faults.proxy.process
            self.samples.append((process.resident_mib(), process.descriptors()))
            if now >= report_at:
                report_at += REPORT_SECONDS
                self.report(faults, now - began)

    def report(self, faults, seconds):
        resident, descriptors = self.samples[-1]
        print(
            f"soak: {seconds:.0f} s, {self.accounts.ends.total()} calls, "
            f"{dict(self.accounts.codes())}, {dict(faults.counts)}, "
            f"{resident:.1f} MiB, {descriptors} descriptors",
            flush=True,
        )

    def summary(self, faults, callers, descriptors):
        proxy, accounts = faults.proxy, self.accounts
        with contextlib.suppress(AssertionError):
            eventually(lambda: not left_behind(proxy, descriptors), 10, str)
        metrics = proxy.metrics()
        counted = collections.Counter()
        for labels, value in metrics.samples("cutover_requests_total"):
            counted[int(labels["code"])] += int(value)
        failed_over = sum(
            value
            for _, value in metrics.samples("cutover_split_decisions_total", reason="failover")
        )
        begun = collections.Counter()
        for endpoint in faults.endpoints.values():
            begun.update(endpoint.begun())
        summary = {
            "seed": self.seed,
            "seconds": self.seconds,
            "sent": callers.sent,
            "ends": accounts.shown(),
            "counted": {str(code): number for code, number in sorted(counted.items()) if number},
            "failed_over": int(failed_over),
            "retries": int(metrics.sum("cutover_retries_total", result="success")),
            "ejections": int(metrics.sum("cutover_endpoint_ejections_total")),
            "posts_begun": begun.total(),
            "posts_begun_twice": sum(number > 1 for number in begun.values()),
            "faults": dict(faults.counts),
            "machine_lag_seconds": round(callers.lag, 3),
            "slowest_seconds": round(accounts.slowest, 3),
            "left_behind": left_behind(proxy, descriptors),
            "panics": int(metrics.sum("cutover_panics_total")),
            **self.growth(),
        }
        return {**summary, "complaints": list(self.complaints(summary, counted))}

    def growth(self):
        """The medians of the first and the last third, after the warm-up."""
        warm = self.samples[int(len(self.samples) * WARM_UP) :]
        third = max(1, len(warm) // 3)
        first, last = zip(*warm[:third]), zip(*warm[-third:])
        (resident, descriptors), (resident_last, descriptors_last) = (
            [statistics.median(values) for values in part] for part in (first, last)
        )
        return {
            "resident_mib": [round(resident, 1), round(resident_last, 1)],
            "descriptors": [descriptors, descriptors_last],
        }

    def complaints(self, summary, counted):
        accounts, failed_over = self.accounts, summary["failed_over"]
        if accounts.ends.total() != summary["sent"]:
            yield "calls without an end"
        for fault in ("closed", "hang"):
            if number := accounts.number(fault=fault):
                yield f"{number} calls ended with {fault!r}"
        unseen = accounts.number(status=None, fault="left")
        known = accounts.codes()
        if counted.total() != summary["sent"] + failed_over:
            yield f"{counted.total()} counted, {summary['sent']} sent, {failed_over} failed over"
        surplus = counted - known
        if missing := known - counted:
            yield f"seen by clients and not counted: {dict(missing)}"
        # Beside those that were answered just as they left.
        spare = accounts.left_late + max(2, 0.03 * unseen)
        if abs(surplus[499] - unseen) > spare:
            yield f"{surplus[499]} are counted as 499, {unseen} left without a reply"
        if surplus[200] > spare:
            yield f"{surplus[200]} are counted as 200 that nobody has seen"
        gets = accounts.number(method="GET") - accounts.number(method="GET", fault="left")
        good = accounts.number(method="GET", status=200, fault=None)
        if good < GOOD_GETS_MIN * gets:
            yield f"{good} of {gets} GETs are good"
        if summary["posts_begun_twice"]:
            yield "POSTs were begun twice"
        if summary["left_behind"] or summary["panics"]:
            yield "something is left behind, or panicked"
        before, after = summary["resident_mib"]
        if after > before * RESIDENT_GROWTH + RESIDENT_SLACK_MIB:
            yield f"memory has grown from {before} to {after} MiB"
        before, after = summary["descriptors"]
        if after > before + DESCRIPTORS_SLACK:
            yield f"descriptors have grown from {before} to {after}"


def main():
    parser = argparse.ArgumentParser(description="A soak with random faults.")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    summary = Soak(given.seconds, given.seed).run()
    print(json.dumps(summary, indent=2))
    return 1 if summary["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
