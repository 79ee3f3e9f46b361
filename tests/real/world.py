"""What a test sees: both backends of docker/, and the release binary in front of them."""

import collections
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from processes import eventually, running

ROOT = Path(__file__).resolve().parents[2]
CUTOVER = ROOT / "target/release/cutover"
BIN = Path(sys.executable).parent

# Every process is told port 0 and says in its log which one the system chose.
GUNICORN_SAYS = r"Listening at: http://127\.0\.0\.1:(\d+)"
UVICORN_SAYS = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"
CUTOVER_SAYS = r'"serving","address":"127\.0\.0\.1:(\d+)","admin":"127\.0\.0\.1:(\d+)"'

Reply = collections.namedtuple("Reply", "status headers body")


class RealTest(unittest.TestCase):
    """Starts both backends for a class. They share a database, as in a real migration."""

    @classmethod
    def setUpClass(cls):
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="real-")))
        cls.legacy = cls.enterClassContext(cls.start_legacy())
        cls.async_ = cls.enterClassContext(cls.start_async())

    @classmethod
    @contextlib.contextmanager
    def start_legacy(cls):
        command = [
            BIN / "gunicorn", "--chdir", ROOT / "docker", "--worker-class", "gthread",
            "--threads", "10", "--keep-alive", "75", "--no-control-socket",
            "--bind", "127.0.0.1:0", "legacy.app:app",
        ]
        with running(command, GUNICORN_SAYS, cls.environment()) as process:
            yield Server(process)

    @classmethod
    @contextlib.contextmanager
    def start_async(cls, port=0, **environment):
        command = [
            BIN / "uvicorn", "--app-dir", ROOT / "docker", "--host", "127.0.0.1",
            "--port", str(port), "--timeout-keep-alive", "75", "--no-access-log",
            "--timeout-graceful-shutdown", "1", "async.app:app",
        ]
        with running(command, UVICORN_SAYS, cls.environment(**environment)) as process:
            yield Server(process)

    @classmethod
    def environment(cls, **more):
        return {"DATABASE": str(cls.directory / "orders.db"), **more}

    def start_proxy(self, weight, listen="", legacy="", async_="", more="", async_port=None):
        """A proxy for this test; the texts go into the config's tables."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="real-")))
        config = directory / "cutover.toml"
        async_url = f"http://127.0.0.1:{async_port or self.async_.port}"
        config.write_text(
            f"async_weight = {weight}\n"
            f'[listen]\naddress = "127.0.0.1:0"\n{listen}\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            f'[legacy]\nendpoints = ["{self.legacy.url}"]\n{legacy}\n'
            f'[async]\nendpoints = ["{async_url}"]\n{async_}\n'
            f"{more}\n"
        )
        command = [CUTOVER, "run", "--config", config]
        return Proxy(self.enterContext(running(command, CUTOVER_SAYS)), config)


class Server:
    """A process that listens on a port of 127.0.0.1."""

    def __init__(self, process):
        self.process = process
        self.port = int(process.told[0])
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"


class Proxy(Server):
    def __init__(self, process, config):
        super().__init__(process)
        self.config = config
        self.admin_port = int(process.told[1])

    def admin(self, path):
        return ask(self.admin_port, path)

    def metrics(self):
        return Metrics(self.admin("/metrics").body.decode())

    def cutover(self, *arguments):
        """What a command prints about this proxy."""
        place = ["--config", self.config, "--admin", f"127.0.0.1:{self.admin_port}"]
        command = [CUTOVER, *arguments, *place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def set_weight(self, weight):
        return self.cutover("weight", str(weight))

    def counts(self):
        """Finished requests as a Counter of (path, code)."""
        counts = collections.Counter()
        for labels, value in self.metrics().samples("cutover_requests_total"):
            counts[labels["path"], int(labels["code"])] += int(value)
        return counts

    def await_counts(self, expected):
        """A request is counted at its very end, which the client may see a moment earlier."""
        eventually(
            lambda: self.counts() == expected,
            2,
            lambda: f"{self.counts()} is counted, {expected} expected",
        )


class Metrics:
    """A page in the Prometheus text format."""

    SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
    LABEL = re.compile(r'(\w+)="([^"]*)"')

    def __init__(self, text):
        self.text = text

    def samples(self, name, **wanted):
        for found, labels, value in self.SAMPLE.findall(self.text):
            labels = dict(self.LABEL.findall(labels))
            if found == name and wanted.items() <= labels.items():
                yield labels, float(value)

    def sum(self, name, **wanted):
        values = [value for _, value in self.samples(name, **wanted)]
        assert values, f"no sample of {name} {wanted}"
        return sum(values)


def ask(port, path, method="GET", body=None, headers={}, timeout=30):
    """One request on a connection of its own."""
    with contextlib.closing(connect(port, timeout)) as connection:
        return exchange(connection, path, method, body, headers)


def connect(port, timeout=30):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)


def exchange(connection, path, method="GET", body=None, headers={}):
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return Reply(response.status, response.headers, response.read())


def backend_of(reply):
    """What `/whoami` says."""
    return json.loads(reply.body)["backend"]
