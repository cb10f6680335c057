"""Check some orders with `as_completed`; what fails is counted, shown and is the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor


class Refused(Exception):
    """An error of the program's own, with fields."""

    def __init__(self, order: int, reason: str) -> None:
        super().__init__(order, reason)
        self.order = order
        self.reason = reason


class OutOfStock(Refused):
    """A refinement of it."""


def check(order: int) -> str:
    if order == 3:
        raise OutOfStock(order, "none are left")
    if order == 5:
        try:
            os.environ["PRICE_OF_FIVE"]
        except KeyError as error:
            raise Refused(order, "no price") from error
    if order == 7:
        return str(1 / (order - 7))
    return f"order {order} is fine"


def main() -> int:
    outcomes = {}
    with ProcessPoolExecutor(max_workers=3) as executor:
        orders = {executor.submit(check, order): order for order in range(9)}
        for future in futures.as_completed(orders, timeout=60):
            order = orders[future]
            try:
                outcomes[order] = future.result()
            except OutOfStock as error:
                outcomes[order] = f"out of stock: {error.reason}"
            except Refused as error:
                outcomes[order] = f"refused: {error.order}, {error.reason}"
            except ArithmeticError as error:
                shown = "".join(traceback.format_exception(error))
                outcomes[order] = f"{error!r}, shown with its line: {'1 / (order - 7)' in shown}"
    for order in sorted(outcomes):
        print(order, outcomes[order])
    return sum("fine" not in outcome for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
