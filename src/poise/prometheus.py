"""Metrics of pools for Prometheus.

```python
from prometheus_client import start_http_server
from poise import prometheus

start_http_server(9000)
async with poise.Pool(Model, size=4) as pool:
    prometheus.watch(pool, "model")
```

Calls are counted by an observer; everything else is read when somebody scrapes, from `stats()` and from /proc. In the
multiprocess mode of prometheus-client all of it is written to its files once a second.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast
from weakref import WeakKeyDictionary, ref

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from poise import _metrics_files
from poise._watch.processes import is_here, this_node, usage_of
from poise.errors import ConfigError, LoopBlocked, PoolClosed, WorkerLost
from poise.events import Counting
from poise.view import View, engine_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from poise.events import CallRefused, Observer, Outcome, PoolEnded, WorkerDied
    from poise.stats import Stats

BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)
"""Upper bounds of the histograms, in seconds."""
MOST_FUNCTIONS: Final = 100
"""Functions of one pool that have metrics of their own: each is a series for Prometheus. Those beyond are one."""
MOST_NEW: Final = 500
"""Calls of one function whose times wait to be put into their buckets, together."""
OTHERS: Final = "(others)"
"""What those are called."""
_STATES: Final = ("pending", "starting", "ready", "retiring")
_CAUSES: Final = ("crash", "kill", "start")


class Observed(Protocol):
    """A pool of any kind: `Pool`, `LocalPool` or `Executor`."""

    def add_observer(self, observer: Observer) -> None:
        """Tell this one what happens."""

    def remove_observer(self, observer: Observer) -> None:
        """Tell it nothing more."""

    def stats(self) -> Stats:
        """What the pool is doing."""
        ...


def watch(pool: Observed, name: str, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Give Prometheus the metrics of a pool, from now on until it is closed.

    Args:
        pool: a `Pool`, open or not, or an `Executor`.
        name: the value of the label `pool`; no other pool of this registry that is open has it.
        registry: what is scraped; unless given, the one that `prometheus_client` uses unless told otherwise.

    Raises:
        ConfigError: another pool has that name.
    """
    metrics = _METRICS.get(registry)
    if metrics is None:
        metrics = _METRICS[registry] = _Metrics()
        registry.register(metrics)
    if name in metrics.tallies:
        raise ConfigError("name", name, "a name that no other pool has which is watched")
    tally = metrics.tallies[name] = _Tally(pool, name, metrics)
    pool.add_observer(tally)
    if _metrics_files.are_wanted():
        tally.files = _metrics_files.Files(tally.sources)


def scrape(registry: CollectorRegistry = REGISTRY) -> bytes:
    """What a scrape is to be answered, as text: what `registry` has, in multiprocess mode of all processes together.

    From any thread. What other processes have counted in the last second may be missing.
    """
    if not _metrics_files.are_wanted():
        return generate_latest(registry)
    if (metrics := _METRICS.get(registry)) is not None:
        for tally in list(metrics.tallies.values()):
            if tally.files is not None:
                tally.files.write()
    whole, collect = CollectorRegistry(), cast("Any", MultiProcessCollector)
    collect(whole)
    return generate_latest(whole)


class _Times:
    """A histogram."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, times: list[float]) -> None:
        """Add these seconds."""
        times.sort()  # so that the buckets can be cut out of it: a third of what it takes to find each one's
        self.total += sum(times)
        below = 0
        for number, bound in enumerate(BUCKETS):
            reached = bisect_right(times, bound, below)
            self.counts[number] += reached - below
            below = reached
        self.counts[-1] += len(times) - below

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds, and how many were not above each."""
        reached, found = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            reached += count
            found.append((bound, float(reached)))
        return found


class _New(NamedTuple):
    """What was counted and is in no metric yet: the calls of one function that have ended alike."""

    waits: list[float]
    """Seconds of each."""
    runs: list[float]
    """Of those that have run."""
    label: str
    outcome: Outcome


