"""What Prometheus finds, and that the dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import ref

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

import poise
from poise import asgi, prometheus
from poise.testing import Faults, LocalPool, local_pools
from poise.view import engine_of
from tests.gate import Gate, wait_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faces.conftest import Start

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
GRAFANA = Path(__file__).parents[2] / "docs" / "grafana"


class Model:
    def predict(self, x: int) -> int:
        return x * 2

    def fail(self) -> None:
        raise LookupError("no such thing")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


class Scrape:
    """What one scrape has found."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.text = generate_latest(registry).decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The one value of that name that has these labels."""
        (value,) = self.all(name, **labels)
        return value

    def all(self, name: str, **labels: str) -> list[float]:
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]


async def test_calls_are_counted_by_function_and_outcome_with_their_times(registry: CollectorRegistry) -> None:
    faults = Faults()
    async with LocalPool(Model, size=2, min_ready=2, faults=faults) as pool:
        prometheus.watch(pool, "model", registry=registry)
        await asyncio.gather(*(pool.submit(Model.predict, number) for number in range(50)))
        with pytest.raises(LookupError):
            await pool.run(Model.fail)
        faults.die(function=Model.predict)
        assert await pool.options(retries=1, retry_delay=0).run(Model.predict, 1) == 2
        await pool.until_ready()
        found = Scrape(registry)
        stats = pool.stats()
    assert found("poise_calls_total", pool="model", function="Model.predict", outcome="returned") == 51
    assert found("poise_calls_total", function="Model.fail", outcome="raised") == 1
    for histogram in ("poise_call_wait_seconds", "poise_call_run_seconds"):
        assert found.families[histogram].type == "histogram"
        assert found(f"{histogram}_count", function="Model.predict") == 51
        assert found(f"{histogram}_bucket", function="Model.predict", le="+Inf") == 51
        buckets = found.all(f"{histogram}_bucket", function="Model.predict")
        assert buckets == sorted(buckets)
        assert found(f"{histogram}_sum", function="Model.predict") >= 0
    assert found("poise_retries_total") == 1
    assert [found("poise_worker_deaths_total", cause=cause) for cause in ("crash", "kill", "start")] == [1, 0, 0]
    assert found("poise_workers", state="ready") == found("poise_workers_wanted") == found("poise_slots") == 2
    assert sum(found.all("poise_worker_busy_seconds_total")) == pytest.approx(sum(w.busy for w in stats.workers))


async def test_what_waits_and_what_is_refused(registry: CollectorRegistry, gate: Gate) -> None:
    async with LocalPool(size=1, backlog=2) as pool:
        prometheus.watch(pool, "functions", registry=registry)
        calls: list[poise.Call[Any]] = [pool.submit(wait_at, gate.path), *(pool.submit(abs, -1) for _ in range(2))]
        with pytest.raises(poise.Overloaded):
            pool.submit(abs, -1)
        parked = asyncio.ensure_future(pool.run(abs, -1))
        await asyncio.sleep(0)
        await gate.reached()
        found = await asyncio.to_thread(Scrape, registry)
        gate.open()
        await asyncio.gather(*calls)
        await parked
    assert found("poise_calls_refused_total", pool="functions", error="Overloaded") == 1
    assert (found("poise_backlog_calls"), found("poise_parked_calls"), found("poise_abandoned_calls")) == (2, 1, 0)
    assert found("poise_slots_busy") == 1


async def test_a_name_is_of_one_open_pool(registry: CollectorRegistry) -> None:
    other = LocalPool(size=1)
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "one", registry=registry)
        with pytest.raises(poise.ConfigError, match="one"):
            prometheus.watch(other, "one", registry=registry)
        prometheus.watch(other, "two", registry=registry)
        assert Scrape(registry).all("poise_workers_wanted") == [1], "the other one is not open"
    assert {sample.labels["pool"] for sample in Scrape(registry).samples} == {"two"}
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "one", registry=registry)


