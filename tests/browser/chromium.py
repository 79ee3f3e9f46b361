"""A headless Chromium and its pages, told what to do by the DevTools protocol.

Only what these tests need; the protocol is JSON over a WebSocket, and a client for that is there
already.
"""

import base64
import contextlib
import itertools
import json
import tempfile
import time
from pathlib import Path

import websockets.sync.client
from processes import eventually, running

ANSWER_SECONDS = 20
# A frame with a screenshot of a whole page.
MESSAGE_MAX = 64 << 20

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0",
)
SAYS = r"DevTools listening on (ws://127\.0\.0\.1:\d+/\S+)"


@contextlib.contextmanager
def chromium():
    # The browser may still write into its profile while it ends.
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with running(command, SAYS) as process:
            connecting = websockets.sync.client.connect(process.told[0], max_size=MESSAGE_MAX)
            with connecting as socket:
                yield Browser(socket)


class Browser:
    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        # What came unasked, by the session of its page.
        self.events = {}

    def send(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = json.loads(self._socket.recv(timeout=max(0, end - time.monotonic())))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]
            self.events.setdefault(answer.get("sessionId"), []).append(answer)

    def page(self, size=(1280, 900), scheme="light", has_scripts=True):
        # A window of its own: a tab behind another one is not drawn, so nothing moves in it.
        target = self.send("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.resize(*size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.send("Emulation.setEmulatedMedia", features=features)
        page.send("Emulation.setScriptExecutionDisabled", value=not has_scripts)
        return page


class Page:
    def __init__(self, browser, target, session):
        self._browser = browser
        self._target = target
        self._session = session

    def send(self, method, **parameters):
        return self._browser.send(method, self._session, **parameters)

    def close(self):
        self._browser.send("Target.closeTarget", targetId=self._target)

    def resize(self, width, height):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.await_true("document.readyState == 'complete' && location.href != 'about:blank'")

    def run(self, script):
        """The value of an expression in the page; of a promise, what it comes to."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def await_true(self, script, seconds=10):
        return eventually(
            lambda: self.run(script), seconds, lambda: f"never: {script}\n{self.text()}"
        )

    def text(self, selector="body"):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def panel(self, name):
        return " ".join(self.text(f'[data-panel="{name}"]').split())

    def await_panel(self, name, part, seconds=10):
        eventually(
            lambda: part in self.panel(name),
            seconds,
            lambda: f"no {part!r} in {name}: {self.panel(name)}",
        )

    def await_live(self):
        self.await_true("document.getElementById('link-state').textContent == 'live'")

    def click(self, selector):
        """With the mouse, at the middle of what is there."""
        box = self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            "found.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = found.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind, x=box[0], y=box[1], button="left", clickCount=1,
            )

    def press(self, key, code=0, text=""):
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        code = code or codes[key]
        text = text or {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more,
            )

    def type(self, text):
        self.send("Input.insertText", text=text)

    def faults(self):
        """What the console complains of: errors of scripts, and what the policy of the page refused."""
        self.run("0")
        found = []
        for event in self._browser.events.get(self._session, []):
            if event["method"] == "Runtime.exceptionThrown":
                found.append(event["params"])
            elif event["method"] == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error":
                    found.append(entry)
        return found

    def asked(self):
        """The URLs that it asked for."""
        events = self._browser.events.get(self._session, [])
        sent = [e["params"]["request"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {request["url"] for request in sent}

    def screenshot(self, file):
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def accessibility(self):
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        value = lambda node, key: node.get(key, {}).get("value")
        shown = [node for node in nodes if not node["ignored"]]
        return [(value(node, "role"), value(node, "name")) for node in shown]
