"""What the kernel knows of a peer: who it is, and whether it is still there."""

from __future__ import annotations

import math
import socket
import struct
from typing import Any, Final

PROBES: Final = 3
"""Unanswered probes after which an idle peer is taken to be gone."""


def keep_alive(connection: Any, timeout: float) -> None:
    """Have the kernel end this TCP connection when its peer's kernel has not answered for about `timeout` seconds.

    Sent bytes that are not acknowledged are covered by `TCP_USER_TIMEOUT` (RFC 5482), an idle connection by keepalive
    probes; both are answered by the peer's kernel, so that a busy peer is never taken for a dead one.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pause = max(1, math.floor(timeout / (PROBES + 1)))
    options = {
        "TCP_USER_TIMEOUT": max(1, round(timeout * 1000)),
        "TCP_KEEPIDLE": pause,
        "TCP_KEEPINTVL": pause,
        "TCP_KEEPCNT": PROBES,
    }
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def peer_uid(connection: Any) -> int | None:
    """The user id of the process at the other end, on the kernel's word; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
