"""A program of several modules: the functions, classes and errors are those of a module and a package beside it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import stock
from terms.rebate import Rebate


def worth(item: stock.Item, rebate: Rebate) -> float:
    return rebate.of(item.price * item.pieces)


def main() -> None:
    items = [stock.Item("pen", 2.0, 10), stock.Item("ink", 5.5, 4), stock.Item("lamp", 30.0, 0)]
    with ProcessPoolExecutor(2, initializer=stock.open_shop, initargs=("corner",)) as executor:
        print(list(executor.map(worth, items, [Rebate(10)] * 3)))
        print([executor.submit(stock.label, item).result() for item in items])
        for future in [executor.submit(item.take, 3) for item in items]:
            try:
                left = future.result()
                print(left, isinstance(left, stock.Item))
            except stock.SoldOut as error:
                print("sold out:", error)
    print(stock.shop_name)


if __name__ == "__main__":
    main()
