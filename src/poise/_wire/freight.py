"""The freight lane: calls as ordinary Ray calls to a host actor.

The slower of the lanes, and the one that always works: Ray carries big values through its object store and counts the
ObjectRefs that it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ray
from ray.exceptions import RayActorError, RayError

from poise._wire.answers import answer_of, end_of_ray_call
from poise._wire.codec import Packed, Payload, describe, pack_arguments, pack_in_band, unpack_exception, unpack_result
from poise._wire.death import Pulse, last_words
from poise._wire.door import Door, in_thread
from poise._wire.functions import FunctionBook
from poise._wire.lane import Answer, Kind, Listener, Origin, Parcel, StartFailed, Verdict
from poise._wire.ray_options import check_ray_options, room_for, shortage_of, unwrap_factory
from poise._wire.ray_start import RaySession
from poise._worker.host import Crate, Host, crate, uncrate
from poise.errors import PayloadError

_log = logging.getLogger("poise")

SPARE_THREADS: Final = 2
"""Freight threads of a host beyond its slots: an ended stream's last `pull` may still wait to be answered."""

DEPOSITED: Final = 100_000
"""Bytes of a pickled factory from which on it is put into Ray's object store once, and not into each start."""
