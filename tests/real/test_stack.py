"""The compose stack without Docker: its processes, Prometheus with its rules, and whether what the
dashboard and the rules ask for is there.

One more proxy, the edge, has what compose.yaml's own has not: TLS, and a rollback in force.
"""

import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.parse
from pathlib import Path

import yaml

from callers import Ask, Callers
from fronts import make_certificate
from processes import eventually, running
from stack import DOCKER, SCRAPE_SECONDS, Stack
from world import CUTOVER, CUTOVER_SAYS, ROOT, Proxy, ask

RULES = DOCKER / "prometheus/rules"
DASHBOARD = DOCKER / "grafana/dashboards/cutover.json"
RUNBOOK = ROOT / "docs/runbook.md"
# Two phases of load: first legacy's queue fills, then async's event loop is blocked.
BASELINE = "3s"
BLOCKED_SECONDS = 6
PATIENCE_SECONDS = 15
PROMTOOL_SECONDS = 60
TARGETS = [("async", "up"), ("cutover", "up"), ("cutover", "up")]
# Grafana's variables, as they are when all is chosen and the span that is looked at is short: a step is no
# longer than a scrape, and what a rate is taken over four of them, so that it holds two for certain.
VARIABLES = {
    "$job": ".*", "$instance": ".*", "$route": ".*",
    "$__rate_interval": f"{4 * SCRAPE_SECONDS}s", "$__interval": f"{SCRAPE_SECONDS}s",
}
# A metric, and what is asked of its labels.
SELECTOR = re.compile(
    r"(?<![\w:\"])((?:cutover|process|backend)_\w+|(?:job|instance)_\w*:[\w:]+|up|ALERTS)"
    r"(?![\w(])(\{[^}]*\})?"
)
GROUPING = re.compile(r"\b(?:by|on|ignoring|group_left|without)\s*\(([^)]*)\)")
PANELS = {"row", "timeseries", "stat", "state-timeline"}
CALLS = [
    Ask(path="/orders/7"),
    Ask(path="/receipts/7"),
    Ask(path="/status/503"),
    Ask("POST", "/orders"),
    Ask(path="/sleep?ms=300"),
]
# Three of four wait in the driver: more than legacy has threads.
FULL = [*CALLS, *[Ask(path="/sleep?ms=300")] * 10]
# Reports block the event loop of async, and freeze the others there.
BLOCKING = [*CALLS, *[Ask(path="/reports/10")] * 2]


