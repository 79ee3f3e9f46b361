"""A migration from its beginning to its end, and one whose webhook is down: scenes like those of
`guard_scenes.py`, which have a ramp in common."""

import contextlib
import json
import time

from guard_scenes import LATE, figures, kill
from guarded import PATIENCE_SECONDS, Guarded, Hook, Plan, any_route, callers, is_bad
from processes import eventually

HEALTH = 'health = { path = "/healthz", interval = "500ms", timeout = "400ms" }'
QUICK = f'response_timeout = "1s"\npool_idle_timeout = "1s"\n{HEALTH}'
RAMP = """
[ramp]
steps = {steps}
soak = "2s"
min_requests = 50
webhook = "{url}"
"""
# A rate of a few percent is told from none in seconds, which a rate of one in a thousand is not. Twice
# the baseline's latency is more than a busy machine adds; a tenth more is not.
QUICK_GUARD = 'mode = "enforce"\nrate_min = 0.1\ntolerance = 1.0\nlatency_settle = "1s"'
STORY_RATE = 150
FORMS = ("text", "json", "html")


def story(shop, seed, baseline_seconds, ramp_seconds=90):
    """Baseline, ramp, drain, report, and back."""
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(Hook())
        ends = shop.start_pair(stack)
        ramp = RAMP.format(url=hook.url, steps=[0.1, 0.5, 1.0])
        plan = Plan(0.0, legacy=QUICK, async_=QUICK, guard=QUICK_GUARD, more=ramp)
        proxy = Guarded.start(stack, plan, *ends)
        with callers(proxy, seed, any_route, STORY_RATE) as load:
            time.sleep(1)
            proxy.record_baseline(baseline_seconds)
            walked = walk_up(proxy, ramp_seconds)
            before = open_lines(proxy.document("report"))
            drained = proxy.command("drain", "legacy", "--timeout", "20s")
            certificate = proxy.guard()["drains"]["legacy"]["certificate"]
            reports = {form: proxy.cutover_slow("report", "--format", form) for form in FORMS}
            await_certificate(proxy, "valid")
            came_back = go_back(proxy)
        after = open_lines(json.loads(reports["json"]))
        decisions = proxy.decisions()
        eventually(lambda: len(hook.received) == len(decisions), 10, lambda: f"{hook.received}")
        log = proxy.process.read_output()
        return figures(
            seed,
            [
                ("the ramp was not walked", steps_of(decisions) != [(0.1, 0.5), (0.5, 1.0)]),
                ("the drain failed", drained.returncode != 0),
                ("the certificate is not valid", not certificate or "void" in certificate),
                ("legacy gets nothing in the end", came_back == 0),
                ("the log does not say void", "the drain certificate is void" not in log),
                ("calls are lost", any(map(is_bad, load.calls))),
                ("the webhook was told otherwise", words(hook.received) != words(decisions)),
                ("the page is not complete in itself", not is_whole_page(reports["html"])),
                ("the checklist has open lines", after),
            ],
            calls=load.sent,
            walked_seconds=round(walked, 1),
            decisions=[decision["text"] for decision in decisions],
            drained=f"{drained.returncode} {drained.stdout}{drained.stderr}",
            certificate=certificate,
            open_before_drain=before,
            open=after,
            report=reports["text"],
        )


def walk_up(proxy, seconds):
    """From 0 to 1 by the ramp alone, until the last step is done; how long it took to get there."""
    began = time.monotonic()
    text = proxy.config.read_text()
    proxy.apply(text.replace("async_weight = 0.0", "async_weight = 1.0"))
    proxy.await_effective(1.0, seconds)
    walked = time.monotonic() - began
    proxy.await_verdict("advance", seconds)
    return walked


def go_back(proxy):
    """To the path that was drained; how many requests it then serves."""
    before = proxy.requests_of("legacy")
    proxy.set_weight(0.0)
    await_certificate(proxy, "void")
    time.sleep(2)
    return proxy.requests_of("legacy") - before


def await_certificate(proxy, state):
    """Until the metric says that of the legacy path's certificate."""
    name = "cutover_drain_certificate"
    eventually(
        lambda: proxy.metrics().sum(name, path="legacy", state=state) == 1,
        PATIENCE_SECONDS,
        lambda: f"not {state}: {list(proxy.metrics().samples(name))}",
    )


def steps_of(decisions):
    """The steps that the ramp took."""
    taken = [decision for decision in decisions if decision["kind"] == "advance"]
    return [(round(step["from"], 6), round(step["to"], 6)) for step in taken]


def words(decisions):
    return [(decision["id"], decision["text"]) for decision in decisions]


def is_whole_page(html):
    return html.startswith("<!") and html.endswith("</html>\n") and "src=" not in html


def open_lines(report):
    """What of the checklist has not passed, and why."""
    lines = (line for line in report["checklist"] if line["passed"] is not True)
    return [f"{line['passed']}: {line['text']}: {line['detail']}" for line in lines]


# === A webhook that is down ===


def deaf(shop, seed):
    """Nobody hears what is decided: the ramp neither goes on for that, nor stands for ever."""
    with contextlib.ExitStack() as stack:
        legacy, async_ = shop.start_pair(stack)
        with Hook() as hook:
            ramp = RAMP.format(url=hook.url, steps=[0.1, 0.5])
        plan = Plan(0.5, legacy=LATE, async_=LATE, guard=QUICK_GUARD, more=ramp)
        proxy = Guarded.start(stack, plan, legacy, async_)
        with callers(proxy, seed) as load:
            proxy.cutover("ramp", "pause")
            await_failed_delivery(proxy, 1)
            paused = proxy.effective()
            proxy.cutover("ramp", "continue")
            proxy.await_effective(0.5, 30)
            lost = any(map(is_bad, load.calls))
            kill(async_)
            decision = proxy.await_decision("rollback", 15)
        await_failed_delivery(proxy, 3)
        steps = steps_of(proxy.decisions())
        return figures(
            seed,
            [
                ("the ramp moved while it was paused", paused != 0.1),
                ("it moved otherwise than by a step", steps != [(0.1, 0.5)]),
                ("calls are lost before the outage", lost),
                ("the rollback is not in force", proxy.effective() != 0),
            ],
            decisions=[decision["id"] for decision in proxy.decisions()],
            text=decision["text"],
        )


def await_failed_delivery(proxy, number):
    name = "cutover_webhook_deliveries_total"
    eventually(
        lambda: sum(n for _, n in proxy.metrics().samples(name, result="failure")) >= number,
        20,
        lambda: f"{list(proxy.metrics().samples(name))}",
    )