class _Tally(Counting):
    """What has happened in one pool."""

    def __init__(self, pool: Observed, name: str, metrics: _Metrics) -> None:
        # A pool lives for as long as a view of it does; one that is forgotten is closed, watched or not.
        source: Any = engine_of(pool) if isinstance(pool, View) else pool
        self._pool = ref(source, lambda _: self._forgotten())
        self.name = name
        self.files: _metrics_files.Files | None = None
        """Where it is written, in multiprocess mode."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Calls, by label and outcome."""
        self._new: dict[tuple[str, str], _New] = {}
        """The same since they were taken over last."""
        self._lock = threading.Lock()
        """Held while that is done."""
        self.waits: dict[str, _Times] = {}
        self.runs: dict[str, _Times] = {}
        self.refused: Counter[str] = Counter()
        """Calls, by error."""
        self.deaths: Counter[str] = Counter(dict.fromkeys(_CAUSES, 0))
        self._metrics = metrics

    def count(self, function: str, outcome: Outcome, attempts: int, waiting: float, running: float) -> None:
        """Count it, and note its times; one that never began to run has none for that.

        As little as can be is done for each call here, at the cost of more for a thousand.
        """
        new = self._new.get((function, outcome))
        if new is None:
            new = self._first(function, outcome)
        waits = new[0]
        waits.append(waiting)
        if attempts:
            new[1].append(running)
        if len(waits) >= MOST_NEW:
            self.take_over()

    def take_over(self) -> None:
        """Put into the metrics what is new. From any thread, and while the pool's own counts more."""
        with self._lock:
            for waits, runs, label, outcome in list(self._new.values()):
                taken, ran = waits[:], runs[:]
                del waits[: len(taken)], runs[: len(ran)]
                self.outcomes[label, outcome] += len(taken)
                self.waits[label].add(taken)
                self.runs[label].add(ran)

    def call_refused(self, event: CallRefused, /) -> None:
        """Count it."""
        self.refused[event.error.__name__] += 1

    def worker_died(self, event: WorkerDied, /) -> None:
        """Count it."""
        self.deaths[event.cause] += 1

    def pool_ended(self, _event: PoolEnded, /) -> None:
        """Leave nothing of a pool that is closed."""
        self._leave()
        if self.files is not None:
            self.files.end()

    def _forgotten(self) -> None:
        self._leave()
        if self.files is not None:
            self.files.end_soon()

    def _leave(self) -> None:
        if self._metrics.tallies.get(self.name) is self:
            del self._metrics.tallies[self.name]

    def _first(self, function: str, outcome: Outcome) -> _New:
        """Where the first call of a function, or any of one beyond the number, is to be counted that has ended so."""
        label = function if function in self.waits or len(self.waits) < MOST_FUNCTIONS else OTHERS
        if label not in self.waits:
            self.waits[label], self.runs[label] = _Times(), _Times()
        return self._new.setdefault((label, outcome), _New([], [], label, outcome))

    def stats(self) -> Stats | None:
        """A snapshot, if there is one."""
        pool = self._pool()
        try:
            return None if pool is None else pool.stats()
        except (PoolClosed, LoopBlocked, WorkerLost):  # the last one is the owner of a shared pool
            return None

    def sources(self) -> _metrics_files.Sources:
        """What was counted, and what is so now."""
        if (stats := self.stats()) is None:
            return _calls([self]), None
        return _calls([self]), _present([(self.name, stats)])


class _Metrics(Collector):
    """What one registry collects, from any thread."""

    def __init__(self) -> None:
        self.tallies: dict[str, _Tally] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        tallies = list(self.tallies.values())
        yield from _calls(tallies)
        yield from _present([(tally.name, stats) for tally in tallies if (stats := tally.stats()) is not None])


_METRICS: Final[WeakKeyDictionary[CollectorRegistry, _Metrics]] = WeakKeyDictionary()


