"""`python -m examples.digits demo` plays the demo; `python -m examples.digits serve` runs the service."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path

from examples.digits.demo import DemoFailed, demo
from examples.digits.serve import listen, serve


def main() -> int:
    """Do what the command line says; returns the exit status."""
    options = _parser().parse_args()
    try:
        return _demo(options) if options.command == "demo" else _serve(options)
    except KeyboardInterrupt:
        print("everything is closed", file=sys.stderr)
        return 130


def _demo(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(demo(workers=options.workers, seconds=options.seconds))
    except DemoFailed as error:
        print(error, file=sys.stderr)
        return 1


def _serve(options: argparse.Namespace) -> int:
    if options.fd is not None:
        return serve(socket.socket(fileno=options.fd), workers=options.workers, until_stdin_ends=True)
    try:
        taken = listen(options.host, options.port)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}; try another --port", file=sys.stderr)
        return 1
    watched = {"log_level": options.log_level, "record": options.record, "spans": options.spans}
    return serve(taken, workers=options.workers, **watched)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits", description="Handwritten digits on a poise pool."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | serve")
    playing = commands.add_parser("demo", help="replay recorded traffic, kill a worker, report")
    playing.add_argument("--seconds", type=_seconds, default=20.0, help="how long the traffic lasts (%(default)s)")
    serving = commands.add_parser("serve", help="run the service until interrupted")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one (%(default)s)")
    serving.add_argument("--log-level", choices=["debug", "info", "warning"], default="warning")
    serving.add_argument("--record", type=_new_file, help="write down which worker ran what, for ui.perfetto.dev")
    serving.add_argument("--spans", type=_new_file, help="write the spans of traces here, a line each")
    serving.add_argument("--fd", type=int, help=argparse.SUPPRESS)  # a socket that the demo has made
    for command in (playing, serving):
        command.add_argument("--workers", type=_workers, default=2, help="workers of the pool (%(default)s)")
    return parser


def _workers(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few")
    return number


def _new_file(text: str) -> Path:
    if not (path := Path(text).absolute()).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder")
    return path


def _seconds(text: str) -> float:
    if not 1 <= (number := float(text)) <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 600")
    return number


if __name__ == "__main__":
    sys.exit(main())
