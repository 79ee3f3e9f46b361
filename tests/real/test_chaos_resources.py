"""A proxy that has run out of descriptors, or of disk."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from callers import Ask, Callers, only_get, tally
from chaos import ChaosTest
from processes import eventually

SEED = 1
DESCRIPTORS = 64
DISK_KIB = 64
FILLER_KIB = 32


class Descriptors(ChaosTest):
    def test_a_proxy_out_of_descriptors_waits_without_spinning_and_goes_on(self):
        self.start_endpoints()
        proxy = self.start_proxy(prefix=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"])
        # What it has connections for already is served all the while.
        with Callers(proxy.port, 50, only_get, clients=4, seed=SEED) as callers:
            time.sleep(1)
            with self.silent_clients(proxy, 2 * DESCRIPTORS):
                full = lambda: proxy.process.descriptors() >= DESCRIPTORS
                eventually(full, 5, lambda: f"{proxy.process.descriptors()} descriptors are open")
                exhausted = time.monotonic()
                before = proxy.process.cpu_seconds()
                time.sleep(3)
                busy = (proxy.process.cpu_seconds() - before) / 3
                self.assertTrue(full(), "it was not exhausted all the while")
                errors = proxy.process.read_output().count("can't accept connections")
            freed = time.monotonic()
            time.sleep(2)
        calls = callers.calls
        self.assertLess(busy, 0.2)
        # Twenty times a second on each worker at most.
        self.assertGreater(errors, 0)
        self.assertLess(errors, 3.5 * 20 * (os.cpu_count() or 1))
        self.assert_all_good([call for call in calls if call.sent > freed + 0.5])
        during = [call for call in calls if exhausted < call.sent < freed]
        self.assertGreater(sum(call.is_good for call in during), 0.9 * len(during), tally(during))
        with Callers(proxy.port, 200, only_get, clients=15, seed=SEED) as new:
            time.sleep(1)
        self.assert_all_good(new.calls)
        metrics = proxy.metrics()
        rejected = metrics.sum("cutover_connections_rejected_total", reason="resources")
        self.assertGreater(rejected, 0)
        self.assert_nothing_leaked(proxy)
        print(
            f"descriptors: {busy:.1%} of a core while exhausted, {errors} lines in the log, "
            f"{tally(during)} meanwhile, {tally(new.calls)} afterwards"
        )

    @contextlib.contextmanager
    def silent_clients(self, proxy, number):
        """The kernel completes their handshakes whether or not the proxy takes them."""
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), 5))
            yield


class Disk(ChaosTest):
    def start_on_a_small_disk(self):
        """A proxy whose state and access log are on 64 KiB that it alone sees."""
        self.start_endpoints()
        disk = self.enterContext(tempfile.TemporaryDirectory(prefix="disk-"))
        mounted = f'mount -t tmpfs -o size={DISK_KIB}k chaos "$0" && exec "$@"'
        prefix = ["unshare", "--mount", "sh", "-c", mounted, disk]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            self.skipTest("needs root and mount namespaces")
        log = f'[access_log]\npath = "{disk}/access.log"'
        proxy = self.start_proxy(top=f'state_dir = "{disk}"', more=log, prefix=prefix)
        return proxy, Path(f"/proc/{proxy.process.pid}/root{disk}")

    def test_a_full_disk_stops_neither_requests_nor_reloads(self):
        proxy, disk = self.start_on_a_small_disk()
        (disk / "filler").write_bytes(b"x" * FILLER_KIB * 1024)
        changes, log = disk / "changes.jsonl", disk / "access.log"
        # The last page of a file has room even when the disk has none.
        with changes.open("ab") as file:
            file.write(b"\n" * (-changes.stat().st_size % 4096))
        with Callers(proxy.port, 300, only_get, clients=20, seed=SEED) as callers:
            says = proxy.process.read_output
            eventually(
                lambda: "can't write the access log" in says(), 5, lambda: "the disk is not full"
            )
            proxy.set_weight(0.5)
            self.assertIn("can't write the change log", says())
            self.assertEqual(proxy.metrics().sum("cutover_weight", kind="effective"), 0.5)
            time.sleep(0.5)
            full = log.stat().st_size
            time.sleep(0.5)
            self.assertEqual(log.stat().st_size, full)

            (disk / "filler").unlink()
            more = lambda: log.stat().st_size > full + 4096
            eventually(more, 2, lambda: "no line although there is room")
            proxy.set_weight(0.25)
        self.assert_all_good(callers.calls)
        self.assert_nothing_leaked(proxy)
        weights = [line["to"] for line in lines(changes)[0] if line["what"] == "weight"]
        self.assertEqual(weights[-1], "0.25")
        whole, broken = lines(log)
        self.assertGreater(len(whole), 100)
        # The line that was being written as the room ended, and the one right behind it.
        self.assertLessEqual(broken, 1)
        print(
            f"disk: {tally(callers.calls)}, {len(whole)} lines whole, {broken} broken, "
            f"{says().count('write the access log')} complaints"
        )

    def test_an_access_log_that_takes_nothing_costs_no_request(self):
        self.start_endpoints()
        proxy = self.start_proxy(more='[access_log]\npath = "/dev/full"')
        kinds = [Ask(), Ask("POST")]
        with Callers(proxy.port, 300, lambda draw: draw.choice(kinds), seed=SEED) as callers:
            time.sleep(1)
        self.assert_all_good(callers.calls)
        complaints = proxy.process.read_output().count("can't write the access log")
        self.assertGreater(complaints, 0)
        print(f"access log on /dev/full: {tally(callers.calls)}, {complaints} complaints")
        self.assert_nothing_leaked(proxy)


def lines(file):
    """The JSON lines of a file that are whole, and how many others there are."""
    whole, broken = [], 0
    for line in filter(None, file.read_text().split("\n")):
        try:
            whole.append(json.loads(line))
        except ValueError:
            broken += 1
    return whole, broken
