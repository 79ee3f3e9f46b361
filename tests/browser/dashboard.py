"""What the tests of the dashboard share: a browser, the proxies that it looks at, and orders."""

import contextlib
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))

from callers import Ask, Callers
from chromium import chromium
from guarded import Guarded, Plan, Shop
from processes import eventually

TOKEN = "a-token-of-this-test"
# A name that would be markup, if names were.
HOSTILE = "<img src=x onerror=alert(1)>"
OBSERVE = 'mode = "observe"'
RATE = 40
SIZES = {"desk": (1280, 900), "phone": (360, 740)}

RAMP = (
    '[ramp]\nsteps = [0.1, 0.5, 1.0]\nsoak = "1h"\n'
    # Too few requests to judge: nothing but orders moves the ramp.
    "min_requests = 1000000\n"
)
MIRROR = "[mirror]\nshare = 1.0\nmax_rps = 1000\nconnections = 16\nin_flight = 64\n"
ODD_ROUTE = f'[[route]]\nname = "{HOSTILE}"\nmatch = "GET /odd"\n'

CALLS = [
    Ask(path="/healthz"), Ask(path="/whoami"), Ask(path="/orders/7"), Ask(path="/sleep?ms=20"),
    Ask(path="/reports/10"),
]
# They block the async backend's loop, for a moment each.
BLOCKING = {"SHOP_DRIFT": "1", "BLOCK_THE_LOOP": "1", "REPORT_SECONDS": "0.15"}


def draw(drawing):
    return drawing.choice(CALLS)


def set_up():
    """One browser, and the two proxies that are looked at: one on a ramp, one with a mirror."""
    stack = unittest.enterModuleContext(contextlib.ExitStack())
    shop = stack.enter_context(Shop.opened())
    Browsing.directory = shop.directory
    Browsing.browser = stack.enter_context(chromium())
    ends = shop.start_pair(stack, **BLOCKING)
    token = shop.directory / "token"
    token.write_text(TOKEN)
    text = Plan(1.0, guard=OBSERVE, more=RAMP + ODD_ROUTE).text(*ends)
    config = shop.directory / "ramp.toml"
    config.write_text(text.replace("[admin]\n", f'[admin]\ntoken_file = "{token}"\n'))
    Browsing.ramp = Guarded.start_from(stack, config)
    Browsing.mirror = Guarded.start(stack, Plan(0.5, guard=OBSERVE, more=MIRROR + ODD_ROUTE), *ends)
    for proxy in (Browsing.ramp, Browsing.mirror):
        stack.enter_context(Callers(proxy.port, RATE, draw, clients=20))


class Browsing(unittest.TestCase):
    def open(self, proxy, path="/", **how):
        page = self.browser.page(**how)
        self.addCleanup(page.close)
        page.open(f"http://127.0.0.1:{proxy.admin_port}{path}")
        return page

    def live(self, proxy, **how):
        """A page that is kept up to date."""
        page = self.open(proxy, **how)
        page.await_live()
        return page

    def outcome(self, page, part, seconds=10):
        """Waits until that is said to have become of an order."""
        eventually(
            lambda: part in page.text("#outcome"),
            seconds,
            lambda: f"no {part!r} in {page.text('#outcome')!r}",
        )

    def order(self, page, name, told):
        """Gives an order with the mouse, and waits for what is told of it."""
        page.await_true(
            f"document.querySelector('[data-order={name}]').ariaDisabled == 'false'"
        )
        page.click(f"[data-order={name}]")
        if name == "rollback":
            page.click("#confirm-yes")
        self.outcome(page, told)

    def with_token(self):
        page = self.live(self.ramp)
        page.click("#token")
        page.type(TOKEN)
        return page
