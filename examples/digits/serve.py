"""Runs the service on a socket until it is told to stop."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from examples.digits.classifier import unseen
from examples.digits.service import create_app

if TYPE_CHECKING:
    from pathlib import Path

GRACE = 30
"""Seconds that a response may take which is under way when the service is to stop."""
INK = " ░▒▓█"

LOG = "%(asctime)s %(levelname)s %(name)s: %(message)s (worker %(worker)s, traces %(trace_ids)s)"
"""A line of the log: of the service and, by way of the pool, of its workers."""


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes a free one.

    Raises:
        OSError: it is taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError:
        taken.close()
        raise
    return taken


def serve(
    taken: socket.socket,
    *,
    workers: int,
    log_level: str = "warning",
    record: Path | None = None,
    spans: Path | None = None,
    until_stdin_ends: bool = False,
) -> int:
    """Serve on this socket until interrupted, or until standard input ends; returns the exit status."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG, defaults={"worker": "-", "trace_ids": ()}))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    if spans is not None:
        from examples.digits.traces import write_spans

        write_spans(spans)
    print(f"starting Ray and {workers} workers, each of which trains its classifier ...", flush=True)
    app = create_app(workers=workers, most=2 * workers, record=record, spans=spans)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE)
    server = _Server(config)
    if until_stdin_ends:
        threading.Thread(target=_stop_when_stdin_ends, args=[server], daemon=True).start()
    try:
        server.run([taken])
    except KeyboardInterrupt:  # uvicorn raises it again once everything is closed
        print("\nstopped", flush=True)
    return 0 if server.started else 1


def _stop_when_stdin_ends(server: uvicorn.Server) -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would be held when Python shuts down
        pass
    server.should_exit = True


class _Server(uvicorn.Server):
    """A server that says how to call it when it can be called."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            print(_welcome(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"), flush=True)


def _welcome(url: str) -> str:
    (image,), (digit,) = unseen(1)
    picture = "\n".join("    " + "".join(2 * INK[ink // 4] for ink in row) for row in image)
    body = json.dumps({"pixels": image}, separators=(",", ":"))
    return f"""
serving on {url} until Ctrl-C. Here is a scan of somebody's {digit}:

{picture}

Is it recognised? Paste this into another terminal:

  curl {url}/classify -H 'Content-Type: application/json' -d '{body}'

what the workers are doing: {url}/poise in a browser, or curl {url}/stats
metrics for Prometheus:     {url}/metrics
all of the API:             {url}/docs
"""
