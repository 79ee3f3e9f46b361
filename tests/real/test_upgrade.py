"""`cutover upgrade` under load: again and again, across a WebSocket, and with programs that don't come up."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from endpoints import serving
from fronts import ADDRESSES, both, start_program
from processes import eventually, running
from test_websocket import BACKEND_SAYS
from websockets.sync.client import connect
from world import CUTOVER, CUTOVER_SAYS, ROOT, Proxy

UPGRADES = 50
CONNECTIONS = 40
PAUSE_MS = 10
# wrk is ended as the test is done; this bounds it.
LOAD_SECONDS = 100


class Upgrade(unittest.TestCase):
    def start(self, url):
        """A proxy whose program is a link that can be made to lead elsewhere."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="upgrade-")))
        self.config, self.program = directory / "cutover.toml", directory / "cutover"
        self.config.write_text(f"async_weight = 0.5\n{ADDRESSES.format(listen='')}{both(url, url)}")
        self.program.symlink_to(CUTOVER)
        command = [self.program, "run", "--config", self.config]
        return Proxy(self.enterContext(running(command, CUTOVER_SAYS)), self.config)

    def start_backend(self):
        return self.enterContext(serving("b")).url

    def install(self, script, mode=0o755):
        fresh = self.program.with_name("fresh")
        fresh.write_text(f"#!/bin/sh\n{script}\n")
        fresh.chmod(mode)
        fresh.rename(self.program)

    @contextlib.contextmanager
    def load(self, proxy):
        """Half of the requests over connections that last, and each of the other half over one of its own."""
        results = {}
        with contextlib.ExitStack() as stack:
            kinds = {"lasting": [], "own": ["--header", "Connection: close"]}
            loads = {kind: stack.enter_context(wrk(proxy, more)) for kind, more in kinds.items()}
            yield results
            for kind, process in loads.items():
                self.assertIsNone(process.poll(), "the load ended before the test")
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=20)
                results[kind] = json.loads(output.splitlines()[-1])
        for kind, result in results.items():
            self.assertEqual(result["failed"], [0] * 5, f"{kind}: {results}")

    def test_upgrades_under_load_fail_no_request(self):
        proxy = self.start(self.start_backend())
        pids, took = [proxy.process.pid], []
        with self.load(proxy) as results:
            for _ in range(UPGRADES):
                done = json.loads(proxy.cutover("upgrade", "--json"))
                pids.append(done["pid"])
                took.append(done["seconds"])
        self.assertEqual(len(set(pids)), UPGRADES + 1)
        self.assertEqual(proxy.metrics().sum("cutover_upgrades_total", result="success"), UPGRADES)
        rates = {kind: of["requests"] / of["seconds"] for kind, of in results.items()}
        self.assertGreater(min(rates.values()), 500, f"{rates}: too few to tell")
        alive = lambda: list(filter(is_alive, pids))
        eventually(lambda: alive() == pids[-1:], 20, lambda: f"{alive()} have not ended")
        os.kill(pids[-1], signal.SIGTERM)
        eventually(lambda: not alive(), 10, lambda: "the last one does not end")
        log = proxy.process.read_output()
        self.assertEqual(log.count('"drained, nothing was cut off"'), UPGRADES + 1)
        self.assertNotIn('"level":"ERROR"', log)
        print(
            f"upgrade: {UPGRADES} in {results['own']['seconds']:.1f} s, each "
            f"{statistics.median(took):.3f} s, at most {max(took):.3f} s; {rates['lasting']:.0f} "
            f"requests a second over lasting connections and {rates['own']:.0f} over their own, "
            f"longest {max(of['longest'] for of in results.values()):.0f} ms, none failed"
        )

    def test_a_websocket_goes_on_across_an_upgrade(self):
        server = start_program(self.enterContext, BACKEND_SAYS, "ws_backend.py")
        proxy = self.start(f"http://127.0.0.1:{server.process.told[0]}")
        with connect(f"ws://127.0.0.1:{proxy.port}") as before:
            before.send("one")
            self.assertEqual(before.recv(5), "one")
            proxy.cutover("upgrade")
            with connect(f"ws://127.0.0.1:{proxy.port}") as after:
                for text in ["two", "three"]:
                    for socket in [before, after]:
                        socket.send(text)
                        self.assertEqual(socket.recv(5), text)
            self.assertIsNone(proxy.process.handle.poll(), "the old one ends with its tunnel")
        self.assertEqual(proxy.process.wait(), 0)

    def test_programs_that_do_not_come_up_fail_no_request(self):
        proxy = self.start(self.start_backend())
        sound = self.config.read_text()
        broken = [
            ("exit 0", 0o644, sound),
            ("exit 1", 0o755, sound),
            ("exec sleep 600", 0o755, sound),
            (f'exec "{CUTOVER}" "$@"', 0o755, "nonsense = 1\n" + sound),
        ]
        with self.load(proxy) as results:
            for script, mode, config in broken:
                self.install(script, mode)
                self.config.write_text(config)
                command = [CUTOVER, "upgrade", "--timeout", "2s", "--config", self.config]
                command += ["--admin", f"127.0.0.1:{proxy.admin_port}"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=15)
                self.assertEqual(done.returncode, 1, done)
                self.assertIn("the new process", done.stderr)
            time.sleep(0.5)
            self.assertIsNone(proxy.process.handle.poll())
        self.assertEqual(proxy.metrics().sum("cutover_upgrades_total", result="failure"), 4)
        print(f"upgrade: 4 that came to nothing; {results['lasting']['requests']} requests")


def wrk(proxy, more):
    """Clients that ask about `CONNECTIONS / PAUSE_MS` times a millisecond."""
    command = [
        "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{LOAD_SECONDS}s",
        "--timeout", "5s", "--script", ROOT / "tests/real/paced.lua", *more, f"{proxy.url}/",
        "--", str(PAUSE_MS),
    ]
    return killed(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@contextlib.contextmanager
def killed(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_alive(pid):
    """Whether it is neither gone nor waiting to be looked after by whoever inherited it."""
    with contextlib.suppress(FileNotFoundError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
