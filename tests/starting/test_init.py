"""What users tell `ray.init`, and which Ray is used."""

from __future__ import annotations

from typing import Any

import pytest

import poise
from poise._ray.init import address_of, check_ray_init, options_to_join, options_to_start


@pytest.mark.parametrize(
    "options",
    [{"num_cpu": 1}, {"address": "ray://x:1"}, {"address": ""}, {"address": 3}, {"address": None, "loging_level": 1}],
    ids=repr,
)
def test_what_ray_init_does_not_know_is_refused_when_the_pool_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(poise.ConfigError, match=f"ray_init.*{list(options)[-1]}"):
        poise.Pool(ray_init=options)


def test_ray_init_is_a_dict() -> None:
    wrong: Any = ["num_cpus"]
    with pytest.raises(poise.ConfigError, match="ray_init"):
        poise.Pool(ray_init=wrong)


def test_what_ray_init_knows_is_taken() -> None:
    check_ray_init({"num_cpus": 1, "_temp_dir": "/tmp/x", "address": "auto", "log_to_driver": False})


def test_options_are_divided_between_who_starts_ray_and_who_joins_it() -> None:
    given = {"address": "local", "num_cpus": 3, "log_to_driver": False, "include_dashboard": True, "namespace": "n"}
    started = options_to_start(given)
    assert (started["num_cpus"], started["include_dashboard"], started["address"]) == (3, True, "local")
    assert "namespace" not in started
    joined = options_to_join(given, is_started_by_us=True)
    assert (joined["log_to_driver"], joined["namespace"]) == (False, "n")
    assert not {"num_cpus", "include_dashboard", "address"} & set(joined)


def test_a_ray_of_others_is_told_everything_and_may_refuse_it() -> None:
    assert options_to_join({"address": "auto", "num_cpus": 3}, is_started_by_us=False)["num_cpus"] == 3


@pytest.mark.parametrize(
    ("options", "is_here_held", "environment", "address"),
    [
        ({}, False, {}, "local"),
        ({}, False, {"RAY_ADDRESS": "auto"}, "auto"),
        ({}, False, {"RAY_ADDRESS": "auto", "POISE_RAY": "here"}, "here"),
        ({}, True, {"RAY_ADDRESS": "auto"}, "here"),
        ({"address": "local"}, True, {"RAY_ADDRESS": "auto"}, "local"),
    ],
)
def test_the_nearest_word_on_which_ray_to_use_wins(
    options: dict[str, Any],
    is_here_held: bool,
    environment: dict[str, str],
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_ADDRESS", "POISE_RAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address_of(options, is_here_held=is_here_held)[0] == address


def test_a_variable_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_RAY", "there")
    with pytest.raises(poise.ConfigError, match="POISE_RAY"):
        address_of({}, is_here_held=False)
