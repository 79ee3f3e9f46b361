"""Child processes: start them on given cores, measure them from /proc, end them by their handle."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS = 20  # valgrind needs several to show a listening port
STOP_SECONDS = 10


class StartError(Exception):
    """A process that ended, or never answered; the message carries the end of its output."""


class Process:
    """One running command. Its descendants (nginx's workers) are measured and ended with it."""

    def __init__(self, command, cores, output):
        self.output = output
        self.traced = command[0] == "strace"
        with open(output, "wb") as sink:
            self.handle = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # Its own session: Ctrl-C reaches this program alone, which then ends the rest.
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def pids(self):
        """The process and its descendants."""
        found, unseen = [], [self.handle.pid]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    unseen += map(int, children.read_text().split())
        return found

    def cpu_seconds(self):
        """(user, system) so far."""
        user = system = 0
        for pid in self.pids():
            # The name in brackets may hold spaces; the fields after it are well separated.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            system += int(fields[12])
        return user / TICKS_PER_SECOND, system / TICKS_PER_SECOND

    def memory_kib(self, kind):
        """`Rss` or `Pss` (shared pages counted once, by share) of all its processes."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{kind}:"):
                    total += int(line.split()[1])
        return total

    def wait_until_it_listens(self, port):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.handle.poll() is not None:
                raise StartError(f"ended with status {self.handle.returncode}: {self.tail()}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return
            time.sleep(0.02)
        raise StartError(f"nobody listens on port {port}: {self.tail()}")

    def wait_until_it_answers(self, port, path="/small"):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.handle.poll() is not None:
                raise StartError(f"ended with status {self.handle.returncode}: {self.tail()}")
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
                    client.sendall(request.encode())
                    if client.recv(64).startswith(b"HTTP/1.1 200"):
                        return
            time.sleep(0.02)
        raise StartError(f"no reply with status 200 on port {port}: {self.tail()}")

    def tail(self):
        return Path(self.output).read_text(errors="replace")[-2000:].strip() or "(no output)"

    def stop(self):
        """SIGTERM, and SIGKILL to whatever outlives it."""
        if self.handle.poll() is None:
            # strace ends with its child; told to end itself, it would leave the child behind.
            pid = self.pids()[:2][-1] if self.traced else self.handle.pid
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                self.handle.wait(STOP_SECONDS)
        # The group is the session we made, so this reaches our descendants and nobody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.handle.pid, signal.SIGKILL)
        self.handle.wait(STOP_SECONDS)


@contextlib.contextmanager
def running(command, cores, output):
    process = Process(command, cores, output)
    try:
        yield process
    finally:
        process.stop()


def free_port():
    """A port that the system just chose. It could be taken before it is bound: start() retries."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare(connections):
    """(proxy core, load core); this program moves to the load core, with descriptors enough.

    A proxy holds two descriptors for a connection at most, and some tens of its own.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the proxy, one for the load and backend")
    os.sched_setaffinity(0, {cores[1]})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 2 * connections + 200:
        raise SystemExit(f"{connections} connections need more open files than {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A plain exit runs every `finally`, so a terminated comparison leaves nothing behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: exit_by(number))
    return cores[0], cores[1]


def exit_by(number):
    raise SystemExit(128 + number)
