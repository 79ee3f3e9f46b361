"""The dashboard in a real browser, in front of a running proxy with both backends of docker/.

Screenshots of what was tested lie in target/screenshots/ afterwards, to be looked at.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from dashboard import HOSTILE, SIZES, TOKEN, Browsing, set_up
from guarded import Faulty, Guarded, Plan
from processes import eventually
from world import ROOT

SHOTS = ROOT / "target/screenshots"
SECONDS = 10
# Over what the page waits for a frame (12), and for an answer (15).
STALE_SECONDS = 17
SHIFT_MAX = 0.01
CONTRAST_MIN = 4.5
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()

setUpModule = set_up


class Panels(Browsing):
    def test_the_summary_says_who_it_is(self):
        page, status = self.live(self.ramp), self.ramp.status()
        said = page.panel("summary")
        for part in ("serving, ready", status["version"], status["config"]["hash"][:12]):
            self.assertIn(part, said)
        self.assertEqual(page.faults(), [])
        origin = f"http://127.0.0.1:{self.ramp.admin_port}"
        parts = ("/", "/dashboard.css", "/dashboard.js", "/api/v1/events")
        self.assertEqual(page.asked() - {"data:,"}, {origin + part for part in parts})

    def test_the_guard_has_a_verdict_and_reasons(self):
        page = self.live(self.ramp)
        page.await_panel("verdict", "(only observes)")
        verdict = self.ramp.guard()["verdict"]["verdict"]
        page.await_panel("verdict", verdict.capitalize())
        # An order of another test may be what it waits for no more.
        said = {"wait": "Time: 5", "hold": "The next step waits for an approval."}
        page.await_panel("reasons", said[verdict])

    def test_the_ramp_and_the_weights_follow_a_change_of_the_weight(self):
        page = self.live(self.mirror)
        page.await_panel("ramp", "There is no ramp")
        page.await_panel("weights", "orders 50 % 50 %")
        self.mirror.set_weight(0.25)
        page.await_panel("weights", "orders 25 % 25 %", seconds=4)
        self.mirror.set_weight(0.5)
        page = self.live(self.ramp)
        page.await_panel("ramp", "10 % 50 % 100 % At 10 %, next 50 %")
        self.assertEqual(page.text("[aria-current=step]"), "10 %")

    def test_the_paths_have_their_rates_and_counts(self):
        page = self.live(self.mirror)
        cells = (
            "[...document.querySelectorAll('[data-panel=paths] tbody tr')]"
            ".map(row => [...row.cells].map(cell => cell.innerText))"
        )

        def rates():
            rows = {name: of for name, *of in page.run(cells)}
            of = [float(rate) for rate in rows["Requests/s"]]
            # Forty in all, half of them on each path.
            return all(12 < rate < 28 for rate in of) and rows

        rows = eventually(rates, 20, lambda: page.panel("paths"))
        self.assertEqual(rows["Endpoints up"], ["1 of 1", "1 of 1"])
        self.assertEqual(rows["Timeouts"], ["0 %", "0 %"])
        in_all = [int(number.replace(",", "")) for number in rows["Requests in all"]]
        self.assertTrue(all(number > 20 for number in in_all), rows)

    def test_the_latency_is_beside_the_baseline(self):
        page = self.live(self.ramp)
        page.await_panel("latency", "P50")
        bars = "document.querySelectorAll('[data-panel=latency] .bars rect').length"
        self.assertEqual(page.run(bars), 6)
        if self.ramp.guard()["baseline"] is None:
            self.ramp.command("--token-file", str(self.directory / "token"),
                              "baseline", "record", "--for", "4s")
        page.await_panel("latency", "legacy's baseline of", seconds=10)
        norm = self.ramp.guard()["baseline"]["paths"]["legacy"]["p50_ms"]
        said = page.run("document.querySelector('[data-panel=latency] tbody tr').cells[3].innerText")
        self.assertAlmostEqual(float(said.split()[0]), norm, delta=0.06 * norm)
        self.assertGreater(page.run(bars.replace("rect", ".norm")), 0)
        drawn = "document.querySelectorAll('.plot path:not([d=\"\"])').length"
        page.await_true(f"{drawn} >= 4")

    def test_the_evidence_has_a_bar_for_each_test(self):
        page = self.live(self.ramp)
        found = self.ramp.guard()["evidence"]
        page.await_true(
            f"document.querySelectorAll('[data-panel=evidence] .gauge').length == {len(found)}"
        )
        for entry in found:
            self.assertIn(entry["check"].replace("_", " "), page.panel("evidence"))

    def test_the_endpoints_are_named_with_their_state(self):
        page = self.live(self.ramp)
        for path in self.ramp.status()["paths"].values():
            for endpoint in path["endpoints"]:
                page.await_panel("endpoints", endpoint["endpoint"])
        self.assertEqual(page.panel("endpoints").count("up ("), 2)

    def test_a_stall_names_its_culprit(self):
        page = self.live(self.mirror)
        page.await_panel("stalls", "GET /reports/{first} blocks the event loop of async", 40)

    def test_differences_of_answers_are_listed(self):
        page = self.live(self.mirror)
        page.await_panel("differences", "100 % mirrored; gate closed")
        page.await_panel("differences", "/quantity orders type", 20)

    def test_the_drain_of_a_path_is_told(self):
        page = self.live(self.ramp)
        page.await_panel("drain", "The proxy serving")
        page.await_panel("drain", "legacy Not drained async Not drained")

    def test_the_last_decision_is_told_in_its_own_words(self):
        page = self.with_token()
        self.order(page, "pause", "PAUSE")
        text = self.ramp.guard()["last_decision"]["text"]
        page.await_panel("decision", " ".join(text.split()))
        self.order(page, "continue", "CONTINUE")

    def test_names_are_text_and_not_markup(self):
        page = self.live(self.mirror)
        page.await_panel("weights", HOSTILE)
        self.assertEqual(page.run("document.querySelectorAll('img').length"), 0)
        self.assertEqual(page.faults(), [])


class Actions(Browsing):
    def test_a_pause_and_its_end(self):
        page = self.with_token()
        self.order(page, "pause", "PAUSE op-")
        self.assertTrue(self.ramp.guard()["ramp"]["paused"])
        page.await_panel("ramp", "paused")
        page.await_true("document.querySelector('[data-order=pause]').ariaDisabled == 'true'")
        # What is not possible says why, and orders nothing.
        page.click("[data-order=pause]")
        self.outcome(page, "The ramp is paused already.")
        self.order(page, "continue", "CONTINUE op-")
        self.assertFalse(self.ramp.guard()["ramp"]["paused"])

    def test_an_approval(self):
        page = self.with_token()
        page.await_panel("ramp", "waits for an approval")
        self.order(page, "approve", "APPROVE op-")
        self.assertIsNone(self.ramp.guard()["ramp"]["awaits_approval"])
        page.await_true("!document.querySelector('[data-panel=ramp]').innerText.includes('waits')")

    def test_a_rollback_is_confirmed_and_resumed(self):
        page = self.with_token()
        page.await_true("document.querySelector('[data-order=rollback]').ariaDisabled == 'false'")
        page.click("[data-order=rollback]")
        self.assertTrue(page.run("document.getElementById('confirm').open"))
        page.click("#confirm-no")
        self.assertFalse(page.run("document.getElementById('confirm').open"))
        self.assertIsNone(self.ramp.guard()["rollback"])
        self.order(page, "rollback", "ROLLBACK rb-")
        latch = self.ramp.guard()["rollback"]
        page.await_panel("verdict", "Rolled back by operator")
        page.await_panel("reasons", latch["id"])
        page.await_panel("weights", "orders 100 % 0 %")
        self.order(page, "resume", "RESUME op-")
        self.assertIsNone(self.ramp.guard()["rollback"])
        page.await_panel("weights", "orders 100 % 10 %")

    def test_what_is_refused_is_said_in_words(self):
        page = self.live(self.ramp)
        page.click("[data-order=pause]")
        self.outcome(page, "Refused: A change needs the token.")
        page.click("#token")
        page.type("another-token-1234")
        page.click("[data-order=pause]")
        self.outcome(page, "Refused: A change needs the token.")
        self.assertFalse(self.ramp.guard()["ramp"]["paused"])
        # The token is nowhere but in its field.
        stored = page.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        self.assertEqual(json.loads(stored), [{}, {}, ""])

    def test_a_rollback_by_keyboard_alone(self):
        page = self.live(self.ramp)

        def tab_to(script, most=40):
            for _ in range(most):
                page.press("Tab")
                self.assertTrue(
                    page.run("getComputedStyle(document.activeElement).outlineStyle != 'none'"),
                    f"no focus is seen on {page.run('document.activeElement.outerHTML')}",
                )
                if page.run(f"document.activeElement.matches({json.dumps(script)})"):
                    return
            self.fail(f"no way to {script}")

        tab_to("a.skip")
        page.press("Enter")
        self.assertEqual(page.run("document.activeElement.id"), "main")
        tab_to("#token")
        page.type(TOKEN)
        tab_to("[data-order=rollback]")
        page.press("Enter")
        page.await_true("document.getElementById('confirm').open")
        self.assertEqual(page.run("document.activeElement.id"), "confirm-no")
        page.press("Escape")
        page.await_true("!document.getElementById('confirm').open")
        self.assertEqual(page.run("document.activeElement.dataset.order"), "rollback")
        page.press("Enter")
        tab_to("#confirm-yes")
        page.screenshot(SHOTS / "confirm.png")
        page.press("Enter")
        self.outcome(page, "ROLLBACK rb-")
        self.assertEqual(self.ramp.guard()["rollback"]["check"], "operator")
        # The focus is where it was, also once the button can't do anything any more.
        page.await_true("document.activeElement.ariaDisabled == 'true'")
        self.assertEqual(page.run("document.activeElement.dataset.order"), "rollback")
        page.press("Tab")
        self.order(page, "resume", "RESUME op-")


class Manners(Browsing):
    def test_the_figures_are_there_without_javascript(self):
        page = self.open(self.ramp, has_scripts=False)
        for name, part in (
            ("summary", "serving, ready"),
            ("verdict", "(only observes)"),
            ("ramp", "At 10 %"),
            ("weights", "orders 100 % 10 %"),
            ("paths", "Requests/s"),
            ("endpoints", "up ("),
        ):
            self.assertIn(part, page.panel(name))
        self.assertIn("Buttons need JavaScript", page.text(".actions"))
        usable = page.run("document.querySelectorAll('button:not(:disabled)').length")
        # Those of the dialog, which is closed.
        self.assertEqual(usable, 2)
        time_ = page.text("#as-of")
        page.screenshot(SHOTS / "without-javascript.png")
        # It is not there while the page is loaded again.
        now = "document.getElementById('as-of')?.textContent"
        page.await_true(f"{now} && {now} != {json.dumps(time_)}", 15)

    def test_all_text_can_be_read_in_the_light_and_in_the_dark(self):
        for scheme in ("light", "dark"):
            for proxy in (self.ramp, self.mirror):
                page = self.live(proxy, scheme=scheme)
                page.await_panel("evidence", "p95")
                for dialog in ("", "document.getElementById('confirm').showModal();"):
                    page.run(f"{dialog}0")
                    found = page.run(CONTRASTS)
                    self.assertGreater(len(found), 80)
                    faint = [of for of in found if of["ratio"] < CONTRAST_MIN]
                    self.assertEqual(faint, [], scheme)

    def test_everything_has_a_name_and_only_the_verdict_is_read_out(self):
        page = self.live(self.ramp)
        page.await_panel("endpoints", "up (")
        nodes = page.accessibility()
        controls = [n for n in nodes if n[0] in ("button", "textbox", "link", "region", "table")]
        self.assertEqual([node for node in controls if node[0] != "table" and not node[1]], [])
        self.assertGreaterEqual(len([n for n in nodes if n[0] == "button"]), 5)
        roles = {role for role, _ in nodes}
        self.assertLessEqual({"banner", "main", "region", "status", "columnheader", "rowheader"}, roles)
        live = page.run(
            "[...document.querySelectorAll('[aria-live], [role=status], [role=alert], output')]"
            ".map(found => found.id)"
        )
        self.assertEqual(sorted(live), ["outcome", "verdict"])
        headings = page.run(
            "[...document.querySelectorAll('h1, h2, h3')].map(found => found.tagName)"
        )
        self.assertEqual((headings[0], set(headings[1:])), ("H1", {"H2"}))
        bare = page.run("document.querySelectorAll('th:not([scope])').length")
        self.assertEqual(bare, 0)
        self.assertEqual(page.run("document.documentElement.lang"), "en")

    def test_no_update_moves_anything(self):
        pages = {name: self.live(self.mirror, size=size) for name, size in SIZES.items()}
        for page in pages.values():
            page.run(
                "window.shift = 0; new PerformanceObserver(list => { for (const entry of"
                " list.getEntries()) window.shift += entry.value; })"
                ".observe({type: 'layout-shift', buffered: false}); 0"
            )
        marks = {name: page.text("#as-of") for name, page in pages.items()}
        weights = [0.25, 0.5]
        end = time.monotonic() + SECONDS
        for weight in weights:
            self.mirror.set_weight(weight)
            time.sleep(SECONDS / len(weights) - 0.5)
        time.sleep(max(0, end - time.monotonic()))
        for name, page in pages.items():
            self.assertNotEqual(page.text("#as-of"), marks[name])
            self.assertEqual(page.run("document.visibilityState"), "visible")
            with self.subTest(name):
                self.assertLess(page.run("window.shift"), SHIFT_MAX)

    def test_nothing_is_wider_than_a_phone(self):
        for proxy in (self.ramp, self.mirror):
            page = self.live(proxy, size=SIZES["phone"])
            page.await_panel("evidence", "p95")
            width = SIZES["phone"][0]
            self.assertEqual(page.run("document.documentElement.scrollWidth"), width)
            over = page.run(
                "[...document.querySelectorAll('body *')].filter(found => { const box ="
                " found.getBoundingClientRect(); return box.width && box.right > innerWidth + 1"
                " && !found.closest('.scroll, .skip'); }).map(found => found.outerHTML.slice(0, 80))"
            )
            self.assertEqual(over, [])

    def test_pictures_of_it(self):
        for name, scheme, kind in (
            ("ramp", "light", "desk"),
            ("mirror", "dark", "desk"),
            ("mirror", "light", "phone"),
            ("ramp", "dark", "phone"),
        ):
            page = self.live(getattr(self, name), scheme=scheme, size=SIZES[kind])
            page.await_panel("evidence", "p95")
            page.screenshot(SHOTS / f"{name}-{scheme}-{kind}.png")

    def test_a_proxy_that_hangs_is_told_and_watched_anew_once_it_goes_on(self):
        stack = self.enterContext(contextlib.ExitStack())
        ends = [stack.enter_context(Faulty(0.0, seed)) for seed in (3, 4)]
        proxy = Guarded.start(stack, Plan(0.5), *ends)
        page = self.live(proxy)
        # Nothing changes any more, and yet the figures are of now.
        time_ = page.text("#as-of")
        page.await_true(f"document.getElementById('as-of').textContent != {json.dumps(time_)}")
        os.kill(proxy.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, proxy.process.pid, signal.SIGCONT)
        page.click("[data-order=rollback]")
        page.click("#confirm-yes")
        page.await_true("document.getElementById('link').className == 'lost'", STALE_SECONDS)
        self.assertIn("not live: trying again", page.text("#link"))
        self.outcome(page, "There was no answer within 15 s.", STALE_SECONDS)
        os.kill(proxy.process.pid, signal.SIGCONT)
        page.await_live()

    def test_a_proxy_that_ends_is_told_and_waits_for_no_viewer(self):
        stack = self.enterContext(contextlib.ExitStack())
        ends = [stack.enter_context(Faulty(0.0, seed)) for seed in (1, 2)]
        proxy = Guarded.start(stack, Plan(0.5), *ends)
        page = self.live(proxy)
        began = time.monotonic()
        proxy.process.terminate()
        self.assertEqual(proxy.process.wait(), 0)
        self.assertLess(time.monotonic() - began, 2)
        page.await_true("document.getElementById('link').className == 'lost'")
        self.assertIn("not live: trying again", page.text("#link"))
