"""The guard for longer than a test may take: one scene, as often and as long as it is told to.

    target/real-venv/bin/python tests/real/guard_long.py alike --seconds 600 --weight 0.5
    target/real-venv/bin/python tests/real/guard_long.py bounded --seconds 300
    target/real-venv/bin/python tests/real/guard_long.py errors --times 10 --baseline 10

The figures of each run are a JSON document on a line, its seed among them; exit code 1 if any has
complaints. `errors` and `outage` also print the least, the middle and the most of their seconds.
"""

import argparse
import json
import statistics
import sys

import guard_scenes as scenes
import guard_story
from guarded import Shop

SCENES = {
    "alike": lambda shop, seed, given: scenes.alike(shop, given.weight, given.seconds, seed),
    "outage": lambda shop, seed, given: scenes.outage(
        shop, given.weight, HARMS[given.harm], seed, given.baseline
    ),
    "errors": lambda _, seed, given: scenes.errors(seed, given.baseline, weight=given.weight),
    "latch": lambda shop, seed, _: scenes.latch(shop, seed),
    "blocking": lambda shop, seed, given: scenes.blocking(
        shop, seed, given.weight, stay_seconds=given.seconds
    ),
    "bounded": lambda shop, seed, given: scenes.bounded(shop, seed, given.seconds, given.weight),
    "deaf": lambda shop, seed, _: guard_story.deaf(shop, seed),
    "story": lambda shop, seed, given: guard_story.story(shop, seed, given.baseline or 10),
}
HARMS = {"kill": scenes.kill, "pause": scenes.pause}


def main():
    parser = argparse.ArgumentParser(description="Scenes that the guard is judged by.")
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("--seconds", type=int, default=60, help="of alike, bounded, blocking")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--baseline", type=int, default=0, help="seconds; 0: none")
    parser.add_argument("--harm", choices=HARMS, default="kill")
    given = parser.parse_args()
    runs = []
    with Shop.opened() as shop:
        for seed in range(given.seed, given.seed + given.times):
            runs.append(SCENES[given.scene](shop, seed, given))
            print(json.dumps(runs[-1]), flush=True)
    if seconds := sorted(run["seconds"] for run in runs if "seconds" in run):
        print(f"seconds: {seconds[0]} to {seconds[-1]}, median {statistics.median(seconds)}")
    return 1 if any(run["complaints"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
