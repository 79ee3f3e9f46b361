"""Networks of the test's own: one for its thread and all that this starts, and one at the far end
of a cable, where the backends are. Both are gone with the processes in them."""

import contextlib
import ctypes
import os
import subprocess

from processes import running

CLONE_NEWNET = 0x40000000
NEAR = "10.77.0.1"
FAR = ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
# The far network lasts no longer, whatever becomes of the test.
HOLD_SECONDS = 300

libc = ctypes.CDLL(None, use_errno=True)


class Far:
    """The network at the other end, and what can be done to it."""

    def __init__(self, process):
        self.prefix = ["nsenter", "--target", str(process.pid), "--net"]

    def run(self, *command):
        run(*self.prefix, *command)

    def filter(self, rule):
        """Puts one rule in front of all that comes in there."""
        chain = "{ type filter hook input priority 0; }"
        self.run("nft", "add", "table", "inet", "chaos")
        self.run("nft", "add", "chain", "inet", "chaos", "input", chain)
        self.run("nft", "add", "rule", "inet", "chaos", "input", rule)

    def unfilter(self):
        self.run("nft", "delete", "table", "inet", "chaos")

    def link(self, state):
        self.run("ip", "link", "set", "far", state)


@contextlib.contextmanager
def cabled():
    """This thread in a network with a cable to another.

    Raises `OSError` or `CalledProcessError` where the system does not allow it.
    """
    with own_network():
        holding = ["unshare", "--net", "sh", "-c", f"echo ready; exec sleep {HOLD_SECONDS}"]
        with running(holding, r"(ready)") as process:
            far = Far(process)
            peer = ["peer", "name", "far", "netns", str(process.pid)]
            run("ip", "link", "add", "near", "type", "veth", *peer)
            run("ip", "address", "add", f"{NEAR}/24", "dev", "near")
            run("ip", "link", "set", "near", "up")
            for address in FAR:
                far.run("ip", "address", "add", f"{address}/24", "dev", "far")
            far.link("up")
            yield far


@contextlib.contextmanager
def own_network():
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        check(libc.unshare(CLONE_NEWNET))
        try:
            run("ip", "link", "set", "lo", "up")
            yield
        finally:
            check(libc.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
