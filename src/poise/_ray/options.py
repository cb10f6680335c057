"""What users ask of Ray for their workers: checked early, and compared with what there is."""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any, Final

from poise._protocol.words import callable_name
from poise.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_POOLS_OWN: Final = {
    "max_restarts": "the pool replaces dead workers itself",
    "max_task_retries": "the pool knows what had begun; use pool.options(retries=...)",
    "max_concurrency": "use Pool(..., concurrency=...)",
    "concurrency_groups": "use Pool(..., concurrency=...)",
    "name": "a pool has many workers, and each needs its own",
    "namespace": "it is for named actors, and workers have no names",
    "lifetime": "workers live as long as their pool",
    "get_if_exists": "it is for named actors, and workers have no names",
    "max_pending_calls": "use Pool(..., backlog=...)",
    "allow_out_of_order_execution": "the pool orders calls itself",
}
"""Options of Ray that the pool sets, and what to do instead."""


def check_ray_options(ray_options: Mapping[str, Any]) -> None:
    """Refuse the options that are the pool's own.

    Raises:
        ConfigError: says what to use instead.
    """
    for name, value in ray_options.items():
        if name in _POOLS_OWN:
            raise ConfigError(f"ray_options[{name!r}]", value, _POOLS_OWN[name])


def unwrap_factory(factory: Any) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The factory itself, and the options that `@ray.remote(...)` gave it if it is a class decorated so."""
    metadata = getattr(factory, "__ray_metadata__", None)
    if metadata is not None:
        defaults: dict[str, Any] = getattr(factory, "_default_options", None) or {}
        return metadata.modified_class, {name: value for name, value in defaults.items() if name not in _POOLS_OWN}
    if not callable(factory):
        made = "an object of this process, and each worker makes its own" if _is_instance(factory) else "not callable"
        raise ConfigError(
            "factory", factory, f"it is {made}; give a class or a function without arguments, or a lambda"
        )
    if needed := _needed(factory):
        raise ConfigError("factory", factory, _remedy(factory, needed))
    return factory, {}


def _is_instance(factory: Any) -> bool:
    return type(factory).__module__ != "builtins"


def _needed(factory: Callable[..., Any]) -> list[str]:
    """The parameters that a call without arguments lacks; none where that cannot be known.

    What decorators have put around it counts, and not what they wrap. A `__signature__` of a class's own is no promise:
    pydantic's settings have one of what they find elsewhere.
    """
    try:
        if hasattr(factory, "__signature__"):
            return []
        parameters = inspect.signature(factory, follow_wrapped=False).parameters.values()
    except Exception:  # noqa: BLE001 - some built-in callables have none, and users' code may do anything here
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]


def _remedy(factory: Any, needed: list[str]) -> str:
    name, lacks = callable_name(factory), ", ".join(map(repr, needed))
    if isinstance(
        factory, type | types.FunctionType | types.MethodType | types.BuiltinFunctionType | functools.partial
    ):
        name = "f" if name.endswith("<lambda>") else name
        arguments = ", ".join(f"{each}=..." for each in needed)
        return f"it is called without arguments in each worker, and lacks {lacks}; use lambda: {name}({arguments})"
    return (
        f"it is an object of class {name}, and each worker makes its own by a call without arguments (this one lacks "
        f"{lacks}); give the class, or lambda: {name}(...)"
    )


def label_of(factory: Callable[[], Any] | None) -> str:
    """A short name for the workers of this factory."""
    inner = getattr(factory, "func", factory)  # a functools.partial
    name = getattr(inner, "__name__", "")
    return name if name.isidentifier() else "poise"


def needs_of(ray_options: Mapping[str, Any]) -> dict[str, float]:
    """What Ray must have free to place one worker.

    Without `num_cpus` an actor needs one CPU to be placed, though it holds none while it runs.
    """
    cpus = ray_options.get("num_cpus")
    needs = {"CPU": 1.0 if cpus is None else float(cpus), "GPU": float(ray_options.get("num_gpus") or 0)}
    needs["memory"] = float(ray_options.get("memory") or 0)
    resources: dict[str, float] = ray_options.get("resources") or {}
    needs.update((name, float(amount)) for name, amount in resources.items())
    return {name: amount for name, amount in needs.items() if amount > 0}


def room_for(needs: Mapping[str, float], total: Mapping[str, float]) -> int:
    """How many workers the cluster has room for, at least 1."""
    counts = [int(total.get(name, 0) // amount) for name, amount in needs.items()]
    return max(1, min(counts, default=int(total.get("CPU", 1))))


def shortage_of(needs: Mapping[str, float], free: Mapping[str, float], total: Mapping[str, float]) -> str | None:
    """Say which resources one more worker lacks, or None if there is enough of each."""
    lacking = [
        f"{name}: each worker needs {_amount(name, amount)}, "
        + (
            f"{_amount(name, free.get(name, 0))} of {_amount(name, total[name])} are free"
            if total.get(name)
            else "Ray has none"
        )
        for name, amount in needs.items()
        if free.get(name, 0) < amount
    ]
    return "; ".join(lacking) or None


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.3g} GiB" if name == "memory" else f"{amount:g}"
