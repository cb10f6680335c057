"""Metrics of one of several server processes, in the files that prometheus-client sums: its multiprocess mode.

That mode leaves out what a collector of one's own gives: it reads files, of each process some, into which counters,
gauges and histograms of its own are mapped. So what is collected here is written there too, once a second, as what it
has changed by since.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

logger = logging.getLogger("poise")

EVERY: Final = 1.0
"""Seconds after which the files are written again."""
ALL_WORKERS: Final = "(all)"
"""What the workers of a pool are called together: what is in a file stays there, and workers come and go."""

Sources: TypeAlias = "tuple[Iterable[Metric], Iterable[Metric] | None]"
"""What was counted, and what is so now, which is None if nobody can say."""
Key: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]
"""A metric's type, the name of one of its samples, and the labels of that."""

_mapped: Final[dict[Key, Any]] = {}
"""Where each sample is. One for all pools of the process, because it remembers what it wrote last."""
_lock: Final = threading.Lock()


def are_wanted() -> bool:
    """Whether `PROMETHEUS_MULTIPROC_DIR` was set when prometheus-client was imported, which goes by that too."""
    return values.ValueClass is not values.MutexValue


class Files:
    """What one pool has written."""

    def __init__(self, sources: Callable[[], Sources]) -> None:
        """Write at once, and from then on once a second, on a thread, until it ends.

        Raises:
            OSError: the files cannot be written.
        """
        self._sources = sources
        self._counts: dict[Key, float] = {}
        self._now: dict[Key, float] = {}
        """What each sample was when it was written last."""
        self._has_ended = False
        self._is_over = threading.Event()
        self.write()
        threading.Thread(target=self._go_on, name="poise-metrics", daemon=True).start()

    def write(self) -> None:
        """Write what has changed.

        Raises:
            OSError: the files cannot be written.
        """
        counts, now = self._sources()  # which may wait for the loop of the pool
        with _lock:
            if not self._has_ended:
                self._counts = _write(counts, self._counts)
                if now is not None:
                    self._now = _write(now, self._now)

    def end(self) -> None:
        """Write the last of it: what was counted stays, and gauges are zero."""
        self.write()
        with _lock:
            self._has_ended = True
            self._now = _write((), self._now)
        self._is_over.set()

    def end_soon(self) -> None:
        """Have that done by the thread, since whoever says so must not wait: the garbage collector."""
        self._is_over.set()

    def _go_on(self) -> None:  # a thread of its own
        try:
            while not self._is_over.wait(EVERY):
                self.write()
            self.end()
        except Exception:
            logger.exception("metrics are not written any more")


def _write(families: Iterable[Metric], before: dict[Key, float]) -> dict[Key, float]:
    """Change the files by what has changed, and return what that is now. Gauges that are no more are taken out."""
    after: dict[Key, float] = {}
    for family in families:
        for key, value in _samples(family):
            change = value - before.get(key, 0.0)
            after[key] = value
            if change or key not in before:
                _value_of(key, family).inc(change)
    for key in before.keys() - after.keys():
        if key[0] == "gauge":
            _mapped[_place(key)].inc(-before[key])
    return after


def _samples(family: Metric) -> Iterator[tuple[Key, float]]:
    """Those of a family, with the buckets of a histogram one by one, as they are in files."""
    reached = 0.0
    for sample in family.samples:
        value = sample.value
        if sample.name.endswith("_bucket"):
            value, reached = value - reached, value
        elif sample.name.endswith("_count") and family.type == "histogram":  # is the sum of the buckets
            reached = 0.0
            continue
        yield (family.type, sample.name, tuple(sample.labels.items())), value


def _place(key: Key) -> Key:
    kind, name, labels = key
    return kind, name, tuple((label, ALL_WORKERS if label == "worker" else value) for label, value in labels)


def _value_of(key: Key, family: Metric) -> Any:
    place = _place(key)
    mapped = _mapped.get(place)
    if mapped is None:
        kind, name, labels = place
        names, given = [label for label, _ in labels], [value for _, value in labels]
        make: Any = values.ValueClass
        mode = {"multiprocess_mode": "livesum"} if kind == "gauge" else {}
        mapped = _mapped[place] = make(kind, family.name, name, names, given, family.documentation, **mode)
        if kind == "gauge":
            mapped.set(0.0)  # a process that was killed had the same number
    return mapped
