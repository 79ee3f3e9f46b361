"""Endpoints that a test kills, stops and starts again: `backend.py`, with a port that is kept."""

import contextlib
import signal
import socket
import sys
import tempfile
from pathlib import Path

from processes import Process

BACKEND = Path(__file__).with_name("backend.py")


class Endpoint:
    """A port that was chosen by the system, and the backend that listens there at times."""

    def __init__(self, name, host="127.0.0.1", manner=None, prefix=()):
        self.name = name
        self.host = host
        self.arguments = [manner] if manner else []
        # What the command runs under, as in another network namespace.
        self.prefix = prefix
        self.process = None
        self.journal = tempfile.NamedTemporaryFile(prefix="journal-")
        self.held = hold_port(host) if not prefix else None
        self.port = self.held.getsockname()[1] if self.held else 8080
        self.label = f"{host}:{self.port}"
        self.url = f"http://{self.label}"

    def start(self):
        # Isolated and without `site`: it is up in a tenth of a second.
        interpreter = [*self.prefix, sys.executable, "-I", "-S", BACKEND]
        where = [self.host, str(self.port), self.name, self.journal.name]
        self.process = Process([*interpreter, *where, *self.arguments], r"listening on (\S+)")

    def kill(self):
        """SIGKILL, and nothing else: the kernel closes its connections."""
        self.process.kill()
        self.process.output.close()

    def pause(self):
        self.process.handle.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.handle.send_signal(signal.SIGCONT)

    def begun(self):
        """The numbers of the POSTs that it began, over all of its lives."""
        return Path(self.journal.name).read_text().split()

    def close(self):
        if self.process:
            self.kill()
        self.journal.close()
        if self.held:
            self.held.close()


def hold_port(host):
    """A port that nobody else gets, also not as the near end of a connection, until it is closed.

    A proxy that connects to a port where nobody listens may otherwise be given that very port, and
    then talks to itself.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, 0))
    return held


@contextlib.contextmanager
def serving(name, **how):
    endpoint = Endpoint(name, **how)
    try:
        endpoint.start()
        yield endpoint
    finally:
        endpoint.close()
