"""What users ask of Ray."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from poise._lanes.launcher import HostLauncher
from poise._ray.options import label_of, needs_of, room_for, shortage_of
from poise.errors import ConfigError


@pytest.mark.parametrize(
    "name", ["max_restarts", "max_task_retries", "max_concurrency", "concurrency_groups", "name", "lifetime"]
)
def test_options_that_are_the_pools_own_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        HostLauncher(object, ray_options={name: 1})


@pytest.mark.parametrize("options", [{"num_cpu": 1}, {"num_cpus": -1}, {"resources": {"CPU": 1}}, {"runtime_env": 3}])
def test_options_that_ray_does_not_know_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ray_options"):
        HostLauncher(object, ray_options=options)


def test_a_factory_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="factory"):
        HostLauncher(3)


def test_needs_are_what_placing_one_worker_takes() -> None:
    assert needs_of({}) == {"CPU": 1}
    assert needs_of({"num_cpus": 0, "num_gpus": 0.5, "memory": 10, "resources": {"room": 1}}) == {
        "GPU": 0.5,
        "memory": 10,
        "room": 1,
    }


def test_there_is_room_for_what_the_scarcest_resource_allows() -> None:
    assert room_for({"CPU": 1}, {"CPU": 8}) == 8
    assert room_for({"CPU": 2, "GPU": 1}, {"CPU": 8, "GPU": 2}) == 2
    assert room_for({"GPU": 1}, {"CPU": 8}) == 1
    assert room_for({}, {"CPU": 8}) == 8


def test_a_shortage_names_the_resource_and_the_numbers() -> None:
    total = {"CPU": 2, "memory": 2.0**31}
    assert shortage_of({"CPU": 1}, {"CPU": 1}, total) is None
    assert shortage_of({"CPU": 1}, {}, total) == "CPU: each worker needs 1, 0 of 2 are free"
    assert shortage_of({"GPU": 1}, {}, total) == "GPU: each worker needs 1, Ray has none"
    assert shortage_of({"memory": 2.0**32}, total, total) == "memory: each worker needs 4 GiB, 2 GiB of 2 GiB are free"


def test_workers_are_labelled_by_their_factory() -> None:
    class Model: ...

    assert label_of(Model) == "Model"
    assert label_of(functools.partial(Model)) == "Model"
    assert label_of(lambda: [Model()]) == "poise"
    assert label_of(None) == "poise"
