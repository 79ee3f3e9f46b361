"""Clients that keep asking from several threads until told to stop, and note what they got."""

import http.client
import threading
import time
from typing import NamedTuple

from processes import eventually
from world import connect, exchange

JOIN_SECONDS = 30


class Outcome(NamedTuple):
    """One request: a reply, or the exception that came in its place."""

    sent: float
    seconds: float
    reply: object = None
    fault: object = None


class Load:
    """`clients` connections to `port`, each with one request after another for `path`."""

    def __init__(self, port, path, clients):
        self.outcomes = []
        self.refused = threading.Event()
        self._stop = threading.Event()
        self._where = port, path
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a client hangs"

    def await_outcomes(self, more):
        """Goes on until there are `more` outcomes than now."""
        wanted = len(self.outcomes) + more
        eventually(
            lambda: len(self.outcomes) >= wanted,
            JOIN_SECONDS,
            lambda: f"{len(self.outcomes)} outcomes of {wanted}",
        )

    def _client(self):
        port, path = self._where
        connection = connect(port, timeout=15)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                # Nobody listens any more: not a failed request, but the end of this client.
                self.refused.set()
                return
            except OSError as fault:
                self._note(began, fault=fault)
                return
            try:
                # Its socket is closed by a reply with `Connection: close`.
                self._note(began, reply=exchange(connection, path))
            except (OSError, http.client.HTTPException) as fault:
                self._note(began, fault=fault)
                connection.close()
        connection.close()

    def _note(self, began, **what):
        # Appending to a list is atomic.
        self.outcomes.append(Outcome(began, time.monotonic() - began, **what))