def _calls(tallies: list[_Tally]) -> Iterator[Metric]:
    calls = CounterMetricFamily("poise_calls", "Calls that have ended.", labels=["pool", "function", "outcome"])
    refused = CounterMetricFamily("poise_calls_refused", "Calls that were not accepted.", labels=["pool", "error"])
    deaths = CounterMetricFamily(
        "poise_worker_deaths", "Workers that died, were killed, or could not start.", labels=["pool", "cause"]
    )
    by_function = ["pool", "function"]
    waits = HistogramMetricFamily(
        "poise_call_wait_seconds", "Time for which a call held no slot of a worker.", labels=by_function
    )
    runs = HistogramMetricFamily(
        "poise_call_run_seconds", "Time for which a call ran, by its worker's clock.", labels=by_function
    )
    for tally in tallies:
        tally.take_over()
        for (function, outcome), count in list(tally.outcomes.items()):
            calls.add_metric([tally.name, function, outcome], count)
        for error, count in list(tally.refused.items()):
            refused.add_metric([tally.name, error], count)
        for cause, count in list(tally.deaths.items()):
            deaths.add_metric([tally.name, cause], count)
        for family, times in ((waits, tally.waits), (runs, tally.runs)):
            for function, each in list(times.items()):
                family.add_metric([tally.name, function], each.buckets(), each.total)
    yield from (calls, refused, deaths, waits, runs)


def _present(now: list[tuple[str, Stats]]) -> Iterator[Metric]:
    yield from _pools(now)
    yield from _workers(now)
    yield from _processes(now)


def _pools(now: list[tuple[str, Stats]]) -> Iterator[Metric]:
    def gauge(name: str, what: str, values: dict[str, float]) -> Metric:
        family = GaugeMetricFamily(name, what, labels=["pool"])
        for pool, value in values.items():
            family.add_metric([pool], value)
        return family

    def counter(name: str, what: str, values: dict[str, float]) -> Metric:
        family = CounterMetricFamily(name, what, labels=["pool"])
        for pool, value in values.items():
            family.add_metric([pool], value)
        return family

    yield gauge("poise_backlog_calls", "Calls that wait for a worker.", {name: s.waiting for name, s in now})
    yield gauge("poise_parked_calls", "Calls that wait for room in the backlog.", {name: s.parked for name, s in now})
    yield gauge(
        "poise_abandoned_calls",
        "Calls whose caller was answered and that still hold a worker.",
        {name: s.abandoned for name, s in now},
    )
    yield gauge("poise_slots", "Calls that the ready workers may run at once.", {n: _slots(s) for n, s in now})
    yield gauge("poise_slots_busy", "Slots of those that are in use.", {name: _busy(s) for name, s in now})
    yield gauge("poise_workers_wanted", "Workers that were asked for.", {name: s.size for name, s in now})
    yield counter("poise_retries", "Attempts that repeated another.", {name: s.retried for name, s in now})
    yield counter("poise_workers_recycled", "Workers that were replaced as old.", {name: s.recycled for name, s in now})


def _slots(stats: Stats) -> int:
    return sum(worker.slots for worker in stats.workers if worker.state == "ready")


def _busy(stats: Stats) -> int:
    return sum(worker.running - worker.shared for worker in stats.workers if worker.state == "ready")


def _workers(now: list[tuple[str, Stats]]) -> Iterator[Metric]:
    states = GaugeMetricFamily("poise_workers", "Workers, by their state.", labels=["pool", "state"])
    busy = CounterMetricFamily(
        "poise_worker_busy_seconds", "Time for which a worker has run calls.", labels=["pool", "worker"]
    )
    for name, stats in now:
        count = Counter(worker.state for worker in stats.workers)
        for state in _STATES:
            states.add_metric([name, state], count[state])
        for worker in stats.workers:
            busy.add_metric([name, str(worker.id)], worker.busy)
    yield from (states, busy)


# ---------------------------------------------------------------------------------------------------------------------
# Processes: of this machine alone, and where there is a /proc


def _processes(now: list[tuple[str, Stats]]) -> Iterator[Metric]:
    labels = ["pool", "worker"]
    memory = GaugeMetricFamily("poise_worker_resident_memory_bytes", "Resident set of a worker.", labels=labels)
    cpu = CounterMetricFamily("poise_worker_cpu_seconds", "Processor time that a worker has taken.", labels=labels)
    node = this_node()
    for name, stats in now:
        for worker in stats.workers:
            if worker.pid is not None and is_here(worker, node) and (usage := usage_of(worker.pid)) is not None:
                cpu.add_metric([name, str(worker.id)], usage.cpu)
                memory.add_metric([name, str(worker.id)], usage.resident)
    yield from (memory, cpu)
