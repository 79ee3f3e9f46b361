"""The backend and the proxies: which program each needs, and its command."""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from configs import BACKEND_HTTP, CUTOVER, HAPROXY, NGINX_FRAME, PROXY_HTTP, WIRES
from process import Process, StartError, free_port, running

HERE = Path(__file__).resolve().parent
CUTOVER_BINARY = HERE.parents[1] / "target/release/cutover"
ATTEMPTS = 3

# Debian package of every program that something here needs.
PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "valgrind": "valgrind",
    "strace": "strace",
}


@dataclass
class Peer:
    """A proxy to measure. Its command holds the fields of `Bench.fields` to fill in."""

    name: str
    command: list


@dataclass
class Running:
    process: Process
    directory: Path
    port: int
    admin: int


class Bench:
    """One backend and a directory for everything that the processes write."""

    def __init__(self, directory, proxy_core, load_core, connections):
        self.directory = directory
        self.proxy_core = proxy_core
        self.load_core = load_core
        self.connections = connections
        self.backend_port = None
        self.certificate = None

    @contextlib.contextmanager
    def backend(self):
        def start(stack):
            directory, fields = self.fields(workers=1)
            for name, size in (("post", 128), ("k64", 64 * 1024), ("m1", 1024 * 1024)):
                (directory / name).write_bytes(bytes(size))
            config = directory / "backend.conf"
            config.write_text(nginx_config(BACKEND_HTTP, fields))
            command = [find("nginx"), "-p", directory, "-e", "stderr", "-c", config]
            output = directory / "output"
            process = stack.enter_context(running(command, {self.load_core}, output))
            process.wait_until_it_answers(fields["listen"])
            return fields["listen"]

        with started("the backend", start) as self.backend_port:
            yield self.backend_port

    @contextlib.contextmanager
    def proxy(self, peer, workers=1, wrapper=(), wire="h1"):
        """`peer` answering, on the proxy core, or free to use both when it has two workers."""
        cores = {self.proxy_core} if workers == 1 else {self.proxy_core, self.load_core}

        def start(stack):
            directory, fields = self.fields(workers)
            write_configs(directory, {**fields, **wire_fields(wire, fields)})
            self.write_certificate(directory)
            command = [word.format(**fields) for word in (*wrapper, *peer.command)]
            process = stack.enter_context(running(command, cores, directory / "output"))
            if wire == "h1":
                process.wait_until_it_answers(fields["listen"])
            else:
                # What it then says, the first load finds out.
                process.wait_until_it_listens(fields["listen"])
            return Running(process, directory, fields["listen"], fields["admin"])

        with started(peer.name, start) as proxy:
            yield proxy

    def write_certificate(self, directory):
        """One self-signed certificate of P-256 for all proxies."""
        if not self.certificate:
            made = Path(tempfile.mkdtemp(dir=self.directory))
            command = [
                *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost", "-keyout", made / "key.pem"),
                *("-out", made / "cert.pem"),
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            both = (made / "cert.pem").read_text() + (made / "key.pem").read_text()
            (made / "both.pem").write_text(both)
            self.certificate = made
        for name in ("cert.pem", "key.pem", "both.pem"):
            shutil.copy(self.certificate / name, directory / name)

    def fields(self, workers):
        """A new directory, and what the configs and commands of one start may refer to."""
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        (directory / "out").mkdir()
        return directory, {
            "dir": directory,
            "listen": free_port(),
            "admin": free_port(),
            "backend": self.backend_port,
            "workers": workers,
            "connections": self.connections,
            "config": directory / "cutover.toml",
        }


@contextlib.contextmanager
def started(name, start):
    """Runs `start` again with new ports if it fails: a free port may be taken meanwhile."""
    for attempt in range(ATTEMPTS):
        with contextlib.ExitStack() as stack:
            try:
                result = start(stack)
            except StartError as error:
                if attempt + 1 == ATTEMPTS:
                    raise SystemExit(f"{name} did not start: {error}") from None
                continue
            yield result
            return


def nginx_config(http, fields):
    # Workers drop to another user when started by root, who owns the directory.
    user = "user root root;" if os.geteuid() == 0 else ""
    return NGINX_FRAME.format(user=user, http=http.format(reply="x" * 128, **fields), **fields)


def wire_fields(wire, fields):
    return {name: text.format(**fields) for name, text in WIRES[wire].items()}


def write_configs(directory, fields):
    (directory / "nginx.conf").write_text(nginx_config(PROXY_HTTP, fields))
    (directory / "haproxy.cfg").write_text(HAPROXY.format(**fields))
    fields["config"].write_text(CUTOVER.format(**fields).lstrip())


def add_arguments(parser):
    """The options that name proxies, for `choose`."""
    known = "nginx, haproxy, relay, cutover and the names of --peer"
    parser.add_argument("--proxies", type=names, metavar="A,B", help=f"of {known}")
    parser.add_argument("--cutover", default=CUTOVER_BINARY, type=Path, metavar="BINARY")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more proxy; {listen} and {backend} are ports, {config} is a cutover config",
    )
    return parser


def names(text):
    return text.split(",")


def choose(options, directory):
    """The peers to run, in order; prints a sentence for each that is left out."""
    relay = directory / "relay"
    known = {
        "nginx": [find("nginx"), "-p", "{dir}", "-e", "stderr", "-c", "{dir}/nginx.conf"],
        "haproxy": [find("haproxy"), "-db", "-f", "{dir}/haproxy.cfg"],
        "relay": [str(relay), "127.0.0.1:{listen}", "127.0.0.1:{backend}"],
        "cutover": [str(options.cutover), "run", "--config", "{config}"],
    }
    for spec in options.peer:
        name, _, command = spec.partition("=")
        known[name] = shlex.split(command)
        if not known[name]:
            raise SystemExit(f"--peer {spec}: NAME=COMMAND is needed")
    peers = []
    for name in options.proxies or known:
        if name not in known:
            raise SystemExit(f"unknown proxy {name}; known: {', '.join(known)}")
        program = "rustc" if name == "relay" else known[name][0]
        if reason := missing(program):
            print(f"{name} is left out: {reason}")
            continue
        if name == "relay":
            build = ["rustc", "-O", "--edition", "2024", "-o", relay, HERE / "relay.rs"]
            if subprocess.run(build, timeout=120, check=False).returncode:
                print("relay is left out: rustc could not build it")
                continue
        peers.append(Peer(name, known[name]))
    if not peers:
        raise SystemExit("no proxy to run")
    return peers


def find(program):
    """Its path; daemons live in sbin, which ordinary users do not search."""
    searched = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return shutil.which(program, path=searched) or program


def missing(program):
    """What is missing, and the Debian package that has it, or None."""
    if shutil.which(find(program)):
        return None
    package = PACKAGES.get(os.path.basename(program))
    return f"{program} not found" + (f" (Debian package {package})" if package else "")


def require(*programs):
    reasons = [reason for program in programs if (reason := missing(program))]
    if reasons:
        raise SystemExit("; ".join(reasons))


def version(peer):
    """The first line that the program says of itself."""
    asked = {"nginx": ["-v"], "haproxy": ["-v"]}.get(peer.name, ["--version"])
    if peer.name == "relay":
        return "benches/compare/relay.rs"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(
            [peer.command[0], *asked], capture_output=True, text=True, timeout=10, check=False
        )
        lines = (answer.stdout + answer.stderr).splitlines()
        return lines[0] if lines else "unknown"
    return "unknown"
