"""Scenes of failure that the guard is judged by: each is played, and returns its figures.

What must hold for a scene of any length stands in its figures as `complaints`; best are none.
"""

import contextlib
import signal
import time

from callers import Ask
from guarded import (
    CALLS,
    PATIENCE_SECONDS,
    Faulty,
    Guarded,
    Plan,
    callers,
    first_failure,
    is_bad,
    on_clock,
)
from processes import eventually

LATE = 'response_timeout = "500ms"'
# From the end of the first failed request to the decision. The guard itself takes one second.
OUTAGE_SECONDS = 3


def figures(seed, complaints, **measured):
    return {"seed": seed, **measured, "complaints": [text for text, is_so in complaints if is_so]}


# === Both paths alike ===


def some_bad(drawing):
    """In a hundred calls, five that fail and two that time out, on either path."""
    draw = drawing.random()
    if draw < 0.05:
        return Ask(path="/status/500")
    return Ask(path="/sleep?ms=900") if draw < 0.07 else drawing.choice(CALLS)


def alike(shop, weight, seconds, seed):
    with contextlib.ExitStack() as stack:
        ends = shop.start_pair(stack)
        proxy = Guarded.start(stack, Plan(weight, legacy=LATE, async_=LATE), *ends)
        with callers(proxy, seed, some_bad) as load:
            time.sleep(seconds)
        evidence = {f"{of['check']} {of['test']}": of["nats"] for of in proxy.guard()["evidence"]}
        bad = sum(is_bad(call) for call in load.calls)
        return figures(
            seed,
            [
                ("rolled back", proxy.decisions()),
                ("not at its weight", proxy.effective() != weight),
                ("too few failures to say anything", bad < seconds),
                ("stalls without a blocking call", proxy.stalls() or proxy.guard()["stalls"]),
            ],
            weight=weight,
            calls=load.sent,
            bad=bad,
            evidence=evidence,
            decisions=proxy.decisions(),
            stalls=str(proxy.stalls()),
        )


# === Outages ===


def kill(async_):
    async_.process.kill()


def pause(async_):
    async_.process.handle.send_signal(signal.SIGSTOP)


def outage(shop, weight, harm, seed, baseline_seconds=0):
    with contextlib.ExitStack() as stack:
        legacy, async_ = shop.start_pair(stack)
        stack.callback(kill, async_)
        plan = Plan(0.0 if baseline_seconds else weight, legacy=LATE, async_=LATE)
        proxy = Guarded.start(stack, plan, legacy, async_)
        with callers(proxy, seed) as load:
            if baseline_seconds:
                time.sleep(1)
                proxy.record_baseline(baseline_seconds)
                proxy.set_weight(weight)
            time.sleep(3)
            harmed = time.monotonic()
            harm(async_)
            decision = proxy.await_decision("rollback", 15)
            # What was in flight then has its end by now.
            time.sleep(1)
            before = proxy.counts()
            time.sleep(2)
            later = proxy.counts() - before
        seconds = on_clock(decision) - first_failure(load.calls, harmed)
        after = [call for call in load.calls if call.sent > on_clock(decision) + 0.1]
        return figures(
            seed,
            [
                ("rolled back too late", seconds > OUTAGE_SECONDS),
                ("calls go to async after that", any(path == "async" for path, _ in later)),
                ("nothing goes to legacy", sum(later.values()) < 100),
                ("calls are lost after that", any(map(is_bad, after))),
                ("weight is not 0", proxy.effective() != 0),
            ],
            weight=weight,
            harm=harm.__name__,
            baseline=bool(baseline_seconds),
            seconds=round(seconds, 2),
            bad=sum(map(is_bad, load.calls)),
            decision=decision,
        )


# === The latch ===


def latch(shop, seed, weight=0.5):
    """A rollback is in force until it is released by its id, whatever happens to the proxy."""
    with contextlib.ExitStack() as stack:
        legacy, async_ = shop.start_pair(stack)
        proxy = Guarded.start(stack, Plan(weight, legacy=LATE, async_=LATE), legacy, async_)
        with callers(proxy, seed):
            time.sleep(2)
            kill(async_)
            identity = proxy.await_decision("rollback", 15)["id"]
        stack.enter_context(shop.start_async(async_.port))
        proxy.apply(proxy.config.read_text() + "# Applied again.\n")
        reapplied = proxy.effective(), proxy.guard()["rollback"]["id"]
        proxy.process.terminate()
        code = proxy.process.wait()
        proxy = Guarded.start_from(stack, proxy.config)
        restarted = proxy.effective(), proxy.guard()["rollback"]["id"]
        with callers(proxy, seed + 1) as load:
            time.sleep(1)
            wrong = proxy.command("resume", "rb-20200101-000000")
            latched = proxy.requests_of("async")
            right = proxy.command("resume", identity)
            proxy.await_effective(weight, PATIENCE_SECONDS)
            time.sleep(1)
            released = proxy.requests_of("async")
            again = proxy.command("resume", identity)
        return figures(
            seed,
            [
                ("a file that is applied again releases it", reapplied != (0, identity)),
                ("a restart releases it", restarted != (0, identity)),
                ("the proxy did not end well", code != 0),
                ("a wrong id is not refused", wrong.returncode != 1),
                ("the right one is not named", identity not in wrong.stderr),
                ("async got requests while latched", latched),
                ("its id does not release it", right.returncode != 0 or not released),
                ("it is released twice", again.returncode != 1),
                ("calls are lost", any(map(is_bad, load.calls))),
            ],
            id=identity,
            wrong=wrong.stderr,
            right=right.stdout,
            again=again.stderr,
        )


