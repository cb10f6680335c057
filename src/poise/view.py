"""A view of a pool: the calls that users make, with the options they make them with; and a leased worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from poise._engine.call import most_together, name_of, results_of
from poise._engine.mapping import Results
from poise._engine.stream import Stream
from poise.errors import ConfigError
from poise.maps import Maps
from poise.options import CallOptions, MapOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
    from typing import TypeAlias, Unpack

    from poise._engine.call import Call
    from poise._engine.engine import Engine
    from poise._engine.mapping import Bar
    from poise._engine.stream import StreamBuffer
    from poise.options import CallArguments
    from poise.stats import Stats

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

if TYPE_CHECKING:
    Async: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
    """A coroutine function."""

STREAM_WINDOW = 16
"""Items by which a producer may be ahead of its consumer."""


class View(Maps[T]):
    """A way to call a pool's workers with certain options. `T` is what each worker holds, None if it holds nothing.

    In `submit`, `run`, `map`, `stream` and `broadcast` the function is a method of `T` (`Model.predict`), a method's
    name as `str`, or any function whose first parameter takes the worker's instance. In a pool without a factory it is
    any function at all. Functions and arguments are pickled, lambdas and functions of `__main__` by value: a function
    when it is first sent, arguments when their call is sent, so change neither before the call has ended.
    """

    __slots__ = ("_engine", "_lease", "_options")

    def __init__(self, engine: Engine, options: CallOptions, lease: Call[Any] | None = None) -> None:
        """Made by `Pool.options` and `Pool.lease`; not for users."""
        self._engine = engine
        self._options = options
        self._lease = lease

    # ---------------------------------------------------------------- one call

    @overload
    def submit(self: View[None], fn: Async[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, fn: Async[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> Call[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Hand in a call and get its future at once; never blocks.

        Args:
            fn: a method of the workers' class, its name, or a function of the instance (see the class).
            args: positional arguments for it.
            kwargs: keyword arguments for it.

        Returns:
            A future: await it, gather it, cancel it. It ends with the result, with the exception that the function
            raised (its `__cause__` holds the remote traceback), or with one of the `PoiseError` that `run` lists.

        Raises:
            Overloaded: the backlog is full; the call was not accepted.
            PoolClosed: the pool is not open.
            PoolBroken: no worker can start.
            DeadlineExceeded: the view's `deadline` has passed already.
            LeaseExpired: the worker that it was leased is not this caller's any more.
            WrongLoop: called from another loop or thread than the pool's own.
            ConfigError: `fn` is nothing that can be called.
        """
        return self._submit(fn, args, kwargs)

    @overload
    async def run(self: View[None], fn: Async[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: Async[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, fn: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def run(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on whichever worker is free, waiting for room and then for the result.

        Cancelling it answers the caller at once. A call that has not begun never runs then; one that runs keeps its
        worker's slot until it ends there (a coroutine on the worker is cancelled), or the worker with `kill_on_cancel`.

        Args:
            fn: a method of the workers' class, its name, or a function of the instance (see the class).
            args: positional arguments for it.
            kwargs: keyword arguments for it.

        Returns:
            What the function returned.

        Raises:
            DeadlineExceeded: the view's `timeout` has passed.
            WorkerLost: the worker died with the call on it; PoisonCall if that happened again and again.
            PayloadError: an argument or the result could not be pickled.
            RemoteError: the function raised what cannot travel as itself.
            PoolClosed: the pool is not open, or was closed before the call began.
            PoolBroken: no worker can start.
            WrongLoop: called from another loop or thread than the pool's own.
        """
        call = self._submit(fn, args, kwargs, may_park=True)
        try:
            return await call
        except asyncio.CancelledError:
            call.drop()  # it may have failed at the very moment of the cancellation
            raise
        finally:
            del call  # an error that is raised here must not hold the call that holds it

    # ---------------------------------------------------------------- many calls

    @overload
    def stream(
        self: View[None],
        fn: Callable[P, Iterable[R] | AsyncIterable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[R]: ...
    @overload
    def stream(
        self,
        fn: Callable[Concatenate[T, P], Iterable[R] | AsyncIterable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[R]: ...
    @overload
    def stream(self, fn: str, /, *args: Any, **kwargs: Any) -> Stream[Any]: ...
    def stream(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Call a generator, or an async generator, and get its items as they come.

        The call is submitted, and waits for room, at the first item. The producer is at most 16 items ahead of the
        consumer. Breaking out of the loop stops it and frees its slot. An exception in the producer comes after
        the items before it.

        Raises:
            PoiseError: and the function's own exceptions, as `run` says, from the iteration.
        """
        return Stream(lambda buffer: self._submit(fn, args, kwargs, may_park=True, stream=buffer), STREAM_WINDOW)

    @overload
    async def broadcast(self: View[None], fn: Async[P, R], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    async def broadcast(self: View[None], fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    async def broadcast(self, fn: Async[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    async def broadcast(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    async def broadcast(self, fn: str, /, *args: Any, **kwargs: Any) -> list[Any]: ...
    async def broadcast(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a function once on every worker, those that are still starting among them.

        Each worker runs it at its next free slot, before what waits in the backlog. If it dies before, its
        replacement runs it; a worker that is started for another reason begins from the factory and does not. In an
        elastic pool that sleeps there is none to run it.

        Returns:
            The results, one for each worker.

        Raises:
            Exception: the first failure, after all have ended, with a note that counts the failures; as `run` says.
        """
        options = self._options.but(retries=0, retry_on=())
        members: list[int | None] = [*await self._engine.members()] if self._lease is None else []
        if not members and self._lease is None and self._engine.is_asleep:
            return []
        calls: list[Call[Any]] = []
        try:
            for member in members or [None]:  # without any, an ordinary call is refused with the reason
                calls.append(self._submit(fn, args, kwargs, may_park=True, options=options, worker_id=member))  # noqa: PERF401
            await asyncio.wait(calls)
            return results_of(calls)
        finally:
            while calls:  # an error that is raised here must not hold the call that holds it
                calls.pop().drop()

    # ---------------------------------------------------------------- views and leases

    def options(self, **changes: Unpack[CallArguments]) -> View[T]:
        """A view of the same pool whose calls have these options; those not given stay as they are.

        Args:
            timeout (None): seconds for waiting and running together; None waits for ever.
            deadline (None): a moment at which all calls of the view expire, for example the end of what a caller
                further up has granted, in seconds of `asyncio.get_running_loop().time()` (or of the pool's own clock,
                where a test has given it one). The earlier of it and `timeout` counts.
            priority (0): higher starts first; equal ones start in the order of submission, those of several tenants in
                turn.
            tenant (None): for whom the calls are made: a customer, a job, anything that can be a key of a dict. Within
                one priority tenants that wait share the workers by the time that their calls take, not by their number.
            weight (1): the tenant's part beside the others', from now on.
            key (None): what the calls are about, as text, a number or bytes: a session, a user, a model. They prefer
                the worker that served this key last, for what it has kept of that.
            patience (0.0): seconds that a call with a key may wait, in all, for that worker when its turn has come and
                another is free. 0 takes another at once; `math.inf` waits for as long as that worker works. It is given
                with the key or after it; one that is None at times may be given with it.
            retries (0): how many more times a call may run after its worker died, or after an exception in `retry_on`.
                Only for what may safely run twice. It does not go back to a worker where it has failed while another
                works that could take it, for up to 30 s.
            retry_on (()): exception classes after which a call is run again.
            retry_delay (0.1): seconds, at most, of the pause before the second attempt. It doubles with each further
                one, up to 30 s, and a random part of it is waited, so that calls which failed together do not come
                back together. 0 is no pause.
            kill_on_cancel (False): whether cancelling a call that runs (by `cancel`, `wait_for`, or leaving a `map` or
                a `stream`) ends its worker, which is replaced: a plain function's at once; coroutines, streams and what
                is given by name are told to stop, and have the pool's `kill_after` seconds for it. See `Call.kill`.

        Raises:
            ConfigError: an option is outside its range.
        """
        return self._with(self._options.but(**changes))

    @asynccontextmanager
    async def lease(self, *, timeout: float | None = None) -> AsyncGenerator[Worker[T]]:
        """Take a whole worker for a while: nobody else's call runs on it until the block ends.

        Calls of the lease that have not begun when the block ends are refused; one that runs keeps the worker busy
        until it ends.

        Args:
            timeout: seconds to wait for a worker; None waits for ever. It says nothing about the calls of the lease.

        Yields:
            The worker, with `submit`, `run`, `map`, `stream` and `options` of its own.

        Raises:
            DeadlineExceeded: no worker was free in time.
            LeaseExpired: from calls on the worker after it has died, or after the block.
        """
        if self._lease is not None:
            raise ConfigError("lease", self, "a worker that is leased already cannot be leased again")
        options = self._options.but(timeout=timeout, retries=0, retry_on=(), kill_on_cancel=False)
        call = self._submit("lease", (), {}, may_park=True, is_lease=True, options=options)
        try:
            worker_id: int = await call
            yield Worker(self._engine, self._options, call, worker_id)
        finally:
            self._engine.release(call)
            del call  # as in `run`

    # ---------------------------------------------------------------- looking

    def stats(self) -> Stats:
        """What the pool is doing now: a frozen snapshot whose numbers add up, from any thread.

        From another thread than the loop's own it waits for the loop, which takes the snapshot between two steps; up to
        5 s if that is busy.

        Raises:
            PoolClosed: the pool was never opened.
            LoopBlocked: something has blocked the pool's loop for 5 s.
        """
        return self._engine.stats()

    def __repr__(self) -> str:
        """Give the options that are not as they are by default."""
        default = CallOptions()
        changed = [
            f"{name}={value!r}"
            for name in CallOptions.__slots__
            if (value := getattr(self._options, name)) != getattr(default, name)
        ]
        return f"<View of a pool, {', '.join(changed) or 'no options'}>"

    # ---------------------------------------------------------------- inside

    def _with(self, options: CallOptions) -> View[T]:
        """What `options` gives; a view that does more has more to hand on."""
        return View(self._engine, options, self._lease)

    def _submit(
        self,
        fn: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        may_park: bool = False,
        options: CallOptions | None = None,
        stream: StreamBuffer | None = None,
        worker_id: int | None = None,
        is_lease: bool = False,
        may_begin: Callable[[], bool] | None = None,
    ) -> Call[Any]:
        return self._engine.submit(
            fn,
            args,
            kwargs,
            self._options if options is None else options,
            may_park=may_park,
            stream=stream,
            lease=self._lease,
            is_lease=is_lease,
            worker_id=worker_id,
            may_begin=may_begin,
        )

    def _map(
        self,
        fn: Callable[..., Any] | str,
        items: Iterable[Any] | AsyncIterable[Any],
        options: MapOptions,
        *,
        is_ordered: bool,
    ) -> Results[Any]:
        slots = self._engine.slots(self._lease)
        bar: Bar | None = None
        if options.progress:
            from poise.progress import ProgressBar

            bar = ProgressBar(items, name_of(fn))
        return Results(
            lambda item: self._submit(fn, (item,), {}, may_park=True),
            items,
            options.buffersize or 2 * slots * most_together(fn),
            is_ordered=is_ordered,
            on_error=options.on_error,
            bar=bar,
        )


class Worker(View[T]):
    """A worker that is leased: calls on it run there and nowhere else."""

    __slots__ = ("id",)

    def __init__(self, engine: Engine, options: CallOptions, lease: Call[Any], worker_id: int) -> None:
        """Made by `Pool.lease`; not for users."""
        super().__init__(engine, options, lease)
        self.id: int = worker_id
        """The worker's number in the pool."""

    def __repr__(self) -> str:
        """Give the worker's number and whether the lease holds."""
        assert self._lease is not None
        return f"<Worker {self.id} {'leased' if self._engine.is_held(self._lease) else 'lease ended'}>"


def engine_of(view: View[Any]) -> Engine:
    """What stands behind a pool or a view, for poise's other faces."""
    return view._engine  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] # the class is this module's own
