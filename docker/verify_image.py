"""Checks the image that verify-image.sh has built, and runs it as a strict runtime would.

As the numeric user that it names, without capabilities, on a root that is read-only but for its
volume, with processes and a network of its own: nothing here leaves that network.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

IMAGE = "cutover-verify"
SIZE_MAX = 40 << 20
PATIENCE = 15
CONFIG = """
async_weight = 0.0
state_dir = "/var/lib/cutover"
listen.address = "0.0.0.0:8080"
legacy.endpoints = ["http://127.0.0.1:9001"]
async.endpoints = ["http://127.0.0.1:9002"]
drain.delay = "2s"
"""
# In namespaces of their own: the mounts of a container, and the user and rights of its process.
START = """
root=$1 config=$2 user=$3 group=$4; shift 4
ip link set lo up
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o "uid=$user,gid=$group,mode=0750" state "$root/var/lib/cutover"
mount --bind "$config" "$root/etc/cutover"
mount -o remount,bind,ro "$root/etc/cutover"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid="$user" --regid="$group" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env -i "$@"
"""


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def size(folder):
    files = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files)


def say(what):
    print(f"image: {what}", flush=True)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not in {PATIENCE} s"
        time.sleep(0.05)


def promises(config):
    """What the Dockerfile says of how it is to be run."""
    user, group = config["User"].split(":")
    assert user.isdigit() and group.isdigit() and int(user) > 0, config["User"]
    assert config["StopSignal"] == "SIGTERM", config
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/cutover", "status", "--ready"]
    assert list(config["Volumes"]) == ["/var/lib/cutover"], config["Volumes"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9900/tcp"}, config["ExposedPorts"]
    assert config["Labels"]["org.opencontainers.image.title"] == "cutover", config["Labels"]
    say(f"user {config['User']}, stop signal, health check, volume, ports and labels are there")


class Container:
    """The image, running in namespaces of its own."""

    def __init__(self, root, folder, config):
        self.root, self.config = root, config
        self.user = config["User"].split(":")
        command = [*config["Env"], *config["Entrypoint"], *config["Cmd"]]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc", START,
             "sh", root, folder, *self.user, *command],
            stderr=subprocess.PIPE, text=True)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: self.process.poll() is not None or children.read_text(), "a process")
        self.pid = children.read_text().strip()

    def inside(self, *command):
        """How a command in the container ends: its exit code, and all that it says."""
        user, group = self.user
        ran = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "chroot", self.root,
             "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "env", "-i",
             *self.config["Env"], *command], capture_output=True, text=True)
        return ran.returncode, ran.stdout + ran.stderr

    def is_healthy(self):
        return self.inside(*self.config["Healthcheck"]["Test"][1:])[0] == 0

    def beside(self, *command):
        """A program of this machine, in the container's network."""
        return ["nsenter", f"--target={self.pid}", "--net", *command]


def runs(root, work, config):
    folder = work / "etc"
    folder.mkdir(exist_ok=True)
    (folder / "cutover.toml").write_text(CONFIG)
    (Path(root) / "etc/cutover").mkdir(exist_ok=True)
    container = Container(root, str(folder), config)
    backend = None
    try:
        until(container.is_healthy, "healthy")
        say("it is healthy on a read-only root, without capabilities")
        status = Path(f"/proc/{container.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split()[0] == container.user[0], fields["Uid"]
        assert fields["NoNewPrivs"] == "1", fields
        assert {int(fields[f"Cap{of}"], 16) for of in ("Prm", "Eff", "Bnd")} == {0}, fields
        for place in ("/", "/etc/cutover/", "/usr/local/bin/", "/tmp/", "/run/cutover/"):
            code, said = container.inside("touch", f"{place}new")
            assert code != 0 and "Read-only file system" in said, (place, said)
        code, said = container.inside("ls", "/var/lib/cutover")
        assert code == 0 and said, f"no state in its volume: {said}"
        say(f"it writes to its volume and nowhere else: {' '.join(said.split())}")
        files = ("python3", "-m", "http.server", "9001", "--directory", str(folder))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        backend = subprocess.Popen(container.beside(*files), **quiet)
        ask = container.beside("curl", "--silent", "--fail", "http://127.0.0.1:8080/cutover.toml")
        got = lambda: subprocess.run(ask, capture_output=True, text=True).stdout
        until(lambda: got() == CONFIG, "a reply")
        say("it serves")
        os.kill(int(container.pid), signal.SIGTERM)
        until(lambda: not container.is_healthy(), "unhealthy")
        assert container.process.poll() is None, "it ended before its drain's delay"
        assert got() == CONFIG, "it refuses what comes within its drain's delay"
        code = container.process.wait(PATIENCE)
        assert code == 0, f"exit code {code}"
        say("SIGTERM: at once unhealthy, it goes on serving for drain.delay, and ends with 0")
    except BaseException:
        container.process.kill()
        print(container.process.stderr.read(), file=sys.stderr)
        raise
    finally:
        if backend:
            backend.kill()


def main(work):
    image = json.loads(output("buildah", "inspect", "--type=image", IMAGE))
    config = image["Docker"]["config"]
    promises(config)
    container = output("buildah", "from", "--pull-never", IMAGE)
    try:
        root = output("buildah", "mount", container)
        over = size(root) - size(work / "debian")
        assert over < SIZE_MAX, f"{over} bytes over its base"
        say(f"{over / 1e6:.1f} MB over its base")
        runs(root, work, config)
    finally:
        output("buildah", "rm", container)


main(Path(sys.argv[1]))
