"""Changes of the weight under load."""

import json
import subprocess
import time

from world import ROOT, RealTest

SECONDS = 15
CHANGES = 20


class Reload(RealTest):
    def test_twenty_changes_of_the_weight_under_load_cost_no_request(self):
        proxy = self.start_proxy(0.0)
        command = [
            "wrk", "--threads", "2", "--connections", "32", "--duration", f"{SECONDS}s",
            "--script", ROOT / "tests/real/wrk.lua", f"{proxy.url}/whoami",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            try:
                took = self.change(proxy)
                self.assertIsNone(wrk.poll(), "the load ended before the last change")
                output, _ = wrk.communicate(timeout=SECONDS + 10)
            finally:
                wrk.kill()
        counted = json.loads(output.splitlines()[-1])
        errors = {kind: number for kind, number in counted.items() if kind != "requests"}
        self.assertEqual(set(errors.values()), {0}, counted)
        self.assertGreater(counted["requests"], 1000)

        codes = proxy.counts()
        self.assertEqual(codes.keys(), {("legacy", 200), ("async", 200)})
        reloads = proxy.metrics().sum("cutover_config_reloads_total", result="success")
        self.assertEqual(reloads, 1 + CHANGES)
        # Neither late nor from a clock that the other does not share.
        self.assertLess(max(took), 0.5)
        self.assertGreater(min(took), 0)
        print(f"reload: {counted['requests']} requests, slowest change {max(took) * 1e3:.0f} ms")

    def change(self, proxy):
        """How long after it was saved each change was in force.

        Not how long the command took: it also waits for the disk before it saves.
        """
        took = []
        start = time.monotonic()
        for change in range(1, CHANGES + 1):
            # Spread over all of the load but its last second.
            due = start + change * (SECONDS - 1) / (CHANGES + 1)
            time.sleep(max(0, due - time.monotonic()))
            proxy.set_weight(change % 5 / 4)
            in_force = "cutover_config_last_reload_success_timestamp_seconds"
            # A rename sets the file's change time.
            took.append(proxy.metrics().sum(in_force) - proxy.config.stat().st_ctime)
        return took
