"""Whether clients' frames of HTTP/2 are taken as RFC 9113 and RFC 7541 have it: the cases of
h2spec."""

import time

from h2_cases import GENERIC, HPACK, PONG
from h2_cases_http2 import HTTP2, OWN
from h2_wire import Wire, ping
from world import RealTest

H2SPEC = GENERIC + HPACK + HTTP2
UNGREETED = {"http2/3.5/2"}

# What the proxy does in the place of what is allowed. A case that comes right fails the test, so
# that it leaves this table.
#
# h2 0.4 knows the right code and sends another: each error in reading a frame becomes
# PROTOCOL_ERROR. The connection ends all the same, by which h2spec counts these cases as passed.
WRONG_CODE = "GOAWAY PROTOCOL_ERROR, closed"
WRONGLY_CODED = """
    hpack/2.3.3/1 hpack/2.3.3/2 hpack/4.2/1 hpack/5.2/1 hpack/5.2/2 hpack/5.2/3 hpack/6.1/1
    hpack/6.3/1 http2/4.3/1 http2/5.1/5 http2/5.1/6 http2/5.1/9 http2/5.1/12 http2/6.1/2 http2/6.3/2
    http2/6.4/3 http2/6.5/1 http2/6.5/3 http2/6.5.2/2 http2/6.7/4 http2/6.9/3 http2/6.9.2/3
""".split()
KNOWN = dict.fromkeys(WRONGLY_CODED, WRONG_CODE) | {
    # h2 drops pseudo-fields of trailers, so that none reaches a backend.
    "own/1": "reply 200",
}


def react(port, number, send, allowed):
    with Wire(port, greets=number not in UNGREETED) as wire:
        send(wire)
        if allowed[0] in PONG:
            wire.send(ping())
        reaction = wire.expect(*allowed)
        if reaction.startswith("GOAWAY") and reaction not in allowed:
            return f"{reaction}, {wire.expect('closed')}"
        return reaction


class Conformance(RealTest):
    def check(self, name, cases):
        proxy = self.start_proxy(1.0)
        began = time.monotonic()
        found = {}
        for number, what, send, allowed in cases:
            reaction = react(proxy.port, number, send, allowed)
            if reaction not in allowed:
                found[number] = reaction
                if KNOWN.get(number) != reaction:
                    print(f"http2: {number} {what}: {reaction}, not {' or '.join(allowed)}")
        took = time.monotonic() - began
        ended = sum(reaction.endswith(", closed") for reaction in found.values())
        print(
            f"http2: {len(cases) - len(found)} of {len(cases)} cases {name} hold, {took:.1f} s; "
            f"{ended} end their connection with another code"
        )
        numbers = {case[0] for case in cases}
        self.assertEqual(len(numbers), len(cases), "a number twice")
        known = {number: KNOWN[number] for number in numbers & KNOWN.keys()}
        self.assertEqual(found, known, "KNOWN is not what the proxy does")
        # It is none the worse for it.
        self.assertEqual(react(proxy.port, "", lambda wire: None, PONG), PONG[0])
        self.assertEqual(proxy.metrics().sum("cutover_panics_total"), 0)

    def test_the_cases_of_h2spec(self):
        self.check("of h2spec", H2SPEC)

    def test_cases_of_our_own(self):
        self.check("of our own", OWN)
