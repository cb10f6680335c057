"""What type checkers infer, and what they must refuse. Read by mypy and pyright in strict mode, never run.

`# type: ignore[...]` marks an error that mypy must find and `# pyright: ignore[...]` one that pyright must: both fail
on a mark that they do not need.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, assert_type

import poise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator


class Model:
    def __init__(self, path: str) -> None: ...
    def predict(self, x: list[float], *, scale: float = 1.0) -> float:
        return scale

    def reset(self) -> None: ...
    async def fetch(self, url: str) -> bytes:
        return b""

    def tokens(self, prompt: str) -> Iterator[str]:
        yield prompt

    def generator(self, prompt: str) -> Generator[str, None, int]:
        yield prompt
        return 1

    async def async_tokens(self, prompt: str, limit: int = 3) -> AsyncIterator[str]:
        yield prompt

    async def async_generator(self) -> AsyncGenerator[int, None]:
        yield 1

    @staticmethod
    def version(model: Model) -> int:
        return 1


class Small(Model):
    def __init__(self) -> None:
        super().__init__("small")


def crunch(x: int, y: str = "") -> complex:
    return x


async def crunch_async(x: int) -> bytes:
    return b""


def factory() -> Model:
    return Model("")


# ---------------------------------------------------------------------------------------------------------------------
# Making pools


def pools() -> None:
    assert_type(poise.Pool(Small, size=4), poise.Pool[Small])
    assert_type(poise.Pool(factory), poise.Pool[Model])
    assert_type(poise.Pool(lambda: Model("x")), poise.Pool[Model])
    assert_type(poise.Pool(functools.partial(Model, "x")), poise.Pool[Model])
    assert_type(poise.Pool(), poise.Pool[None])
    assert_type(poise.Pool.shared("models", factory, size=4, detached=True), poise.Pool[Model])
    assert_type(poise.Pool.shared("models", Small), poise.Pool[Small])
    assert_type(poise.Pool.shared("functions"), poise.Pool[None])
    assert_type(poise.Pool.join("models", traces=True), poise.Pool[Any])
    assert_type(poise.Pool(size=4), poise.Pool[None])
    assert_type(poise.Pool.of([]), poise.Pool[Any])
    poise.Pool(Model)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    poise.Pool(Small, sise=4)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    poise.Pool(Small, lane="pigeon")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    poise.Pool(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def opening() -> None:
    async with poise.Pool(Small) as pool:
        assert_type(pool, poise.Pool[Small])
        assert_type(pool.stats(), poise.Stats)


# ---------------------------------------------------------------------------------------------------------------------
# One call


async def one_call(pool: poise.Pool[Model]) -> None:
    assert_type(await pool.run(Model.predict, [1.0]), float)
    assert_type(await pool.run(Model.predict, [1.0], scale=2.0), float)
    assert_type(await pool.run(Model.fetch, "url"), bytes)
    assert_type(await pool.run(Model.version), int)
    assert_type(await pool.run("predict", 1, 2, anything=3), Any)
    # Pyright does not infer a lambda's parameters from the arguments beside it, mypy does.
    assert_type(await pool.run(lambda m, x: m.predict(x) > 0, [1.0]), bool)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    assert_type(pool.submit(Model.predict, [1.0]), poise.Call[float])
    assert_type(pool.submit(Model.fetch, "url"), poise.Call[bytes])
    assert_type(pool.submit("fetch"), poise.Call[Any])
    assert_type(await pool.submit(Model.predict, x=[1.0]), float)
    assert_type(await pool.run(Model.reset), None)

    await pool.run(Model.predict)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await pool.run(Model.predict, "text")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await pool.run(Model.predict, [1.0], 2.0)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await pool.run(Model.predict, [1.0], scale="2")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.submit(Model.fetch, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.submit(str.upper)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.submit(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    number: int = await pool.run(Model.predict, [1.0])  # type: ignore[call-overload]  # pyright: ignore[reportAssignmentType]
    del number


async def functions_alone(pool: poise.Pool[None]) -> None:
    assert_type(await pool.run(crunch, 1), complex)
    assert_type(await pool.run(crunch, 1, y="x"), complex)
    assert_type(await pool.run(crunch_async, 1), bytes)
    assert_type(pool.submit(crunch_async, 1), poise.Call[bytes])
    assert_type(await pool.run(lambda: 3), int)
    assert_type([x async for x in pool.map(crunch_async, [1])], list[bytes])
    assert_type([x async for x in pool.stream(range, 3)], list[int])
    assert_type(await pool.broadcast(crunch_async, 1), list[bytes])

    await pool.run(crunch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await pool.run(crunch, "1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def anything_goes(pool: poise.Pool[Any]) -> None:
    assert_type(await pool.run("method", 1), Any)


# ---------------------------------------------------------------------------------------------------------------------
# Many calls


async def many_calls(pool: poise.Pool[Model], lists: list[list[float]], later: poise.Results[str]) -> None:
    assert_type(pool.map(Model.predict, lists), poise.Results[float])
    assert_type(pool.map_unordered(Model.predict, lists), poise.Results[float])
    assert_type(pool.map(Model.fetch, later, buffersize=3), poise.Results[bytes])
    assert_type(pool.map("predict", [1]), poise.Results[Any])
    assert_type(pool.map(Model.predict, lists, on_error="skip"), poise.Results[float])
    assert_type(pool.map(Model.fetch, later, on_error="return"), poise.Results[bytes | Exception])
    assert_type(pool.map_unordered(Model.predict, lists, on_error="return"), poise.Results[float | Exception])
    assert_type(await pool.broadcast(Model.predict, [1.0]), list[float])
    assert_type(await pool.broadcast(Model.fetch, "x"), list[bytes])
    assert_type(await pool.broadcast("predict"), list[Any])
    async for token in pool.stream(Model.tokens, "hi"):
        assert_type(token, str)
    async for token in pool.stream(Model.async_tokens, "hi", limit=5):
        assert_type(token, str)
    async for token in pool.stream(Model.generator, "hi"):
        assert_type(token, str)
    assert_type(pool.stream(Model.async_generator), poise.Stream[int])
    assert_type(pool.stream("tokens"), poise.Stream[Any])

    pool.map(Model.predict, ["text"])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.map(Model.reset, [1])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.map(Model.predict, lists, buffer=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.stream(Model.predict, [1.0])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.stream(Model.tokens)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await pool.broadcast(Model.predict)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# ---------------------------------------------------------------------------------------------------------------------
# Views and leases


async def views(pool: poise.Pool[Model]) -> None:
    view = pool.options(timeout=1, priority=2, retries=3, retry_on=(ValueError, KeyError))
    assert_type(view, poise.View[Model])
    assert_type(pool.options(retry_on=ValueError).options(timeout=None), poise.View[Model])
    assert_type(await view.run(Model.predict, [1.0]), float)
    async with pool.lease(timeout=3) as worker:
        assert_type(worker, poise.Worker[Model])
        assert_type(await worker.run(Model.fetch, "x"), bytes)
        assert_type(worker.options(timeout=1), poise.View[Model])
        await worker.run(Model.fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    pool.options(time_out=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.options(retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.options(retry_on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.options(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    view.drain()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


# ---------------------------------------------------------------------------------------------------------------------
# Batches


class Scorer:
    @poise.batched(max=8, wait=0.01)
    def score(self, texts: list[str]) -> list[float]:
        return [0.0 for _ in texts]

    @poise.batched()
    async def fetch(self, urls: list[str]) -> list[bytes]:
        return [b"" for _ in urls]

    @poise.batched()
    def partly(self, texts: list[str]) -> list[int | poise.Failed]:
        return [poise.Failed(ValueError(text)) for text in texts]


@poise.batched(max=4)
def embed(texts: list[str]) -> list[complex]:
    return [1j for _ in texts]


@poise.batched()
async def embed_async(texts: list[str]) -> list[complex]:
    return [1j for _ in texts]


async def batches(pool: poise.Pool[Scorer], functions: poise.Pool[None]) -> None:
    assert_type(await pool.run(Scorer.score, "a"), float)
    assert_type(await pool.run(Scorer.fetch, "a"), bytes)
    assert_type(await pool.run(Scorer.partly, "a"), int)
    assert_type(pool.submit(Scorer.score, "a"), poise.Call[float])
    assert_type(pool.map(Scorer.score, ["a"]), poise.Results[float])
    assert_type(pool.map(Scorer.fetch, ["a"]), poise.Results[bytes])
    assert_type(await functions.run(embed, "a"), complex)
    assert_type(await functions.run(embed_async, "a"), complex)
    assert_type(Scorer().score("a"), float)
    assert_type(await Scorer().fetch("a"), bytes)
    Scorer.score.batch(Scorer(), ["a"])
    async with pool.lease() as worker:
        assert_type(await worker.run(Scorer.score, "a"), float)
    await pool.run(Scorer.score, 1)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await pool.run(Scorer.score, ["a"])  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await pool.run(Scorer.score)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await pool.run(Scorer.score, "a", 2)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
