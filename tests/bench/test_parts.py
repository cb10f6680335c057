from __future__ import annotations

import os

from bench import core_cost, soak
from bench.contenders import CONTENDERS
from bench.contenders.pingpong import AsyncPingPong, OneProcessor, PingPong
from bench.session import Absent, Session
from bench.worker import Worker


def test_the_core_is_measured_with_so_many_waiting() -> None:
    for sends_ahead in (False, True):
        model = core_cost.Model(4, sends_ahead=sends_ahead)
        model.fill(100)
        model.decisions(500)
        assert model.waiting == 100
        model.scheduler.check_invariants()
        measured = core_cost.cost(10, 4, sends_ahead=sends_ahead, decisions=20)
        assert len(measured["seconds"]) == 5


def test_a_growth_of_the_decision_is_judged() -> None:
    costs = [
        {"waiting": waiting, "workers": workers, "sends_ahead": False, "seconds": [seconds]}
        for waiting, workers, seconds in [(10, 4, 1e-6), (1000, 4, 3e-6), (10, 1000, 1e-6)]
    ]
    verdicts = [finding.verdict for finding in core_cost.findings({"costs": costs, "core_bytes": 300})]
    assert verdicts == ["not measured", "met", "NOT met", "met"]


async def test_a_waiting_call_is_weighed() -> None:
    assert await core_cost.pool_bytes(1000) >= 0


async def test_the_limit_answers_and_leaves_nothing() -> None:
    allowed = os.sched_getaffinity(0)
    for kind in (PingPong, AsyncPingPong, OneProcessor):
        contender = kind()
        await contender.open(1)
        try:
            assert await contender.call("echo", 7) == 7
        finally:
            await contender.close()
    assert os.sched_getaffinity(0) == allowed


async def test_a_contender_that_is_missing_is_noted_and_not_tried_again() -> None:
    from bench.contenders.contender import Missing

    class Gone(PingPong):
        label = "gone"

        async def open(self, workers: int) -> None:
            raise Missing("no such package")

    session = Session(quick=True)
    try:
        async with session.visit(Gone):
            raise AssertionError("it cannot run")
    except Absent:
        pass
    assert session.troubles == {"gone": "missing: no such package"}
    assert session.in_turn([Gone, PingPong], 0) == [PingPong]


def test_every_round_has_every_contender_once_and_begins_with_another() -> None:
    session = Session(quick=True)
    orders = [session.in_turn(CONTENDERS, turn) for turn in range(3)]
    assert all(sorted(order, key=CONTENDERS.index) == list(CONTENDERS) for order in orders)
    assert len({order[0] for order in orders}) == 3


def test_a_service_is_timed_on_the_clock_that_all_processes_share() -> None:
    for began, ended, _ in (Worker().sleep(0.01), Worker().serve(0.0001), Worker().serve(0.01)):
        assert ended - began > 0
    began, ended, service = Worker().repeat("spin", 100, 3)
    assert 0 < service <= ended - began


async def test_a_short_soak_leaves_nothing() -> None:
    assert await soak.run(1.5, is_local=True, big=10_000) == 0


def test_growth_beyond_the_slack_is_told() -> None:
    census = soak.Census(pid=1, memory=10**8, blocks=1000, threads=3, descriptors=10)
    first = soak.Snapshot(0, 0, census, 1e8, 1000, 3, 10, tasks=1, unsettled=0)
    last = soak.Snapshot(9, 9, census, 2e8, 1000, 3, 10, tasks=2, unsettled=0)
    grown = [growth.what for growth in soak.growths(first, last) if not growth.is_fine]
    assert grown == ["caller: asyncio tasks", "worker: memory"]
    assert "GROWN" in soak.table(soak.growths(first, last)).plain()
