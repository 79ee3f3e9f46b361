"""The contract of docker/README.md, seen through the proxy."""

import subprocess
import sys

from world import ROOT, RealTest, ask, backend_of


class Contract(RealTest):
    def check(self, weight, name):
        proxy = self.start_proxy(weight)
        self.assertEqual(backend_of(ask(proxy.port, "/whoami")), name)
        # The backends are compared too: that nothing changes on the way is half of the test.
        test = [sys.executable, ROOT / "docker/contract_test.py"]
        urls = [proxy.url, self.legacy.url, self.async_.url]
        done = subprocess.run([*test, *urls], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"Ran [1-9]\d* tests")
        # Neither the other path nor the proxy itself has answered any of it.
        self.assertEqual({path for path, _ in proxy.counts()}, {name})

    def test_legacy_keeps_its_contract_behind_the_proxy(self):
        self.check(0.0, "legacy")

    def test_async_keeps_its_contract_behind_the_proxy(self):
        self.check(1.0, "async")
