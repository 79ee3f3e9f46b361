"""Who gets which share."""

import contextlib
import json
import subprocess

from world import RealTest, ask, backend_of, connect, exchange

USERS = [f"user-{number}" for number in range(200)]


class Split(RealTest):
    def test_a_quarter_of_400_requests_of_curl_is_100_within_two(self):
        proxy = self.start_proxy(0.25)
        # curl itself makes 400 URLs of this one, and one connection for all of them.
        command = ["curl", "--silent", "--fail-with-body", f"{proxy.url}/whoami?[1-400]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 0, done.stderr)
        shares = [done.stdout.count(f'{{"backend":"{name}"}}') for name in ("legacy", "async")]
        self.assertEqual(sum(shares), 400)
        self.assertAlmostEqual(shares[1], 100, delta=2)
        proxy.await_counts({("legacy", 200): shares[0], ("async", 200): shares[1]})

    def test_a_quarter_of_connections_with_one_request_each_is_even_too(self):
        # Each goes to whichever worker has room: they must take turns together.
        proxy = self.start_proxy(0.25)
        names = [backend_of(ask(proxy.port, "/whoami")) for _ in range(400)]
        self.assertAlmostEqual(names.count("async"), 100, delta=2)

    def test_a_user_stays_on_a_path_and_moves_once_as_the_weight_grows(self):
        proxy = self.start_proxy(0.25, more='[split]\nkey = "header:x-user-id"')
        before = self.paths(proxy)
        self.assertEqual(self.paths(proxy), before)
        # A fair draw of 200 is outside of this once in ten thousand; here it is the same each time.
        self.assertAlmostEqual(sum(before.values()), 50, delta=24)

        proxy.set_weight(0.5)
        after = self.paths(proxy)
        self.assertGreater(sum(after.values()), sum(before.values()))
        self.assertEqual([user for user in USERS if before[user] and not after[user]], [])
        for user in USERS[:3]:
            explained = json.loads(proxy.cutover("explain", "--key", user, "--json"))
            [route] = explained["routes"]
            self.assertEqual(route["path"] == "async", after[user], explained)

    def paths(self, proxy):
        """Whether each user is on the async path."""
        with contextlib.closing(connect(proxy.port)) as connection:
            return {
                user: backend_of(exchange(connection, "/whoami", headers={"X-User-Id": user}))
                == "async"
                for user in USERS
            }
