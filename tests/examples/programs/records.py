"""Values of classes of the program itself go to the processes and come back as what they are."""

from __future__ import annotations

import dataclasses
import enum
import functools
from concurrent.futures import ProcessPoolExecutor
from typing import ClassVar, NamedTuple


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

    def other(self) -> Colour:
        return Colour.BLUE if self is Colour.RED else Colour.RED


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    corners: tuple[Point, ...]
    colour: Colour
    access: Access = Access.READ


@dataclasses.dataclass(order=True)
class Drawing:
    made: ClassVar[int] = 0
    name: str
    shapes: list[Shape] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, name: str, *shapes: Shape) -> Drawing:
        return cls(name, list(shapes))

    @staticmethod
    def shift(shape: Shape, by: float) -> Shape:
        return dataclasses.replace(shape, corners=tuple(Point(x + by, y) for x, y in shape.corners))

    def __len__(self) -> int:
        return len(self.shapes)

    def painted(self, colour: Colour) -> Drawing:
        return Drawing(self.name, [dataclasses.replace(shape, colour=colour) for shape in self.shapes])


def repaint(shape: Shape) -> Shape:
    return dataclasses.replace(shape, colour=shape.colour.other(), access=shape.access | Access.WRITE)


@functools.cache
def scaled(point: Point, factor: float) -> Point:
    return Point(*(factor * part for part in point))


def main() -> None:
    square = Shape((Point(0, 0), Point(1), Point(1, 1), Point(0, 1)), Colour.RED)
    with ProcessPoolExecutor(2) as executor:
        blue = executor.submit(repaint, square).result()
        print(blue)
        print(blue.colour is Colour.BLUE, blue.access is Access.READ | Access.WRITE, type(blue.corners[0]) is Point)
        print(executor.submit(Drawing.shift, square, 2).result().corners[1], {square: 1}[square])
        drawing = executor.submit(Drawing.of, "house", square, blue).result()
        print(len(drawing), isinstance(drawing, Drawing), drawing == Drawing("house", [square, blue]))
        print(executor.submit(drawing.painted, Colour.BLUE).result().shapes[0].colour)
        print(list(executor.map(functools.partial(scaled, factor=3), square.corners, chunksize=3)))
        print(executor.submit(sorted, [Drawing("b"), Drawing("a")]).result())
        print({colour: executor.submit(colour.other).result() for colour in Colour})


if __name__ == "__main__":
    main()
