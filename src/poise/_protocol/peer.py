"""What the kernel knows of a peer: who it is, and whether it is still there."""

from __future__ import annotations

import enum
import fcntl
import math
import socket
import struct
import termios
from typing import Any, Final, NamedTuple

CALLER: Final = "caller.poise.invalid"
"""The name in the certificate of a pool's caller."""
PROBES: Final = 3
"""Unanswered probes after which an idle peer is taken to be gone."""
LOOKS: Final = 8
"""How often `LinkWatch` wants to look in the time after which a silent peer is taken to be gone."""

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_TCP_INFO_BYTES: Final = 160


def keep_alive(connection: Any, timeout: float) -> None:
    """Have the kernel end this TCP connection, while it is idle, when its peer's kernel is silent for about `timeout`.

    The probes are answered by the peer's kernel, so that a busy peer is never taken for a dead one. While there is
    something that the peer has not acknowledged, nothing is probed, and `LinkWatch` looks after the connection.
    `TCP_USER_TIMEOUT` would do so too, but it also ends a connection whose peer answers and keeps its window shut.

    Args:
        connection: the socket.
        timeout: seconds.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pause = _pause(timeout)
    for name, value in {"TCP_KEEPIDLE": pause, "TCP_KEEPINTVL": pause, "TCP_KEEPCNT": PROBES}.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _pause(timeout: float) -> int:
    """Seconds between two probes; the kernel counts in whole ones."""
    return max(1, math.floor(timeout / (PROBES + 1)))


class Standing(enum.Enum):
    """How it stands with a connection."""

    SETTLED = enum.auto()
    """The peer has acknowledged everything: keepalive looks after it now."""
    OPEN = enum.auto()
    """Something is not acknowledged; look again."""
    GONE = enum.auto()
    """The peer's kernel has been silent for too long."""


class LinkWatch:
    """Judges by what the peer's kernel says whether a TCP connection with unacknowledged data still has a peer.

    A kernel answers for a process that does not read: it acknowledges what has room, it answers the probes of a window
    that is shut, and, as `keep_alive` is set at both ends, it probes by itself for as long as it has nothing to send.
    So a segment of any kind says that the host lives and the link holds, and silence says that they do not, if

    - something is on its way that has to be answered: data, or a probe, or
    - we have read all that came: what the peer has to send cannot be held up by our own window.

    Else both windows may be shut, in which two living kernels may be silent for up to two minutes.

    Silence is counted in looks and not by the clock: whoever was held up between two looks has missed nothing by it.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        """Judge this connection after about `timeout` seconds of silence; call `look` every `interval`."""
        self._connection = connection
        self.interval = timeout / LOOKS
        """Seconds between two looks."""
        self._patience = max(LOOKS, math.ceil(_pause(timeout) * (PROBES + 1) / self.interval))
        """Silent looks after which even a peer that is not asked should have probed."""
        self._heard = -1
        self._sent = -1
        self._silent_looks = 0

    def look(self) -> Standing:
        """Ask the kernel.

        A system that does not tell (macOS) keeps to its own limit of retransmissions.
        """
        info = _segments(self._connection)
        if info is None:
            return Standing.SETTLED
        has_sent = info.data_sent != self._sent
        self._sent = info.data_sent
        if not info.is_waiting:
            self._silent_looks = 0
            self._heard = info.heard
            # What was sent since the last look may be a part of something that is still being handed to the kernel.
            return Standing.OPEN if has_sent else Standing.SETTLED
        if info.heard != self._heard:
            self._heard = info.heard
            self._silent_looks = 0
        elif info.is_asked or not _unread(self._connection):
            self._silent_looks += 1
        patience = LOOKS if info.is_on_its_way else self._patience
        return Standing.GONE if self._silent_looks >= patience else Standing.OPEN


class _Segments(NamedTuple):
    """What `struct tcp_info` of <linux/tcp.h> says of what came and went."""

    is_on_its_way: bool
    """Whether data was sent that is not acknowledged."""
    is_asked: bool
    """Whether that, or a probe, is there for the peer's kernel to answer."""
    is_waiting: bool
    """Whether there is anything that the peer has not acknowledged, sent or not."""
    heard: int
    """Segments that came from the peer, of any kind."""
    data_sent: int
    """Segments with data that went to it, again or for the first time."""


def _segments(connection: Any) -> _Segments | None:
    if _TCP_INFO is None:
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return None
    probes = info[3]
    (unacknowledged,) = struct.unpack_from("=I", info, 24)
    heard, not_sent = struct.unpack_from("=II", info, 140)
    (data_sent,) = struct.unpack_from("=I", info, 156)
    is_asked = bool(unacknowledged or probes)
    return _Segments(bool(unacknowledged), is_asked, bool(is_asked or not_sent), heard, data_sent)


def _unread(connection: Any) -> int:
    """Bytes that the kernel has received and nobody has read."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.FIONREAD, struct.pack("i", 0)))
    return int(count)


def peer_uid(connection: Any) -> int | None:
    """The user id of the process at the other end, on the kernel's word; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
