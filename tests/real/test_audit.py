"""What `cutover audit` says of the real services under load, against what their source says."""

import ast
import contextlib
import json
import subprocess
import threading
from pathlib import Path

from processes import eventually
from world import CUTOVER, ROOT, RealTest, ask, connect, exchange

SHOP = ROOT / "docker/shop.py"
CLIENTS = 8
SECONDS = 5
PATHS = ["/orders/1", "/reports/5", "/orders/2", "/sleep?ms=40"]


class Calls(ast.NodeVisitor):
    """Each call of `name` in a file: the function that it stands in, and its line."""

    def __init__(self, file, name):
        self.name = name
        self.functions = []
        self.found = {}
        self.visit(ast.parse(file.read_text()))

    def visit_FunctionDef(self, node):
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    def visit_Call(self, node):
        if ast.unparse(node.func) == self.name:
            self.found[self.functions[-1]] = node.lineno
        self.generic_visit(node)


def spans(file):
    """The lines of each function of a file."""
    nodes = ast.walk(ast.parse(file.read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {node.name: range(node.lineno, node.end_lineno + 1) for node in functions}


class Load:
    """Clients that ask one after another for as long as the block lasts."""

    def __init__(self, port):
        self.port = port
        self.is_over = threading.Event()
        self.statuses = []

    def _ask(self, number):
        with contextlib.closing(connect(self.port)) as connection:
            while not self.is_over.is_set():
                path = PATHS[number % len(PATHS)]
                self.statuses.append(exchange(connection, path).status)
                number += 1

    def __enter__(self):
        self.threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        eventually(lambda: len(self.statuses) > CLIENTS, 20, lambda: "no answers")
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join()


class Watcher:
    """Looks whether anybody traces or stops a process or its children, as often as it can."""

    def __init__(self, pid):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.processes = [str(pid), *children]
        self.is_over = threading.Event()
        self.looks, self.faults = 0, []

    def _look(self):
        while not self.is_over.wait(0.005):
            for pid in self.processes:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        lines = (task / "status").read_text().splitlines()
                        told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                        self.looks += 1
                        if told["TracerPid"] != "0" or told["State"][0] in "tT":
                            self.faults.append(told)

    def __enter__(self):
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


class Audit(RealTest):
    def audit(self, server, *more):
        command = [CUTOVER, "audit", "--pid", str(server.process.pid), "--for", f"{SECONDS}s"]
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def sites(self, found, **wanted):
        """The sites of the findings with these values, by file and function: the lines."""
        findings = [f for f in found["findings"] if f["site"] and wanted.items() <= f.items()]
        return {(f["site"]["file"], f["site"]["function"]): f for f in findings}

    def test_the_blocking_call_sites_of_gunicorn_are_named(self):
        sleeps = Calls(SHOP, "time.sleep").found
        with Load(self.legacy.port) as load, Watcher(self.legacy.process.pid) as watcher:
            found = json.loads(self.audit(self.legacy, "--json"))
        self.assertEqual(set(load.statuses), {200})
        # Nobody was stopped for it, not even for a moment.
        self.assertEqual(watcher.faults, [])
        self.assertGreater(watcher.looks, 100)
        slept = self.sites(found, primitive="time.sleep", group="sleep")
        named = {key[1]: finding for key, finding in slept.items() if key[0] == str(SHOP)}
        self.assertEqual(
            {function: finding["site"]["line"] for function, finding in named.items()},
            {function: sleeps[function] for function in ("_query", "report", "pause")},
        )
        # In each round of four requests a report sleeps 100 ms, a pause 40, the driver 3 times 5.
        shares = {function: finding["share"] for function, finding in named.items()}
        self.assertGreater(shares["report"], shares["pause"])
        self.assertGreater(shares["pause"], shares["_query"])
        self.assertGreater(sum(shares.values()), 0.6)
        self.assertGreaterEqual(named["report"]["threads"], CLIENTS // 2)
        self.assertFalse(any(finding["on_event_loop"] for finding in found["findings"]))
        # Whatever else is said of the driver's file is a line of the function that is named.
        lines = spans(SHOP)
        for finding in found["findings"]:
            site = finding["site"]
            if site and site["file"] == str(SHOP):
                self.assertIn(site["line"], lines[site["function"]], finding)
            if finding["primitive"] == "sqlite3":
                self.assertIn(site["function"], ("_query", "_connect"), finding)

    def test_threads_that_wait_for_work_are_idle(self):
        ask(self.legacy.port, "/orders/1")
        found = json.loads(self.audit(self.legacy, "--json"))
        looks = found["busy"] + found["idle"] + found["torn"]
        self.assertGreater(found["idle"], 0.9 * looks, found)
        master, worker = found["processes"]
        self.assertEqual(master["pid"], self.legacy.process.pid)
        for process in (master, worker):
            self.assertRegex(process["python"], r"^3\.\d+\.\d+$")
            self.assertGreater(process["descriptors"], 3)
            self.assertGreater(process["rss_bytes"], 2**20)
            self.assertLess(process["stack_bytes"], process["rss_bytes"])
        self.assertGreaterEqual(worker["stacks"], worker["threads"] - 1)

    def test_the_table_says_what_it_means(self):
        with Load(self.legacy.port):
            table = self.audit(self.legacy)
        line = Calls(SHOP, "time.sleep").found["report"]
        [row] = [row for row in table.splitlines() if f"docker/shop.py:{line} report" in row
                 and "time.sleep" in row]
        self.assertRegex(row, r"time\.sleep +\d+ % +\d+  blocks the loop if called from async code")

    def test_a_call_on_the_event_loop_is_told_from_one_in_a_pool(self):
        sleeps = Calls(SHOP, "time.sleep").found
        with self.start_async(BLOCK_THE_LOOP="1") as blocked:
            with Load(blocked.port):
                found = json.loads(self.audit(blocked, "--json"))
        on_loop = self.sites(found, primitive="time.sleep", on_event_loop=True)
        named = {key: finding["site"]["line"] for key, finding in on_loop.items()}
        # A report asks the driver too, for a twentieth of its time.
        self.assertIn((str(SHOP), "report"), named)
        for (file, function), line in named.items():
            self.assertEqual((file, line), (str(SHOP), sleeps[function]))
            self.assertIn(function, ("report", "_query"))
        in_pool = self.sites(found, primitive="time.sleep", on_event_loop=False)
        self.assertIn((str(SHOP), "pause"), in_pool)
        with Load(self.async_.port):
            found = json.loads(self.audit(self.async_, "--json"))
        self.assertEqual(self.sites(found, group="sleep", on_event_loop=True), {})
        self.assertIn((str(SHOP), "report"), self.sites(found, primitive="time.sleep"))