# === A share of errors ===


def errors(seed, baseline_seconds, healthy=0.001, failing=0.05, weight=0.1):
    """Seconds until async is rolled back, once it fails at `failing` and no longer at `healthy`."""
    with contextlib.ExitStack() as stack:
        legacy = stack.enter_context(Faulty(healthy, f"legacy {seed}"))
        async_ = stack.enter_context(Faulty(healthy, f"async {seed}"))
        proxy = Guarded.start(stack, Plan(0.0), legacy, async_)
        with callers(proxy, seed) as load:
            if baseline_seconds:
                proxy.record_baseline(baseline_seconds)
            proxy.set_weight(weight)
            time.sleep(3)
            early = proxy.decisions("rollback")
            began, async_.share = time.monotonic(), failing
            decision = proxy.await_decision("rollback", 120)
        return figures(
            seed,
            [
                ("rolled back before", early),
                ("for another reason", decision["finding"]["check"] != "error_rate"),
            ],
            baseline=bool(baseline_seconds),
            seconds=round(on_clock(decision) - began, 2),
            bad=sum(map(is_bad, load.calls)),
            text=decision["text"],
        )


# === The blocking call ===

BLOCKED = {"BLOCK_THE_LOOP": "1", "REPORT_SECONDS": "0.3"}
CULPRIT = "GET /reports/{first}"


def blocking(shop, seed, weight=0.1, name_seconds=60, stay_seconds=0, late_weight=0.5):
    """One handler blocks the loop; then the deadline comes down, and requests time out."""
    with contextlib.ExitStack() as stack:
        ends = shop.start_pair(stack, **BLOCKED)
        plan = Plan(weight)
        proxy = Guarded.start(stack, plan, *ends)
        with callers(proxy, seed):
            began = time.monotonic()
            eventually(
                lambda: proxy.guard()["stalls"],
                name_seconds,
                lambda: f"nobody is named in {name_seconds} s: {proxy.stalls()}",
            )
            named = time.monotonic() - began
            routes = {stall["route"] for stall in proxy.guard()["stalls"]}
            end = time.monotonic() + stay_seconds
            while time.monotonic() < end:
                time.sleep(0.5)
                routes |= {stall["route"] for stall in proxy.guard()["stalls"]}
            counted, words = proxy.stalls(), proxy.guard()["stalls"]
            early = proxy.decisions("rollback")
            late = plan._replace(weight=late_weight, async_=LATE)
            proxy.apply(late.text(*ends))
            applied = time.monotonic()
            decision = proxy.await_decision("rollback", 60)
        line = f"{CULPRIT} blocks the event loop of async"
        return figures(
            seed,
            [
                ("others are named", routes != {CULPRIT}),
                ("others have stalls", set(counted) != {("async", "reports")}),
                ("rolled back while nothing timed out", early),
                ("the rollback does not name the route", line not in decision["text"]),
            ],
            named_seconds=round(named, 1),
            words=[stall["text"] for stall in words],
            stalls=str(counted),
            rolled_back_seconds=round(on_clock(decision) - applied, 2),
            text=decision["text"],
        )


def bounded(shop, seed, seconds, weight=0.1):
    """The same call where it belongs, on the pool of threads."""
    with contextlib.ExitStack() as stack:
        ends = shop.start_pair(stack, REPORT_SECONDS="0.3")
        proxy = Guarded.start(stack, Plan(weight), *ends)
        seen = []
        with callers(proxy, seed) as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.5)
                seen += proxy.guard()["stalls"]
        return figures(
            seed,
            [
                ("stalls without a blocking call", seen or proxy.stalls()),
                ("rolled back", proxy.decisions("rollback")),
                ("calls are bad", any(map(is_bad, load.calls))),
            ],
            calls=load.sent,
            stalls=str(proxy.stalls()),
            named=sorted({stall["text"] for stall in seen}),
        )
