"""The demo: the real service, recorded traffic, a worker killed and all of them replaced, and an account of it all."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from rich.console import Console

from examples.digits import screen
from examples.digits.background import background
from examples.digits.classifier import Classifier, unseen
from examples.digits.client import Visitor
from examples.digits.progress import Progress
from examples.digits.traffic import plan, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from examples.digits.background import Service
    from examples.digits.classifier import Answer, Image
    from poise import Stats, WorkerStats

IMAGES = 300
"""Distinct images that are sent, over and over; a single process takes some seconds to know the answers beforehand."""

LOAD = 0.3
"""The part of what the workers can do that the traffic asks for on average; its bursts ask for far more."""

KILL_FROM, KILL_BY = 0.35, 0.6
"""Between these parts of the replay a worker is killed, as soon as calls wait: it is then in the middle of one."""

RELOAD_FROM = 0.65
"""From this part of the replay on all workers are replaced, as soon as the pool is whole."""

LOOK_EVERY = 0.1
"""Seconds between two looks at the service's pool."""

START_WITHIN = 90.0
HEAL_WITHIN = 60.0
"""Seconds after the replay in which the pool must be whole again and its workers new, if they are not before."""


class DemoFailed(Exception):
    """The demo could not begin; says why."""


async def demo(*, workers: int, seconds: float) -> int:
    """Play the demo.

    Args:
        workers: how many the service has.
        seconds: how long the traffic lasts.

    Returns:
        The exit status: 0 if nothing was lost or wrong, the pool healed and was reloaded; 1 if not.

    Raises:
        DemoFailed: the service did not start.
    """
    console = Console(highlight=False)
    console.print(screen.introduction(workers, seconds))
    async with background(workers) as service:
        try:
            progress = await _perform(service, console, workers, seconds)
            with screen.waiting(console, "closing the service, its workers and Ray"):
                await service.stop()
        except asyncio.CancelledError:
            console.print("\ninterrupted: closing the service, its workers and Ray ...")
            raise
        console.print(screen.summary(progress))
        if progress.status:
            console.print(f"\nThe service's own last words:\n{service.last_words()}", markup=False, soft_wrap=True)
    return progress.status


async def _perform(service: Service, console: Console, workers: int, seconds: float) -> Progress:
    images, _ = unseen(IMAGES)
    with screen.waiting(console, f"computing {IMAGES} answers to compare with, while Ray and {workers} workers start"):
        expected, pace = await asyncio.to_thread(_single_process, images)
    async with Visitor(service.url, images, expected) as visitor:
        with screen.waiting(console, "waiting for the workers"):
            stats = await _until_ready(service, visitor)
        rate = LOAD * min(workers, os.cpu_count() or 1) / pace
        traffic = plan(recorded(), rate=rate, seconds=seconds)
        progress = Progress(traffic, visitor.tally, stats)
        with screen.display(console) as show:
            await _play(visitor, progress, show)
    return progress


def _single_process(images: Sequence[Image]) -> tuple[list[Answer], float]:
    """The right answers, from a classifier in this process, and the seconds that each took (the median)."""
    classifier = Classifier()
    answers, took = [], []
    for image in images:
        start = time.perf_counter()
        answers.append(classifier.classify(image))
        took.append(time.perf_counter() - start)
    return answers, statistics.median(took)


async def _until_ready(service: Service, visitor: Visitor) -> Stats:
    try:
        async with asyncio.timeout(START_WITHIN):
            while service.is_running:
                stats = await visitor.stats()
                if stats is not None and stats.ready == stats.size:
                    return stats
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise DemoFailed(f"the service was not ready after {START_WITHIN:.0f} s:\n{service.last_words()}") from None
    raise DemoFailed(f"the service ended before it was ready:\n{service.last_words()}")


async def _play(visitor: Visitor, progress: Progress, show: Callable[[Progress], None]) -> None:
    """Replay the traffic, kill a worker and replace all of them on the way, and return when all of it has ended."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.TaskGroup() as tasks:
        replay = tasks.create_task(visitor.replay(progress.plan))
        while not (replay.done() and (progress.is_over or progress.now > progress.plan.seconds + HEAL_WITHIN)):
            await asyncio.sleep(LOOK_EVERY)
            progress.observe(await visitor.stats(), loop.time() - start)
            if progress.kill is None and (victim := _victim(progress)) is not None:
                _kill(victim, progress)
            if progress.reload is None and progress.is_whole and progress.now > RELOAD_FROM * progress.plan.seconds:
                progress.reloading()
                tasks.create_task(_reload(visitor, progress, start))
            show(progress)


async def _reload(visitor: Visitor, progress: Progress, start: float) -> None:
    failure = await visitor.reload()
    progress.reloaded(failure, asyncio.get_running_loop().time() - start)


def _victim(progress: Progress) -> WorkerStats | None:
    """A worker in the middle of a call, when the time has come; any, when it is about to be over."""
    part = progress.now / progress.plan.seconds
    if part < KILL_FROM or (part < KILL_BY and not progress.stats.waiting):
        return None
    ready = [worker for worker in progress.stats.workers if worker.state == "ready" and worker.pid is not None]
    return max(ready, key=lambda worker: worker.running, default=None)


def _kill(victim: WorkerStats, progress: Progress) -> None:
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    progress.killed(victim, victim.pid)
