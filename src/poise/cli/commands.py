"""What the command line takes."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Callable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("poise"), prog_name="poise")
def poise() -> None:
    """Balance for Ray actors: a pool you can await.

    \b
    poise top                                          which worker runs what, what waits, who has died
    poise doctor                                       does it work on this machine, and what to do if not?
    poise bench                                        how fast is it here, beside Ray and ProcessPoolExecutor?
    poise run mymodule:Model.predict in.jsonl -o out.jsonl
                                                       call a method for each line of a file, on a pool
    poise ls, stop NAME, drain NAME                    the pools that processes share: look at them, end one

    `poise COMMAND --help` says more about each.
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped


@poise.command()
@click.option("--no-ray", is_flag=True, help="Look only; start or join no Ray.")
def doctor(*, no_ray: bool) -> None:
    """Check that poise can work here, and say what to do where it cannot.

    Prints a line for each check: ok, warn (it works, but mind this) or fail. The exit status is 1 if any has failed.
    """
    from poise.cli.doctor import examine

    worst = "ok"
    marks = {"ok": "green", "warn": "yellow", "fail": "red"}
    for finding in examine(with_ray=not no_ray):
        click.echo(f"{click.style(f'{finding.verdict:4}', fg=marks[finding.verdict])}  {finding.name}: {finding.text}")
        if finding.remedy:
            click.echo(f"      -> {finding.remedy}")
        if finding.verdict == "fail" or worst == "ok":
            worst = finding.verdict
    click.echo({"ok": "all is well", "warn": "it works", "fail": "it does not work yet"}[worst])
    sys.exit(worst == "fail")


@poise.command()
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Workers in each pool.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 5),
    default=2.0,
    show_default=True,
    help="Seconds for each of the six measurements.",
)
def bench(workers: int, seconds: float) -> None:
    """Measure tiny calls on this machine: poise, plain Ray calls and ProcessPoolExecutor. Takes less than a minute.

    Throughput is that of many calls awaited together, latency the median of calls made one at a time. Absolute figures
    vary from run to run; the ratios hold.
    """
    from poise.cli.bench import compare

    compare(workers, seconds)


@poise.command()
@click.argument("name", required=False)
@click.option("--once", is_flag=True, help="Print one frame, of every pool unless NAME says which, and end.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each look: first all, then what has changed."
)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 60),
    default=0.25,
    show_default=True,
    help="Seconds between two looks.",
)
def top(*, name: str | None, once: bool, as_json: bool, interval: float) -> None:
    """Look at the pools of yours on this machine that were opened with watch=True, or under POISE_WATCH=1.

    NAME is what the workers hold, or a number in the list of pools, or that of a process. Keys replace a worker (r),
    show its stack (k), change the number of workers (s), drain the pool (d): what changes anything asks first.
    """
    if importlib.util.find_spec("rich") is None:
        sys.exit("poise top needs rich: pip install 'poise[cli]'")
    from poise._watch.sockets import find
    from poise.cli import top

    if not (once or as_json or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise click.UsageError("this is no terminal: use --once or --json")
    try:
        found = top.choose(find(), name)
        if once:
            top.show_once(found, as_json=as_json)
        elif as_json:
            top.stream(found[0], interval)
        else:
            click.echo(top.Top(found, interval).run(), nl=False)
    except top.Failure as failure:
        click.echo(f"poise top: {failure}", err=True)
        sys.exit(1)


@poise.command()
@click.argument("target", metavar="MODULE:FUNCTION")
@click.argument("source", metavar="[FILE]", default="-", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to stdout.")
@click.option("--size", type=click.IntRange(1), help="Workers.  [default: the CPUs that Ray offers]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds for each line.  [default: no limit]")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many more times a line may run after its worker died.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "record"]),
    default="stop",
    show_default=True,
    help='Stop at the first line that fails, or write {"error": ..., "detail": ...} for it and go on.',
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here which worker ran what and when, for https://ui.perfetto.dev",
)
@click.option("--restart", is_flag=True, help="Begin again: replace what the output file holds.")
def run(
    *,
    target: str,
    source: str,
    output: Path | None,
    size: int | None,
    timeout: float | None,
    retries: int,
    on_error: Literal["stop", "record"],
    record: Path | None,
    restart: bool,
) -> None:
    """Call a function for each line of JSON and write the results as lines of JSON, in order.

    MODULE:FUNCTION is a function (`mymodule:crunch`) or a method (`mymodule:Model.predict`), whose class is made
    without arguments, once in each worker. It is called with the value of the line. FILE, or standard input, has one
    value on each line; blank lines are skipped.

    With -o an interrupted run goes on where it stopped: run the same command again. Lines that are in the output are
    not run again, and a line that was being written when the run was killed is written anew.

    \b
    exit status   0  every line has its line in the output
                  1  stopped at an error
                  2  wrong usage
                130  interrupted
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from poise.cli.run import Failure, Feed, Order, resolve

    sys.path.insert(0, "")  # as with `python -m`: the module may be in the current directory
    try:
        factory, function = resolve(target)
        order = Order(factory, function, size, timeout, retries, on_error == "record", record)
        status = Feed(order, source, output, restarts=restart).run()
    except Failure as failure:
        click.echo(f"poise run: {failure}", err=True)
        sys.exit(failure.status)
    sys.exit(status)


_address = click.option("--address", help="Of Ray.  [default: RAY_ADDRESS, or the Ray that your programs share here]")


@poise.command()
@_address
def ls(*, address: str | None) -> None:
    """List the pools that processes share."""
    from poise.cli.shared import listing

    _try(lambda: click.echo(listing(address)))


@poise.command()
@click.argument("name")
@_address
def stop(*, name: str, address: str | None) -> None:
    """End a pool that processes share, at once and for all of them.

    What waits is refused, and what runs is given up: their callers get a PoolClosed or a WorkerLost.
    """
    from poise.cli.shared import end

    _try(lambda: end(name, address, drains=False))


@poise.command()
@click.argument("name")
@_address
def drain(*, name: str, address: str | None) -> None:
    """End a pool that processes share, when every call that it has accepted has ended.

    Meanwhile new ones are refused with a PoolClosed.
    """
    from poise.cli.shared import end

    _try(lambda: end(name, address, drains=True))


def _try(command: Callable[[], None]) -> None:
    from poise.errors import PoiseError

    try:
        command()
    except PoiseError as error:
        click.echo(f"poise: {error}", err=True)
        sys.exit(1)
