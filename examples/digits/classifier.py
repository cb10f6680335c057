"""A classifier of handwritten digits that earns its keep: it takes many looks at each image."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import poise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Image = Sequence[Sequence[int]]
    """8 rows of 8 pixels, each from 0 (paper) to 16 (ink)."""

_log = logging.getLogger(__name__)

SIDE = 8
CENTRE = (SIDE - 1) / 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What the classifier says about one image."""

    digit: int
    scores: list[float]
    """One for each digit, the mean over all looks: as good as a fingerprint of the image."""


class Classifier:
    """A support vector machine, trained on the first half of scikit-learn's digit scans.

    Training has no randomness, so each process that makes one gets the same. It stands for the model of a real service:
    it takes a moment to load, keeps state, and computes long enough for its callers to have to queue.
    """

    def __init__(self) -> None:
        """Train it, which takes about half a second."""
        images, digits = _half(0)
        nudged = np.concatenate([images @ nudge.T for nudge in _NUDGES])
        self._machine = SVC(gamma=0.002).fit(nudged, np.tile(digits, len(_NUDGES)))

    @poise.batched(max=8)
    def classify(self, images: list[Image]) -> list[Answer]:
        """Look at each image turned and shifted in 75 ways, and answer with the mean of what was seen.

        It is called for one image. Those that wait for a free worker are looked at together.
        """
        looks = np.concatenate([_LOOKS @ np.asarray(image, dtype=np.float64).reshape(-1) for image in images])
        seen: Floats = self._machine.decision_function(looks).reshape(len(images), len(_LOOKS), -1).mean(axis=1)
        answers = [Answer(int(scores.argmax()), scores.tolist()) for scores in seen]
        _log.info("%d looked at together: %s", len(answers), ", ".join(str(answer.digit) for answer in answers))
        return answers

    def check(self) -> None:
        """Recognise an image that it was trained on; a process whose library has gone astray does not.

        Raises:
            ValueError: it says something else.
        """
        images, digits = _half(0)
        answer = type(self).classify.batch(self, [images[0].reshape(SIDE, SIDE).tolist()])[0]
        if answer.digit != digits[0]:
            raise ValueError(f"it takes a {digits[0]} for a {answer.digit}")


def unseen(count: int | None = None) -> tuple[list[list[list[int]]], list[int]]:
    """Images of the half that no classifier is trained on, other writers' hands, and the digits that were meant."""
    images, digits = _half(1)
    return images[:count].reshape(-1, SIDE, SIDE).astype(int).tolist(), digits[:count].tolist()


def _half(which: int) -> tuple[Floats, NDArray[np.int64]]:
    images, digits = load_digits(return_X_y=True)
    halves = slice(len(images) // 2), slice(len(images) // 2, None)
    return images[halves[which]], digits[halves[which]]


def _warp(degrees: float, right: float, down: float) -> Floats:
    """The 64 x 64 matrix that turns and shifts a flattened image (in pixels), with bilinear interpolation."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    row, column = np.indices((SIDE, SIDE)).reshape(2, -1) - CENTRE
    from_row = _weights(cos * row - sin * column - down)
    from_column = _weights(sin * row + cos * column - right)
    return (from_row[:, :, None] * from_column[:, None, :]).reshape(SIDE**2, SIDE**2)


def _weights(places: Floats) -> Floats:
    """How much each of the 8 rows (or columns) gives to a pixel that is taken from these places between them."""
    weights: Floats = np.clip(1 - np.abs(places[:, None] + CENTRE - np.arange(SIDE)), 0, 1)
    return weights


def _warps(ways: Iterable[tuple[float, float, float]]) -> Floats:
    return np.stack([_warp(*way) for way in ways])


_NUDGES = _warps([(0, 0, 0), (-10, 0, 0), (10, 0, 0), (0, -0.5, 0), (0, 0.5, 0), (0, 0, -0.5), (0, 0, 0.5)])
"""Ways to vary an image for training."""

_SHIFTS = (-0.5, -0.25, 0, 0.25, 0.5)
_LOOKS = _warps((degrees, right, down) for degrees in (-8, 0, 8) for right in _SHIFTS for down in _SHIFTS)
