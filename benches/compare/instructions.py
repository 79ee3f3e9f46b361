"""User instructions and system calls per keep-alive request, by difference of two run lengths.

What a proxy does once (start, connect, stop) is in both runs and cancels out, so the figures are
exact where CPU time is not. Run under valgrind's callgrind and under strace.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Before our own modules are imported: this directory stays as it is.
sys.dont_write_bytecode = True

import load
import peers as proxies
import report
from configs import WIRES
from process import prepare

CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file={dir}/out/callgrind.%p")
# What they write goes into a directory of its own: a proxy may watch that of its config.
# -y names what a descriptor is, which tells a write to an eventfd from one to a socket.
STRACE = ("strace", "-f", "-y", "-qq", "-e", "signal=none", "-o", "{dir}/out/strace")
CALL = re.compile(r"\d+ +(\w+)\((\d+<anon_inode:\[eventfd\]>)?")
TIMER_CALLS = (
    *("timerfd_settime", "timer_settime", "setitimer", "nanosleep", "clock_nanosleep"),
    "clock_gettime",
)
EVENTFD_WRITE = "write to eventfd"
# Rarer than this are ticks of the clock that fell into the longer run.
SHOWN_PER_REQUEST = 0.005


def main():
    options = arguments()
    proxies.require("nginx", "h2load", "valgrind", "strace")
    connections = options.connections + 1000
    proxy_core, load_core = prepare(connections)
    results = {}
    with tempfile.TemporaryDirectory(prefix="cutover-compare-") as directory:
        directory = Path(directory)
        chosen = proxies.choose(options, directory)
        bench = proxies.Bench(directory, proxy_core, load_core, connections)
        with bench.backend():
            for peer in chosen:
                results[peer.name] = per_request(bench, peer, options)
    show(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    proxies.add_arguments(parser)
    parser.add_argument("--path", default="/small", help="/small, /k64 or /m1")
    parser.add_argument("--wire", choices=WIRES, default="h1", help="what the client speaks")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument(
        "--lengths", type=int, nargs=2, default=(2000, 12000), metavar=("SHORT", "LONG")
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if not 1 <= options.connections <= options.lengths[0] < options.lengths[1]:
        parser.error("1 <= --connections <= SHORT < LONG is needed")
    return options


def per_request(bench, peer, options):
    short, long = options.lengths
    instructions = [counted(bench, peer, CALLGRIND, options, n) for n in (short, long)]
    calls = [counted(bench, peer, STRACE, options, n) for n in (short, long)]
    each = {
        name: round((calls[1][name] - calls[0][name]) / (long - short), 3)
        for name in sorted(calls[1] | calls[0])
    }
    return {
        "instructions": (instructions[1] - instructions[0]) / (long - short),
        "calls": {name: value for name, value in each.items() if abs(value) > SHOWN_PER_REQUEST},
    }


def counted(bench, peer, wrapper, options, requests):
    print(f"{peer.name}: {requests} requests under {wrapper[0]}", file=sys.stderr)
    with bench.proxy(peer, wrapper=wrapper, wire=options.wire) as proxy:
        load.h2load(proxy.port, options.path, requests, options.connections, options.wire)
    count = instructions_in if wrapper is CALLGRIND else calls_in
    return count(proxy.directory)


def instructions_in(directory):
    """Of all processes: each writes its own file when it ends."""
    totals = [
        int(line.split()[1])
        for path in directory.glob("out/callgrind.*")
        for line in path.read_text().splitlines()
        if line.startswith("totals:")
    ]
    if not totals:
        raise load.LoadError("callgrind wrote no total: the proxy did not end on SIGTERM")
    return sum(totals)


def calls_in(directory):
    calls = Counter()
    with open(directory / "out/strace", errors="replace") as lines:
        for line in lines:
            # A call that another thread interrupted is resumed on a second line without a name.
            if match := CALL.match(line):
                name, eventfd = match.groups()
                calls[EVENTFD_WRITE if name == "write" and eventfd else name] += 1
    return calls


def show(results):
    head = ("per request", "instructions", "calls", "eventfd writes", "futex", "timers")
    rows = [
        (
            name,
            f"{result['instructions']:.0f}",
            *(
                f"{value:.2f}"
                for value in (
                    sum(result["calls"].values()),
                    result["calls"].get(EVENTFD_WRITE, 0),
                    result["calls"].get("futex", 0),
                    sum(result["calls"].get(call, 0) for call in TIMER_CALLS),
                )
            ),
        )
        for name, result in results.items()
    ]
    print("\n".join(report.table(head, rows)))
    for name, result in results.items():
        print(f"{name}: " + ", ".join(f"{call} {n:.2f}" for call, n in result["calls"].items()))


if __name__ == "__main__":
    try:
        main()
    except load.LoadError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
