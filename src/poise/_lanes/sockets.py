"""Gives lanes their sockets.

Same node: a Unix socket in a directory that only this user can enter, and the kernel's word on who is at the other end.
Other node: TCP with mutual TLS 1.3.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from typing import TYPE_CHECKING, Any, Final

from ray.exceptions import RayError, RayTaskError

from poise._lanes.caller_link import CallerLink
from poise._lanes.lane import StartFailed
from poise._protocol.memory import make_memory, memory_beside
from poise._protocol.peer import CALLER, peer_uid
from poise._protocol.words import describe
from poise._ray.blocking import outcome_of

if TYPE_CHECKING:
    from poise._lanes.express import Express
    from poise._lanes.host_lane import HostLane
    from poise._protocol.certificates import Authority

_log = logging.getLogger("poise")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that the connection to a started worker may take before freight serves it."""

NO_TLS: Final = "TLS to other nodes needs cryptography where this program runs: pip install 'poise[tls]'"


class Unreachable(Exception):
    """The express lane cannot reach this worker; the text says why."""


class Sockets:
    """Connects the lanes of one pool."""

    def __init__(self, *, is_required: bool = False, link_timeout: float = 5.0, always_tls: bool = False) -> None:
        """Connect nothing yet.

        Args:
            is_required: whether a worker that cannot be reached so has failed to start; else freight serves it.
            link_timeout: seconds after which a dead host or a cut link between nodes is noticed.
            always_tls: whether to use TLS on this node too.
        """
        self._is_required = is_required
        self._link_timeout = link_timeout
        self._always_tls = always_tls
        self._authority: Authority | None = None
        self._reported: set[str] = set()

    async def connect(self, lane: HostLane, node: str) -> None:
        """Give the lane of a started worker its socket, or let it do without.

        Raises:
            StartFailed: the worker died meanwhile, or cannot be reached so and has to be.
        """
        express = lane.new_express()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if lane.origin.node == node and not self._always_tls:
                    await connect_unix(lane.actor.handle, express)
                else:
                    name = f"worker-{lane.worker_id}.poise.invalid"
                    await connect_tls(lane.actor.handle, express, name, self._certify(), self._link_timeout)
        except (Unreachable, OSError, TimeoutError, RayTaskError) as error:
            reason = describe(error) if not isinstance(error, Unreachable) else str(error)
            if self._is_required:
                raise StartFailed(f"the express lane cannot reach it: {reason}") from None
            if reason not in self._reported:
                self._reported.add(reason)
                _log.warning("worker %d is served by freight, which is slower: %s", lane.worker_id, reason)
        except RayError as error:
            raise StartFailed(f"the worker died while it started: {describe(error)}") from None
        else:
            lane.use(express)

    def _certify(self) -> Authority:
        if self._authority is None:
            try:
                from poise._protocol.certificates import Authority
            except ImportError:
                raise Unreachable(NO_TLS) from None
            self._authority = Authority()
        return self._authority


async def connect_unix(host: Any, express: Express) -> None:
    """Connect on this node.

    Raises:
        Unreachable: whoever listens there is not of this user.
        OSError: nobody is reached.
    """
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="poise-") as directory:  # mode 0700
        path = os.path.join(directory, "worker")
        memory = make_memory(memory_beside(path))
        await outcome_of(host.listen_unix.remote(path))
        _, link = await loop.create_unix_connection(lambda: CallerLink(express), path)
    uid = peer_uid(link.endpoint)
    if uid is not None and uid != os.geteuid():
        link.transport.abort()
        raise Unreachable(f"the worker's socket belongs to user {uid}, and this is user {os.geteuid()}")
    express.use(link, memory)


async def connect_tls(host: Any, express: Express, name: str, authority: Authority, link_timeout: float) -> None:
    """Connect to another node, to a worker that is to have this name.

    Raises:
        OSError: nobody is reached, or the peer is not of this pool.
        StartFailed: the connection was made, and has failed.
    """
    from poise._protocol.tls import tls_context

    address, port = await outcome_of(host.listen_tls.remote(tuple(authority.issue(name)), link_timeout))
    context = tls_context(authority.issue(CALLER), is_server=False)
    _, link = await asyncio.get_running_loop().create_connection(
        lambda: CallerLink(express), address, port, ssl=context, server_hostname=name, family=socket.AF_UNSPEC
    )
    try:
        link.watch(link_timeout)
    except OSError as error:  # too late for freight: a worker that has let its caller in ends with the connection
        link.transport.abort()
        raise StartFailed(f"the connection to it cannot be watched: {describe(error)}") from None
    express.use(link)
