"""The owner of a shared pool: a Ray actor of its own that holds the pool's engine, and serves its clients.

It is found by its name. Ray lets nobody have the same name twice, so of all who would open a pool at once one does, and
the others find that one's. It belongs to none of them (a detached actor), and ends itself when nobody uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray

from poise._engine.runtime import Runtime
from poise._lanes.sockets import Sockets
from poise._protocol.memory import memory_beside
from poise._protocol.paths import add_paths
from poise._shared.calls import OwnerEngine
from poise._shared.client import Client, ClientLink
from poise._shared.marks import OwnerMarks, join_marks
from poise._shared.relay import RelayLauncher
from poise._shared.terms import Greeting, Outcome, refuse_difference, told
from poise.errors import PoolClosed
from poise.options import PoolOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from poise._protocol.crates import Crate
    from poise._protocol.functions import TypeNames
    from poise._protocol.messages import CallMessage
    from poise._shared.terms import Opening, PackedFactory
    from poise.stats import Stats

_ray: Any = ray  # its own types leave out some of what it takes and gives
_log = logging.getLogger("poise")

TELLS_FOR: Final = 0.5
"""Seconds in which those who have asked to join hear why the pool could not be opened."""
AWAITED_FOR: Final = 30.0
"""Seconds in which a client that has asked to join is connected, or is taken to have died meanwhile."""

LONGEST: Final = 3600.0
"""Seconds of `start_timeout` for which it is believed that a client which is not connected lives."""


class Owner:
    """One shared pool."""

    def __init__(self, name: str, opening: Opening) -> None:
        """Open nothing before somebody joins.

        Args:
            name: the pool's.
            opening: how to open it.
        """
        add_paths(opening.paths)
        self._name = name
        self._opening = opening
        self._settings = PoolOptions.of(opening.options)
        self._engine = OwnerEngine(self._launcher(), self._settings, Runtime())
        self._opened: asyncio.Task[None] | None = None
        self._clients: dict[str, Client] = {}
        """Those that are connected or are about to be."""
        self._doors: dict[str, asyncio.AbstractServer] = {}
        """Where clients are awaited that were told to connect. Only what is held here stays open, with uvloop."""
        self._classes: list[tuple[str, str]] = []
        self._is_closing = False
        self._joined = threading.Event()
        threading.Thread(target=self._await_anybody, name="poise-owner", daemon=True).start()

    def _launcher(self) -> RelayLauncher:
        options = self._settings
        sockets = None
        if options.lane != "freight":
            sockets = Sockets(is_required=options.lane == "express", link_timeout=options.link_timeout)
        return RelayLauncher(
            self._opening.factory,
            sockets,
            self._learn,
            self._is_batch,
            concurrency=options.concurrency,
            close_timeout=options.close_timeout,
            writable=options.writable,
            most_bytes=None if options.recycle is None else options.recycle.most_bytes,
            ray_options=options.ray_options,
        )

    def __repr__(self) -> str:
        return self._name

    def _is_batch(self, call_id: int) -> bool:
        return self._engine.is_batch(call_id)

    def _await_anybody(self) -> None:  # a thread of its own
        """End if whoever has made this has died before it could join."""
        if not self._joined.wait(AWAITED_FOR):
            end_this_actor()

    def _learn(self, classes: TypeNames) -> None:
        """A worker's instance is of these classes."""
        if news := [(module, name) for module, name in classes if (module, name) not in self._classes]:
            self._classes += news
            for client in self._clients.values():
                client.know(self._classes)

    # -----------------------------------------------------------------------------------------------------------------
    # Coming and going

    async def join(self, name: str, asked: dict[str, Any]) -> Outcome | None:
        """Let a client in.

        Args:
            name: tells it from the others.
            asked: the options that it gives for the pool.

        Returns:
            A `Greeting` once the pool is open; None if this owner is about to end.
        """
        self._joined.set()
        if self._is_closing:
            return None
        client = self._clients[name] = Client(name, self._engine, self._on_gone)
        awaited_for = AWAITED_FOR + min(self._settings.start_timeout, LONGEST)
        asyncio.get_running_loop().call_later(awaited_for, self._give_up, client)
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._engine.open())
        try:
            refuse_difference(
                self._name, asked, {**self._opening.options, "detached": self._opening.is_detached}, self._settings
            )
            await asyncio.shield(self._opened)
        except Exception as error:  # noqa: BLE001 - whatever it is the client is to know
            self._end_if_it_never_opened()
            return told(error)
        most = self._engine.dispatcher.scheduler.sizing.most
        where = os.getpid(), ray.get_runtime_context().get_node_id()
        slots, writable = self._settings.concurrency, self._settings.writable
        opened = self._opening.options, self._opening.is_detached
        return True, Greeting(*where, self._classes, slots, most, *opened, writable)

    def _end_if_it_never_opened(self) -> None:
        """Make room for another owner, which tries again, once those who have waited here are told why."""
        opened = self._opened
        if opened is not None and opened.done() and opened.exception() is not None and not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_later(TELLS_FOR, self._end_now)

    async def listen(self, name: str, path: str) -> None:
        """Let a client connect on this node, to a socket at this path, and share memory with it.

        Raises:
            OSError: the path cannot be reached from here: the client is on another file system.
        """
        client = self._clients[name]
        marks = OwnerMarks(join_marks(memory_beside(path)))
        loop = asyncio.get_running_loop()
        loop.call_later(AWAITED_FOR, self._shut_door, path)

        def enter() -> ClientLink:
            link = ClientLink(client)
            loop.call_soon(self._shut_door, path)  # not now, which uvloop does not stand
            client.use(link, marks)
            return link

        self._doors[path] = await loop.create_unix_server(enter, path)

    def _shut_door(self, path: str) -> None:
        """Let nobody in any more here: a client has come, or will not come."""
        if (door := self._doors.pop(path, None)) is not None:
            door.close()

    def _give_up(self, client: Client) -> None:
        if not client.is_connected and self._clients.get(client.name) is client:
            self._on_gone(client)

    def _on_gone(self, client: Client) -> None:
        """A client has left, or died."""
        if self._clients.get(client.name) is client:
            del self._clients[client.name]
        if not self._clients and not self._opening.is_detached:
            self._end_soon()

    async def leave(self, name: str) -> bool:
        """Let a client go; if it was the last one of a pool that is not detached, this never returns, but ends."""
        self._joined.set()
        client = self._clients.pop(name, None)
        if client is not None:
            client.cut()
            client.end()
        if not self._clients and not self._opening.is_detached:
            self._end_soon()
        if self._is_closing:
            await asyncio.Event().wait()
        return False

    def _end_soon(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._end_now()

    def _end_now(self) -> None:
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        try:
            await self._engine.aclose()
        except Exception:  # noqa: BLE001 - whatever it is, this process ends
            _log.exception("the shared pool %s could not be closed in good order", self._name)
        finally:
            end_this_actor()

    async def stop(self, drains: bool) -> None:  # noqa: FBT001 - Ray's call
        """End the pool, whoever uses it; if so told when every call that it has accepted has ended. Never returns."""
        if drains and self._opened is not None:
            with contextlib.suppress(PoolClosed):  # it never opened
                await self._engine.drain()
        self._is_closing = True
        for client in self._clients.values():
            client.tell_of_end()
        self._end_now()
        await asyncio.Event().wait()

    # -----------------------------------------------------------------------------------------------------------------
    # What Ray carries

    async def submit(self, name: str, crated: CallMessage, order: tuple[Any, ...], deposit: list[Any]) -> None:
        """Take in a call whose arguments, or whose function, no socket carries."""
        from poise._protocol.payloads import Forwarded

        client = self._clients[name]
        mark, called, terms = order
        arguments = Forwarded(b"", (), deposit)
        client.submit(crated.call_id, crated.target, arguments, crated.credit, mark, called, terms, crated.headers)

    async def collect(self, name: str, call_id: int) -> Crate | list[Any]:
        """Return an answer that no socket carries, or a reference to it."""
        return self._clients[name].collect(call_id)

    async def collect_item(self, name: str, number: int) -> Crate | list[Any]:
        """Return a stream's item likewise."""
        return self._clients[name].collect_item(number)

    # -----------------------------------------------------------------------------------------------------------------
    # What is asked beside calls

    async def ask(self, what: str, *args: Any) -> Outcome:
        """Have something done with the pool, and return what came of it."""
        engine = self._engine
        work: dict[str, Callable[..., Awaitable[Any]]] = {
            "members": partial(_members, engine),
            "until_ready": engine.until_ready,
            "resize": engine.resize,
            "replace": engine.replace,
            "reload": self._reload,
            "stacks": engine.stacks,
        }
        try:
            return True, await work[what](*args)
        except Exception as error:  # noqa: BLE001 - whatever it is the client is to know
            return told(error)

    async def _reload(self, factory: PackedFactory | None, surge: int) -> None:
        await self._engine.reload(factory, surge)
        if factory is not None:
            self._opening = self._opening._replace(factory=factory)

    async def stats(self) -> Stats:
        """What the pool is doing."""
        return self._engine.stats()

    async def describe(self) -> dict[str, Any]:
        """The fields of a `KnownPool`."""
        connected = sum(client.is_connected for client in self._clients.values())
        about = {"holds": repr(self._engine), "state": self._engine.phase, "is_detached": self._opening.is_detached}
        stats = None if self._opened is None else self._engine.stats()
        return {**about, "clients": connected, "pid": os.getpid(), "stats": stats}


async def _members(engine: OwnerEngine) -> tuple[list[int], bool]:
    """The workers that count, and whether there are none because nobody calls."""
    return await engine.members(), engine.is_asleep


def end_this_actor() -> None:
    """End this process, and give its name back to Ray."""
    with contextlib.suppress(Exception):
        _ray.kill(_ray.get_runtime_context().current_actor, no_restart=True)
    threading.Event().wait(5.0)
    os._exit(0)
