"""Compares cutover with nginx, HAProxy and a blind TCP relay on this machine.

One command, loopback only; README.md beside this file says what each column means.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

# Before our own modules are imported: this directory stays as it is.
sys.dont_write_bytecode = True

import load
import peers as proxies
import report
from process import prepare

SPARE_CONNECTIONS = 1000
BALANCED_COUNTS = (3, 8, 64)
NAMES = [scenario.name for scenario in load.SCENARIOS] + ["idle", "balance"]


def main():
    options = arguments()
    proxies.require("nginx", "wrk")
    connections = SPARE_CONNECTIONS + (options.idle if "idle" in options.only else 0)
    proxy_core, load_core = prepare(connections)
    with tempfile.TemporaryDirectory(prefix="cutover-compare-") as directory:
        directory = Path(directory)
        chosen = proxies.choose(options, directory)
        machine = describe(chosen)
        bench = proxies.Bench(directory, proxy_core, load_core, connections)
        comparison = Comparison(bench, chosen, options)
        with bench.backend():
            results = {name: comparison.run(name) for name in options.only}
    verdicts = report.judged(results, options.subject)
    if any(row["verdict"] != "not run" for row in verdicts):
        show(report.target_table(verdicts, options.subject))
    if options.json:
        document = {
            "machine": machine,
            "settings": {key: vars(options)[key] for key in ("rounds", "seconds", "idle")},
            "valid": not comparison.invalid,
            "scenarios": results,
            "targets": verdicts,
        }
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    if comparison.invalid:
        sys.exit("\n".join(["this run FAILED, do not use its figures:", *comparison.invalid]))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", type=proxies.names, default=NAMES, metavar="A,B", help=f"of {','.join(NAMES)}"
    )
    proxies.add_arguments(parser)
    parser.add_argument("--subject", default="cutover", help="whose ratios and targets to print")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load in each round")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; known: {','.join(NAMES)}")
    if min(options.rounds, options.seconds, options.idle) < 1:
        parser.error("--rounds, --seconds and --idle are at least 1")
    return options


class Comparison:
    def __init__(self, bench, peers, options):
        self.bench = bench
        self.peers = peers
        self.options = options
        self.invalid = []  # one sentence each; any fails the run

    def run(self, name):
        """One scenario; if it cannot be carried through, the others still are."""
        try:
            if name == "idle":
                return self.idle()
            if name == "balance":
                return self.balance()
            return self.load(next(known for known in load.SCENARIOS if known.name == name))
        except load.LoadError as error:
            self.fail(f"{name}: {error}")
            return {}

    def load(self, scenario):
        rounds, seconds = self.options.rounds, self.options.seconds
        print(f"\n{scenario.name}: {scenario.what}; {rounds} rounds of {seconds} s")
        # It reads nothing, so it can't speak to clients otherwise than to the backend.
        peers = [peer for peer in self.peers if scenario.wire == "h1" or peer.name != "relay"]
        samples = {peer.name: [] for peer in peers}
        # Fresh processes for each scenario, so that the memory shown is this scenario's.
        with ExitStack() as stack:
            started = [
                (peer.name, stack.enter_context(self.bench.proxy(peer, wire=scenario.wire)))
                for peer in peers
            ]
            for _, proxy in started:
                load.load(proxy.port, scenario, 1)
            for number in range(rounds):
                # Each round starts with another proxy, so no one always follows the same one.
                turn = number % len(started)
                for name, proxy in started[turn:] + started[:turn]:
                    progress(f"round {number + 1} of {rounds}: {name}")
                    samples[name].append(self.sample(scenario, name, proxy, number + 1))
        result = report.load_result(samples, self.options.subject)
        show(report.load_table(result, self.options.subject))
        return result

    def sample(self, scenario, name, proxy, number):
        sample = load.measured(proxy, scenario, self.options.seconds)
        if not sample["errors"] and sample["requests"]:
            return sample
        errors = ", ".join(f"{count} {kind}" for kind, count in sample["errors"].items())
        self.fail(f"{scenario.name}, round {number}, {name}: {errors or 'no request done'}")
        return None

    def idle(self):
        count = self.options.idle
        print(f"\nidle: memory of {count} idle connections, each after one request")
        medians = {}
        for peer in self.peers:
            progress(peer.name)
            with self.bench.proxy(peer) as proxy:
                medians[peer.name] = load.idle_kib(proxy, count)
        rows = [
            (name, *(f"{figures[key]:.2f}" for key in figures))
            for name, figures in medians.items()
        ]
        show(report.table(("proxy", "KiB each", "before MiB", "after MiB"), rows))
        return {"medians": medians}

    def balance(self):
        print("\nbalance: connections on each of two workers")
        subject = next((p for p in self.peers if p.name == self.options.subject), None)
        if not subject:
            show([f"{self.options.subject} is not among the proxies"])
            return {}
        workers, difference = {}, 0
        for count in BALANCED_COUNTS:
            with self.bench.proxy(subject, workers=2) as proxy:
                workers[count] = load.spread(proxy, count)
            if len(workers[count]) != 2 or sum(workers[count]) != count:
                self.fail(f"balance: {count} connections, the gauge tells {workers[count]}")
                return {"workers": workers}
            difference = max(difference, abs(workers[count][0] - workers[count][1]))
        show(f"{count}: {' + '.join(map(str, each))}" for count, each in workers.items())
        return {"workers": workers, "medians": {subject.name: {"difference": difference}}}

    def fail(self, reason):
        self.invalid.append(reason)
        print(f"INVALID {reason}", file=sys.stderr)


def describe(peers):
    """What the figures depend on, printed first."""
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    machine = {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "versions": {peer.name: proxies.version(peer) for peer in peers},
    }
    print(f"{machine['processor']}; Linux {machine['kernel']}; load {machine['load_average']:.2f}")
    for name, version in machine["versions"].items():
        print(f"  {name}: {version}")
    if machine["load_average"] > 0.5:
        print("  this machine is busy: trust ratios and medians of many rounds only")
    return machine


def progress(text):
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


def show(lines):
    progress("")
    for line in lines:
        print(f"  {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
