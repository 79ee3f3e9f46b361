"""Child processes: start one, learn from its output which port it got, end it by its id."""

import atexit
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

START_SECONDS = 20
STOP_SECONDS = 10

_running = set()


class Process:
    """A running command in a session of its own, so that its workers can be ended with it."""

    def __init__(self, command, announced, environment=None):
        """Returns once the output matches `announced`; its groups are `self.told`."""
        self.output = tempfile.TemporaryFile()
        self.handle = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self.pid = self.handle.pid
        _running.add(self)
        try:
            self.told = self._wait_for(announced)
        except BaseException:
            self.kill()
            raise

    def _wait_for(self, pattern):
        def found():
            if match := re.search(pattern, self.read_output()):
                return match.groups()
            if self.handle.poll() is not None:
                raise AssertionError(f"{self.handle.args[0]} has ended: {self.read_output()}")

        return eventually(found, START_SECONDS, lambda: f"no {pattern!r} in {self.read_output()}")

    def read_output(self):
        # Not seek and read: the child shares the file's position.
        size = os.fstat(self.output.fileno()).st_size
        return os.pread(self.output.fileno(), size, 0).decode(errors="replace")

    def memory_peak_mib(self):
        with open(f"/proc/{self.pid}/status") as lines:
            [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(peak) / 1024

    def resident_mib(self):
        with open(f"/proc/{self.pid}/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        """What all of its threads have used so far."""
        with open(f"/proc/{self.pid}/stat") as stat:
            # Behind the name, which may have spaces in it: fields 14 and 15, counted from 1.
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self):
        self.handle.send_signal(signal.SIGTERM)

    def wait(self, seconds=STOP_SECONDS):
        """The exit code."""
        return self.handle.wait(seconds)

    def kill(self):
        """SIGKILL to it and its workers. The group is the session made above: nobody else's."""
        if self not in _running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        # Its id may belong to another one from now on.
        _running.discard(self)

    def stop(self):
        """SIGTERM, and SIGKILL to whatever outlives it."""
        if self.handle.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait()
        self.kill()
        self.output.close()


@contextlib.contextmanager
def running(command, announced, environment=None):
    process = Process(command, announced, environment)
    try:
        yield process
    finally:
        process.stop()


def eventually(look, seconds, complaint):
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            raise AssertionError(complaint())
        time.sleep(0.01)
    return seen


def _kill_all():
    for process in list(_running):
        process.kill()


# unittest leaves its clean-ups out when it is interrupted, so here is where nothing stays behind.
# SIGTERM comes from run.sh as the time is over; any other exception would be taken for a failure.
atexit.register(_kill_all)
signal.signal(signal.SIGTERM, signal.default_int_handler)