async def test_a_watched_pool_that_is_forgotten_is_collected_and_its_name_free(registry: CollectorRegistry) -> None:
    pool = LocalPool(size=1)
    prometheus.watch(pool, "model", registry=registry)
    told = ref(pool)
    del pool
    gc.collect()
    assert told() is None
    prometheus.watch(LocalPool(size=1), "model", registry=registry)


async def test_a_pool_that_lives_in_a_view_alone_keeps_its_metrics(registry: CollectorRegistry) -> None:
    pool = LocalPool(size=1)
    await pool.open()
    prometheus.watch(pool, "model", registry=registry)
    view = pool.options(timeout=60)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del pool
    assert await view.run(abs, -1) == 1
    assert Scrape(registry)("poise_calls_total", function="abs", outcome="returned") == 1
    await engine_of(view).aclose()


async def test_functions_beyond_a_number_are_one(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MOST_FUNCTIONS", 2)
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "functions", registry=registry)
        functions: list[Callable[..., Any]] = [abs, abs, len, str, repr, str]
        for function in functions:
            with contextlib.suppress(TypeError):
                await pool.run(function, ())
        found = Scrape(registry)
    counts = {s.labels["function"]: s.value for s in found.samples if s.name == "poise_calls_total"}
    assert counts == {"abs": 2, "len": 1, prometheus.OTHERS: 3}


def test_an_executor_can_be_watched(registry: CollectorRegistry) -> None:
    with local_pools(), poise.Executor(max_workers=1) as executor:
        prometheus.watch(executor, "executor", registry=registry)
        assert Scrape(registry).all("poise_workers_wanted") == []
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert Scrape(registry)("poise_calls_total", function="abs") == 20


async def test_memory_and_processor_time_of_the_workers_of_this_machine(
    registry: CollectorRegistry, shared_ray: None
) -> None:
    async with poise.Pool(Model, size=1) as pool:
        prometheus.watch(pool, "model", registry=registry)
        await pool.run(Model.predict, 1)
        found = Scrape(registry)
    assert found("poise_worker_resident_memory_bytes", pool="model", worker="0") > 10_000_000
    assert found("poise_worker_cpu_seconds_total", pool="model", worker="0") > 0


