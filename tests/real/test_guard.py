"""The guard before real backends: it rolls back when async fails, not when both do, says why, finds
the blocking call, and carries a migration to its end.

Longer runs of the same scenes are a program of their own: guard_long.py.
"""

import functools
import json
import sys

import guard_scenes as scenes
import guard_story
from guarded import Shop, together
from world import RealTest

SEED = 1
WEIGHTS = (0.1, 0.5, 0.9)
ALIKE_SECONDS = 40
BASELINE_SECONDS = 4
# 9 errors are enough, which come at one in two seconds, by chance.
ERRORS_SECONDS = 45


class Guard(RealTest):
    @classmethod
    def setUpClass(cls):
        # Each scene starts its own, as it breaks them.
        cls.shop = cls.enterClassContext(Shop.opened())

    def play(self, *parts):
        """Scenes at the same time: `(scene, arguments…)`. Returns their figures."""
        jobs = [functools.partial(scene, *arguments) for scene, *arguments in parts]
        measured = together(jobs)
        for (scene, *_), of in zip(parts, measured):
            print(f"\n{scene.__name__}: {json.dumps(of)}", file=sys.stderr)
        for of in measured:
            self.assertEqual(of["complaints"], [], json.dumps(of, indent=1))
        return measured

    def test_paths_that_fail_alike_stay_as_they_are_and_no_stall_is_seen(self):
        self.play(
            (scenes.alike, self.shop, 0.1, ALIKE_SECONDS, SEED),
            (scenes.alike, self.shop, 0.5, ALIKE_SECONDS, SEED + 1),
            (scenes.bounded, self.shop, SEED, ALIKE_SECONDS),
        )

    def test_an_async_backend_that_dies_or_hangs_is_left_within_three_seconds(self):
        died = (scenes.outage, self.shop), (scenes.kill, SEED)
        hung = (scenes.outage, self.shop), (scenes.pause, SEED)
        parts = [(*of, weight, *how) for of, how in (died, hung) for weight in WEIGHTS]
        # One of them knows what is normal as well.
        parts[0] += (BASELINE_SECONDS,)
        for figures in self.play(*parts):
            decision = figures["decision"]
            finding, text = decision["finding"], decision["text"]
            did = "failed" if figures["harm"] == "kill" else "timed out"
            check = "error_rate" if figures["harm"] == "kill" else "timeout_divergence"
            async_ = finding["async"]
            self.assertEqual(finding["check"], check)
            self.assertIn(f"ROLLBACK {decision['id']} step=", text)
            self.assertIn(f"check={check}", text)
            self.assertIn(f"async {async_['events']} of {async_['n']} {did}", text)
            self.assertIn(f"cutover resume {decision['id']}", text)

    def test_a_rollback_is_kept_until_it_is_released_by_its_id(self):
        self.play((scenes.latch, self.shop, SEED), (guard_story.deaf, self.shop, SEED))

    def test_a_few_errors_are_found_by_their_rate_and_a_blocking_call_by_its_route(self):
        *errors, _ = self.play(
            (scenes.errors, SEED, 0),
            (scenes.errors, SEED + 1, 8),
            (scenes.blocking, self.shop, SEED),
        )
        for figures in errors:
            self.assertLess(figures["seconds"], ERRORS_SECONDS)

    def test_a_migration_goes_from_its_baseline_to_a_certificate_and_back(self):
        self.play((guard_story.story, self.shop, SEED, 10))
