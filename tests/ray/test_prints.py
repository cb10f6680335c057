"""What executors' workers print, before and after it is known which process each of them is."""

from __future__ import annotations

from typing import Any

import pytest

from poise._ray import prints

HERE = "10.0.0.1"


def lines(pid: int, *said: str, name: str = "functions", ip: str = HERE) -> dict[str, Any]:
    return {"pid": pid, "ip": ip, "localhost": HERE, "is_err": False, "actor_name": name, "lines": said}


class Printer:
    """Ray's way of printing, and the plain one."""

    def __init__(self) -> None:
        self.printed: list[str] = []
        self.bring = prints._plainly(self._as_ray, self._plain)  # noqa: SLF001

    def _as_ray(self, data: Any) -> None:
        self.printed += [f"({data['pid']}) {line}" for line in data["lines"]]

    def _plain(self, data: Any, stream: Any, *, ignore_prefix: bool) -> None:
        assert ignore_prefix
        self.printed += data["lines"]


@pytest.fixture
def printer() -> Printer:
    return Printer()


def test_what_a_worker_prints_before_its_process_is_known_waits_for_that(printer: Printer) -> None:
    prints.await_printer("functions")
    prints.await_printer("functions")
    printer.bring(lines(1_000_001, "one"))
    printer.bring(lines(1_000_002, "two"))
    printer.bring(lines(1_000_003, "of another pool", name="Model"))
    printer.bring(lines(1_000_001, "of another node", ip="10.0.0.2"))
    assert printer.printed == ["(1000003) of another pool", "(1000001) of another node"]
    printer.printed.clear()
    prints.know_printer("functions", 1_000_002)
    assert printer.printed == ["two"]
    prints.know_printer("functions", 1_000_001)
    printer.bring(lines(1_000_001, "more"))
    assert printer.printed == ["two", "one", "more"]


def test_what_was_not_an_executors_worker_is_printed_as_ray_does(printer: Printer) -> None:
    prints.await_printer("functions")
    printer.bring(lines(1_000_004, "a function of the user's own actor of that name"))
    assert printer.printed == []
    prints.know_printer("functions", None)
    assert printer.printed == ["(1000004) a function of the user's own actor of that name"]