async def test_an_application_answers_scrapes() -> None:
    app = Starlette()
    asgi.install(app, lambda: LocalPool(Model, size=1), metrics="/metrics")
    for _ in range(2):  # an application may be started again
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            answer = await client.get("/metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert 'poise_workers_wanted{pool="Model"} 1.0' in answer.text
    assert "poise_workers_wanted{" not in generate_latest(REGISTRY).decode()


@pytest.mark.parametrize("path", ["metrics", ""])
def test_metrics_are_at_a_path(path: str) -> None:
    with pytest.raises(poise.ConfigError, match="metrics"):
        asgi.install(Starlette(), LocalPool(Model), metrics=path)


# ---------------------------------------------------------------------------------------------------------------------
# Several processes

SERVER = """
import asyncio, sys
from poise import prometheus
from poise.testing import Faults, LocalPool

async def main():
    faults = Faults()
    async with LocalPool(size=2, min_ready=2, faults=faults) as pool:
        prometheus.watch(pool, "functions")
        for number in range(int(sys.argv[1])):
            await pool.run(abs, -number)
        faults.die(function=len)
        await pool.options(retries=1, retry_delay=0).run(len, "")
        await pool.until_ready()
        while line := await asyncio.to_thread(sys.stdin.readline):
            prometheus.scrape()
            print("written", flush=True)

asyncio.run(main())
"""


class Server:
    """A process that has such a pool, and files of prometheus-client's."""

    def __init__(self, start: Start, folder: Path, calls: int) -> None:
        self.process = start("-c", SERVER, str(calls), env={FOLDER: str(folder)}, stdin=subprocess.PIPE)

    def write(self) -> None:
        """Have it write what has become of its pool."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "written\n", self.process.communicate()[1]

    def end(self) -> None:
        """Let it close its pool and end."""
        _, complaints = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, complaints
        assert "Traceback" not in complaints


def scrape_files(folder: Path) -> Scrape:
    """What any of the processes would answer."""
    registry, collect = CollectorRegistry(), cast("Any", MultiProcessCollector)
    collect(registry, str(folder))
    return Scrape(registry)


def test_the_metrics_of_several_processes_are_added_up(start: Start, tmp_path: Path) -> None:
    first, second = Server(start, tmp_path, 3), Server(start, tmp_path, 5)
    for server in (first, second, first):
        server.write()
    found = scrape_files(tmp_path)
    assert found("poise_calls_total", pool="functions", function="abs", outcome="returned") == 8
    for histogram in ("poise_call_wait_seconds", "poise_call_run_seconds"):
        assert found.families[histogram].type == "histogram"
        assert found(f"{histogram}_count", function="abs") == 8
        buckets = found.all(f"{histogram}_bucket", function="abs")
        assert (buckets, buckets[-1]) == (sorted(buckets), 8)
        assert found(f"{histogram}_sum", function="abs") >= 0
    assert found("poise_retries_total") == found("poise_worker_deaths_total", cause="crash") == 2
    assert found("poise_workers", state="ready") == found("poise_workers_wanted") == found("poise_slots") == 4
    assert found("poise_worker_busy_seconds_total", worker="(all)") > 0

    second.process.kill()
    second.process.wait()
    assert scrape_files(tmp_path)("poise_workers_wanted") == 4, "nobody has said that it is dead"
    cast("Any", mark_process_dead)(second.process.pid, str(tmp_path))
    found = scrape_files(tmp_path)
    assert (found("poise_workers_wanted"), found("poise_calls_total", function="abs")) == (2, 8)

    first.end()
    found = scrape_files(tmp_path)
    assert (found("poise_workers_wanted"), found("poise_calls_total", function="abs")) == (0, 8)


FORGOTTEN = """
import asyncio, gc, threading
from poise import prometheus
from poise.testing import LocalPool

async def main():
    pool = LocalPool(size=1)
    prometheus.watch(pool, "functions")
    (writer,) = (thread for thread in threading.enumerate() if thread.name == "poise-metrics")
    del pool
    gc.collect()
    writer.join()
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "functions")
        await pool.run(abs, -1)
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "functions")
        await pool.run(abs, -1)
        print(prometheus.scrape().decode())

asyncio.run(main())
"""


def test_pools_that_follow_each_other_in_one_process_go_on_with_its_counts(start: Start, tmp_path: Path) -> None:
    said, complaints = start("-c", FORGOTTEN, env={FOLDER: str(tmp_path)}).communicate(timeout=60)
    assert complaints == ""
    assert 'poise_calls_total{function="abs",outcome="returned",pool="functions"} 2.0' in said
    assert 'poise_workers_wanted{pool="functions"} 1.0' in said


async def test_one_process_writes_no_files(registry: CollectorRegistry) -> None:
    async with LocalPool(size=1) as pool:
        prometheus.watch(pool, "functions", registry=registry)
        assert prometheus.scrape(registry) == generate_latest(registry)
        assert "poise-metrics" not in {thread.name for thread in threading.enumerate()}


# ---------------------------------------------------------------------------------------------------------------------
# The dashboard and the alerts


def expressions() -> Iterator[str]:
    dashboard = json.loads((GRAFANA / "poise.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        query: Any = variable["query"]
        yield query if isinstance(query, str) else query["query"]
    yield from re.findall(r"^ +expr: (.+)$", (GRAFANA / "alerts.yml").read_text(), re.MULTILINE)


async def test_the_dashboard_and_the_alerts_ask_for_what_there_is(registry: CollectorRegistry) -> None:
    async with LocalPool(Model, size=1) as pool:
        prometheus.watch(pool, "model", registry=registry)
        await pool.run(Model.predict, 1)
        families = list(registry.collect())
    suffixes = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    names = {family.name + suffixes[family.type] for family in families}
    asked = {name for text in expressions() for name in re.findall(r"\bpoise_\w+", text)}
    assert asked == names
    page = (GRAFANA.parent / "how-to" / "observing.md").read_text()
    assert {name for name in names if name.removesuffix("_bucket") not in page} == set()
