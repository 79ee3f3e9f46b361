"""SHOP_DRIFT=1: five faults that a rewrite may have, for `cutover diffs` to find.

What is here takes the place of what `shop` has by the same name. The contract of ../README.md is
kept by the legacy backend only, then.
"""

import shop

# Fault 1: reports have no Cache-Control.
REPORT_HEADERS = {}


def find_order(order_id):
    try:
        order = shop.find_order(order_id)
    except shop.Refused:
        # Fault 2: an order that does not exist is null, with 200.
        return None
    # Fault 3: a number has become text.
    return {**order, "quantity": str(order["quantity"])}


def report(first):
    answer = shop.report(first)
    # Fault 4: another name.
    answer["order_count"] = answer.pop("orders")
    return answer


def receipt(order_id):
    answer = shop.receipt(order_id)
    # Fault 5: another order.
    answer["labels"].reverse()
    return answer
