"""Proxies whose whole config a test brings itself, and certificates for TLS on both sides."""

import subprocess
import sys
import tempfile
from pathlib import Path

from processes import running
from world import CUTOVER, CUTOVER_SAYS, Proxy, Server

HERE = Path(__file__).resolve().parent

ADDRESSES = '[listen]\naddress = "127.0.0.1:0"\n{listen}\n[admin]\naddress = "127.0.0.1:0"\n'


def start_program(enter, announced, name, *arguments):
    """A program of this directory, which tells its port as `announced` says."""
    command = [sys.executable, HERE / name, *map(str, arguments)]
    return Server(enter(running(command, announced)))


def start_front(enter, weight, paths, listen="", more=""):
    """A proxy; `paths` are the tables of both paths, `listen` goes on with that of its name."""
    directory = Path(enter(tempfile.TemporaryDirectory(prefix="front-")))
    config = directory / "cutover.toml"
    config.write_text(
        f"async_weight = {weight}\n{ADDRESSES.format(listen=listen)}{paths}\n{more}\n"
    )
    command = [CUTOVER, "run", "--config", config]
    return Proxy(enter(running(command, CUTOVER_SAYS)), config)


def both(legacy, async_, keys=""):
    """The tables of two paths with one endpoint each and the same `keys`."""
    return (
        f'[legacy]\nendpoints = ["{legacy}"]\n{keys}\n[async]\nendpoints = ["{async_}"]\n{keys}\n'
    )


class Certificate:
    """A certificate for `localhost` and 127.0.0.1, and the authority that signed it."""

    def __init__(self, directory):
        directory = Path(directory)
        self.authority, authority_key = directory / "ca.pem", directory / "ca-key.pem"
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        make_certificate("authority", authority_key, self.authority)
        make_certificate(
            "localhost", self.key, self.certificate,
            "-CA", self.authority, "-CAkey", authority_key,
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )

    def listen(self):
        """The proxy's table for its clients."""
        return f'[listen.tls]\ncertificate = "{self.certificate}"\nkey = "{self.key}"\n'


def make_certificate(name, key, certificate, *more):
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate, *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
