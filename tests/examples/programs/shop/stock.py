"""What there is to sell."""

from __future__ import annotations

import dataclasses

shop_name = "closed"


class SoldOut(Exception):
    """There is less of it than was asked for."""


@dataclasses.dataclass
class Item:
    """So many of one thing."""

    name: str
    price: float
    pieces: int

    def take(self, pieces: int) -> Item:
        if pieces > self.pieces:
            raise SoldOut(self.name)
        return dataclasses.replace(self, pieces=self.pieces - pieces)


def open_shop(name: str) -> None:
    global shop_name
    shop_name = name


def label(item: Item) -> str:
    return f"{item.name} ({shop_name})"
