"""Bodies that fit into no buffer."""

import contextlib
import hashlib
import json
import time

from world import RealTest, connect

GIB = 1 << 30
# The byte at offset o is o mod 251, as `/bytes` has it: a block is a whole number of periods.
BLOCK = bytes(range(251)) * 256
MEMORY_MIB = 64


def blocks(length):
    for _ in range(length // len(BLOCK)):
        yield BLOCK
    if rest := length % len(BLOCK):
        yield BLOCK[:rest]


def sha256(chunks):
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def seconds(transfer, port):
    began = time.monotonic()
    transfer(port)
    return time.monotonic() - began


class Bodies(RealTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = {size: sha256(blocks(size)) for size in (GIB, 2 * GIB)}

    def download(self, port, size):
        with contextlib.closing(connect(port)) as connection:
            connection.request("GET", f"/bytes/{size}")
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            self.assertEqual(response.headers["Content-Length"], str(size))
            got = sha256(iter(lambda: response.read(1 << 18), b""))
        self.assertEqual(got, self.expected[size])

    def upload(self, port, size, chunked):
        # http.client sends a generator in chunks, unless it is told a length.
        headers = {} if chunked else {"Content-Length": str(size)}
        with contextlib.closing(connect(port)) as connection:
            connection.request("POST", "/digest", blocks(size), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        self.assertEqual(answer, {"bytes": size, "sha256": self.expected[size]})

    def check(self, weight, backend, size):
        """Each transfer without the proxy first, as the measure of what it adds."""
        proxy = self.start_proxy(weight)
        for name, transfer in (
            ("download", lambda port: self.download(port, size)),
            ("upload of known length", lambda port: self.upload(port, size, chunked=False)),
            ("chunked upload", lambda port: self.upload(port, size, chunked=True)),
        ):
            direct, proxied = (seconds(transfer, port) for port in (backend.port, proxy.port))
            figures = f"direct {direct:.1f} s, proxy {proxied:.1f} s"
            print(f"bodies: {name}, {size // GIB} GiB: {figures}")
        peak = proxy.process.memory_peak_mib()
        print(f"bodies: memory peak {peak:.1f} MiB")
        self.assertLess(peak, MEMORY_MIB)

    def test_a_gibibyte_passes_to_and_from_legacy_whole_and_unbuffered(self):
        self.check(0.0, self.legacy, GIB)

    def test_two_gibibytes_pass_to_and_from_async_whole_and_unbuffered(self):
        self.check(1.0, self.async_, 2 * GIB)