def dashboard():
    return json.loads(DASHBOARD.read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules(file):
    groups = yaml.safe_load((RULES / file).read_text())["groups"]
    return list(itertools.chain(*(group["rules"] for group in groups)))


def expressions():
    """All that is asked of Prometheus, by where that stands."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    for note in dashboard()["annotations"]["list"]:
        found[f"annotation {note['name']}"] = note["expr"]
    for rule in rules("recording.yaml") + rules("alerts.yaml"):
        found[rule.get("alert") or rule["record"]] = rule["expr"]
    return {place: substituted(text) for place, text in found.items()}


def substituted(text):
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


# === Of the files alone ===


class Files(unittest.TestCase):
    def test_each_alert_fires_when_it_should_and_not_when_it_should_not(self):
        tests = sorted((RULES / "tests").glob("*.yaml"))
        files = [RULES / "recording.yaml", RULES / "alerts.yaml"]
        for command in (["check", "rules", *files], ["test", "rules", *tests]):
            done = subprocess.run(
                ["promtool", *command], capture_output=True, text=True, timeout=PROMTOOL_SECONDS
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        asked = "".join(test.read_text() for test in tests)
        for rule in rules("alerts.yaml"):
            self.assertIn(f'alertname="{rule["alert"]}"', asked)

    def test_each_alert_says_what_to_do_and_the_runbook_has_no_other(self):
        headings = re.findall(r"^## (Cutover\w+)$", RUNBOOK.read_text(), re.MULTILINE)
        alerts = [rule["alert"] for rule in rules("alerts.yaml")]
        self.assertEqual(headings, list(dict.fromkeys(alerts)))
        for rule in rules("alerts.yaml"):
            with self.subTest(rule["alert"]):
                notes = rule["annotations"]
                self.assertEqual(notes["runbook_url"], f"docs/runbook.md#{rule['alert'].lower()}")
                self.assertTrue(notes["summary"] and notes["description"])
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))

    def test_each_command_of_the_runbook_exists(self):
        commands = set(re.findall(r"`cutover ([a-z]+(?: [a-z]+)?)", RUNBOOK.read_text()))
        self.assertGreater(len(commands), 5)
        for command in commands:
            with self.subTest(command):
                done = subprocess.run(
                    [CUTOVER, *command.split(), "--help"], capture_output=True, timeout=10
                )
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_dashboard_is_one_that_grafana_takes(self):
        board = dashboard()
        self.assertEqual(board["uid"], "cutover")
        self.assertEqual(board["schemaVersion"], 41)
        names = [variable["name"] for variable in board["templating"]["list"]]
        self.assertEqual(names, ["datasource", "job", "instance", "route"])
        identities = [panel["id"] for panel in board["panels"]]
        self.assertEqual(len(identities), len(set(identities)))
        taken = set()
        for panel in board["panels"]:
            with self.subTest(panel["title"]):
                self.assertIn(panel["type"], PANELS)
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                columns = range(place["x"], place["x"] + place["w"])
                cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
                self.assertFalse(cells & taken, "lies over another one")
                taken |= cells
        for panel in panels():
            with self.subTest(panel["title"]):
                self.assertTrue(panel["description"])
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                references = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(references), len(set(references)))
                for asking in [panel, *panel["targets"]]:
                    self.assertEqual(asking["datasource"]["uid"], "${datasource}")
                for target in panel["targets"]:
                    self.assertNotIn("$", substituted(target["expr"]))

    def test_what_compose_mounts_and_provisions_is_there(self):
        compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        mounted = {}
        for service in compose["services"].values():
            for volume in service.get("volumes", []):
                source, target = volume.split(":")[:2]
                if source.startswith("."):
                    self.assertTrue((DOCKER / source).is_dir(), volume)
                    mounted[target] = DOCKER / source
                else:
                    self.assertIn(source, compose["volumes"])
        grafana = compose["services"]["grafana"]["environment"]
        home = Path(grafana["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        self.assertEqual((mounted[str(home.parent)] / home.name).resolve(), DASHBOARD)
        provisioned = mounted["/etc/grafana/provisioning"]
        text = (provisioned / "datasources/prometheus.yaml").read_text()
        [source] = yaml.safe_load(text)["datasources"]
        chosen = dashboard()["templating"]["list"][0]
        self.assertEqual((chosen["type"], chosen["query"]), ("datasource", source["type"]))
        self.assertEqual(chosen["current"]["value"], source["uid"])
        self.assertEqual(source["url"], "http://prometheus:9090")


# === Of what runs ===


class StackTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="stack-"))
        opened = cls.enterClassContext(contextlib.ExitStack())
        cls.stack = Stack(directory, {"BLOCK_THE_LOOP": "1", "SHOP_DRIFT": "1"})
        cls.draw_token()
        cls.stack.start_backend(opened, "legacy")
        cls.stack.start_backend(opened, "async")
        cls.proxy = cls.stack.start_proxy(opened)
        cls.edge = cls.start_edge(opened, Path(directory) / "edge")
        edge = f"127.0.0.1:{cls.edge.admin_port}"
        cls.prometheus = cls.stack.start_prometheus(opened, edge)
        cls.began = time.time()
        # Prometheus looks for its targets only every five seconds.
        eventually(lambda: cls.targets() == TARGETS, PATIENCE_SECONDS, lambda: f"{cls.targets()}")
        cls.play()

    @classmethod
    def draw_token(cls):
        command, cls.token = cls.stack.token_script()
        subprocess.run(command, check=True, timeout=10)

    @classmethod
    def start_edge(cls, opened, directory):
        directory.mkdir()
        make_certificate("edge", directory / "key.pem", directory / "cert.pem")
        addresses = cls.stack.addresses
        config = directory / "cutover.toml"
        config.write_text(
            'async_weight = 0.5\n[listen]\naddress = "127.0.0.1:0"\n'
            '[listen.tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            f'[legacy]\nendpoints = ["http://{addresses["legacy:9001"]}"]\n'
            f'[async]\nendpoints = ["http://{addresses["async:9002"]}"]\n'
            '[[route]]\nname = "pinned"\nmatch = "GET /pinned"\npin = "async"\n'
        )
        command = [CUTOVER, "run", "--config", config]
        return Proxy(opened.enter_context(running(command, CUTOVER_SAYS)), config)

    @classmethod
    def play(cls):
        """Load on all paths, as the compose stack is meant to be tried out."""
        with Callers(cls.proxy.port, 100, lambda drawing: drawing.choice(FULL), seed=1):
            cls.proxy.cutover("baseline", "record", "--for", BASELINE)
        cls.proxy.set_weight(0.5)
        cls.edge.cutover("rollback")
        with Callers(cls.proxy.port, 100, lambda drawing: drawing.choice(BLOCKING), seed=2):
            time.sleep(BLOCKED_SECONDS)

    @classmethod
    def api(cls, path, **parameters):
        pairs = urllib.parse.urlencode(parameters)
        document = json.loads(ask(cls.prometheus, f"/api/v1/{path}?{pairs}").body)
        assert document["status"] == "success", document
        return document["data"]

    @classmethod
    def targets(cls):
        found = cls.api("targets")["activeTargets"]
        return sorted((target["labels"]["job"], target["health"]) for target in found)

    def series(self, selector):
        return self.api("series", **{"match[]": selector})

    def test_the_token_is_drawn_once_and_for_its_owner_alone(self):
        token = self.token.read_text()
        self.assertRegex(token, r"^[0-9a-f]{48}$")
        self.assertEqual(self.token.stat().st_mode & 0o777, 0o600)
        self.draw_token()
        self.assertEqual(self.token.read_text(), token)
        # The proxy wants it for a change, and for nothing else.
        self.assertEqual(self.reload().status, 401)
        self.assertEqual(self.reload(Authorization="Bearer wrong").status, 401)
        self.assertEqual(self.reload(Authorization=f"Bearer {token}").status, 200)
        self.assertEqual(self.proxy.admin("/metrics").status, 200)

    def reload(self, **headers):
        headers["Content-Type"] = "application/json"
        return ask(self.proxy.admin_port, "/api/v1/reload", "POST", "{}", headers)

    def test_the_health_checks_of_the_images_pass(self):
        for name in ("legacy", "async", "proxy"):
            command, environment = self.stack.health_of(name)
            done = subprocess.run(
                command, env=os.environ | environment, capture_output=True, timeout=10
            )
            self.assertEqual(done.returncode, 0, (name, done.stderr))

    def test_all_targets_are_up(self):
        eventually(lambda: self.targets() == TARGETS, PATIENCE_SECONDS, lambda: f"{self.targets()}")

    def test_all_rules_are_loaded_and_evaluate(self):
        groups = self.api("rules")["groups"]
        loaded = [rule for group in groups for rule in group["rules"]]
        self.assertEqual(len(loaded), len(rules("recording.yaml")) + len(rules("alerts.yaml")))
        for rule in loaded:
            self.assertEqual((rule["health"], rule.get("lastError")), ("ok", None), rule["name"])

    def test_a_rollback_is_told_with_its_words(self):
        def told():
            alerts = self.api("alerts")["alerts"]
            named = [of for of in alerts if of["labels"]["alertname"] == "CutoverRolledBack"]
            return [alert for alert in named if alert["state"] == "firing"]

        [alert] = eventually(told, PATIENCE_SECONDS, lambda: "no alert of the rollback")
        self.assertEqual(alert["labels"]["instance"], f"127.0.0.1:{self.edge.admin_port}")
        for alert in self.api("alerts")["alerts"]:
            self.assertNotIn("<error", str(alert["annotations"]))

    def test_each_query_of_the_dashboard_has_data(self):
        asked = {
            f"{panel['title']} {target['refId']}": substituted(target["expr"])
            for panel in panels()
            for target in panel["targets"]
        }
        # The edge was rolled back.
        for note in dashboard()["annotations"]["list"]:
            asked[f"annotation {note['name']}"] = substituted(note["expr"])
        missing = dict(asked)

        def look():
            for place in list(missing):
                if self.has_data(missing[place]):
                    del missing[place]
            return not missing

        eventually(look, PATIENCE_SECONDS, lambda: f"no data: {json.dumps(missing, indent=1)}")

    def has_data(self, query):
        end = time.time()
        found = self.api("query_range", query=query, start=self.began, end=end, step="1")["result"]
        values = itertools.chain(*(series["values"] for series in found))
        return any(value not in ("NaN", "+Inf", "-Inf") for _, value in values)

    def test_each_metric_and_label_that_is_asked_for_exists(self):
        wrong = []
        for place, text in expressions().items():
            labels = {"le", ""} if "_bucket" in text else {""}
            selectors = {f"{name}{matchers}" for name, matchers in SELECTOR.findall(text)}
            self.assertTrue(selectors, place)
            for selector in selectors:
                found = self.series(selector)
                if not found:
                    wrong.append(f"{place}: no series of {selector}")
                labels.update(*found)
            asked = {name.strip() for group in GROUPING.findall(text) for name in group.split(",")}
            if unknown := asked - labels:
                wrong.append(f"{place}: no label {unknown}")
        self.assertEqual(wrong, [])
