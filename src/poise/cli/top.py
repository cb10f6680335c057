"""`poise top`: the watched pools of this user on this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from poise._watch.history import SECONDS
from poise._watch.sockets import Line, Refused, find
from poise.cli.frame import DEATHS, KEYS, Scene, draw, plain
from poise.cli.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from poise._watch.picture import Picture, SecondPicture
    from poise._watch.sockets import Found

NOBODY: Final = (
    "no pool of yours is watched on this machine: open one with poise.Pool(..., watch=True), "
    "or start its program with POISE_WATCH=1"
)
ACTS_IN: Final = 310.0
"""Seconds for which what was asked for is waited for: longer than a pool does that itself."""
SPIES_IN: Final = 10.0
"""Seconds that py-spy may take."""
ROWS: Final = 15
"""Lines of a frame beside those of the workers and of deaths."""


class Failure(Exception):
    """Why there is nothing to show."""


def choose(found: list[Found], name: str | None) -> list[Found]:
    """The pools that are meant by a name, its beginning, a number in the list, or that of a process.

    Raises:
        Failure: there is none.
    """
    if not found:
        raise Failure(NOBODY)
    if name is None:
        return found
    if name.isdecimal() and 1 <= int(name) <= len(found):
        return [found[int(name) - 1]]
    chosen = [each for each in found if name in (each.name, str(each.program))]
    chosen = chosen or [each for each in found if each.name.startswith(name)]
    if not chosen:
        there_are = ", ".join(f"{number} {title(each)}" for number, each in enumerate(found, 1))
        raise Failure(f"no watched pool is {name!r}: there are {there_are}")
    return chosen


def title(found: Found) -> str:
    """A pool, for people."""
    return f"{found.name} ({found.command + ', ' if found.command else ''}pid {found.program})"


class Watch:
    """Looks at one pool again and again."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.picture: Picture | None = None
        self.seconds: deque[SecondPicture] = deque(maxlen=SECONDS)
        self.cpu: dict[int, float] = {}
        self._read: dict[int, tuple[float, float]] = {}
        """How much processor time each worker had taken, and when that was."""
        self.notice: str = ""
        """Why the picture is an old one, if it is."""
        self._line: Line | None = None

    def look(self, *, bars: bool = False) -> Picture | None:
        """Bring the picture up to date; if it cannot be had, the one before stays, and the notice says why."""
        before = self.picture
        try:
            if self._line is None:
                self._line = Line(self.found.path)
            since = 0 if before is None else before["mark"]
            picture: Picture | None = self._line.ask(do="look", since=since, bars=bars)
        except (OSError, Refused) as error:
            self.close()  # a late answer would be taken for another one's
            self.notice = str(error)
            return None
        if picture is None:
            return None
        self.notice = ""
        first = picture["seconds"][0]["at"]
        while self.seconds and self.seconds[-1]["at"] >= first:
            self.seconds.pop()
        self.seconds.extend(picture["seconds"])
        self._compare(picture)
        self.picture = picture
        return picture

    def _compare(self, picture: Picture) -> None:
        """How much processor time each worker has taken since it was read before."""
        for worker in picture["workers"]:
            cpu, at, number = worker["cpu"], worker["read"], worker["id"]
            if cpu is None or at is None:
                continue
            cpu_before, before = self._read.get(number, (cpu, at))
            if at > before:
                self.cpu[number] = (cpu - cpu_before) / (at - before)
            self._read[number] = cpu, at

    def scene(self) -> Scene | None:
        """What there is to draw."""
        if self.picture is None:
            return None
        return Scene(self.picture, self.seconds, title(self.found), self.cpu, notice=self.notice)

    def close(self) -> None:
        """Look no more, for now."""
        if self._line is not None:
            self._line.close()
            self._line = None


def show_once(found: list[Found], *, as_json: bool) -> None:
    """Print one frame of each.

    Raises:
        Failure: none of them answers.
    """
    console, shown = Console(), 0
    for each in found:
        watch = Watch(each)
        picture = watch.look(bars=as_json)
        watch.close()
        if picture is None:
            click.echo(f"{title(each)}: {watch.notice or 'it is not open yet'}", err=True)
            continue
        shown += 1
        if as_json:
            click.echo(json.dumps(picture))
        elif (scene := watch.scene()) is not None:
            scene.footer = ""
            console.print(draw(scene))
    if not shown:
        raise Failure("no pool that is watched has answered")


def stream(found: Found, interval: float) -> None:
    """Print a line of JSON for each look, until the pool has ended: first all, then what has changed."""
    watch = Watch(found)
    while True:
        if (picture := watch.look(bars=True)) is not None:
            click.echo(json.dumps(picture))
            sys.stdout.flush()
        elif found.path not in {each.path for each in find()}:
            break
        else:
            click.echo(f"{title(found)}: {watch.notice or 'it is not open yet'}", err=True)
        time.sleep(interval)
    watch.close()


class Top:
    """The live view: looks, draws, and does what keys ask for."""

    def __init__(self, found: list[Found], interval: float) -> None:
        self._pools = found
        self._interval = interval
        self._watch = Watch(found[0])
        self._chosen: int | None = None
        self._footer = ""
        """What was done, or is being done."""
        self._question = ""
        self._typed: str | None = None
        """The answer so far, if it is more than a key."""
        self._agreed: Callable[[str], None] | None = None
        """What is done if the question is answered with yes."""
        self._text = ""
        """What is to be read instead of the pool."""
        self._first = 0
        """Its first line that is shown."""
        self._ended = threading.Event()

    def run(self) -> str:
        """Show it until somebody has enough, or the pool has ended; return what is to be said then."""
        console = Console()
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while not self._ended.is_set():
                self._watch.look()
                if self._watch.picture is None or self._watch.notice:
                    paths = {each.path for each in find()}
                    if self._watch.found.path not in paths:
                        return f"the pool of {title(self._watch.found)} has ended"
                live.update(self._drawn(console.height), refresh=True)
                deadline = time.monotonic() + self._interval
                while not self._ended.is_set() and (left := deadline - time.monotonic()) > 0:
                    if (key := keys.read(left)) is not None:
                        self._press(key)
                        live.update(self._drawn(console.height), refresh=True)
        self._watch.close()
        return ""

    def _drawn(self, height: int) -> RenderableType:
        if self._text:
            lines, room = [plain(line).plain for line in self._text.splitlines()], max(1, height - 2)
            self._first = max(0, min(self._first, len(lines) - room))
            shown = [*lines[self._first : self._first + room], "", "↑↓ scroll   any other key goes back"]
            return Text("\n".join(shown), no_wrap=True, overflow="ellipsis")
        scene = self._watch.scene()
        if scene is None:
            return Text(self._watch.notice or f"{title(self._watch.found)} is not open yet")
        ids = [worker["id"] for worker in scene.picture["workers"]]
        if self._chosen not in ids:
            self._chosen = ids[0] if ids else None
        scene.chosen = self._chosen
        deaths = min(DEATHS, len(scene.picture["deaths"]))
        scene.rows = max(1, height - ROWS - deaths)
        if self._question:
            scene.footer = f"{self._question}{self._typed or ''}"
        elif self._footer:
            scene.footer = self._footer
        elif len(self._pools) > 1:
            place = self._pools.index(self._watch.found) + 1
            scene.footer = f"pool {place} of {len(self._pools)}   {KEYS}"
        return draw(scene)

    # ---------------------------------------------------------------- keys

    def _press(self, key: str) -> None:
        if self._text:
            self._scroll(key)
        elif self._agreed is not None:
            self._answer(key, self._agreed)
        elif key == "q":
            self._ended.set()
        elif key in ("up", "down"):
            self._choose(1 if key == "down" else -1)
        elif key == "tab" or (key.isdecimal() and 1 <= int(key) <= len(self._pools)):
            self._turn_to(None if key == "tab" else int(key) - 1)
        elif key == "d":
            self._ask("drain the pool: it takes no more calls, for good? (y/n) ", lambda _: self._do("drain"))
        elif key == "s":
            self._typed = ""
            self._ask("how many workers, or from-to? (Enter resizes, Esc leaves) ", self._resize)
        elif key in ("r", "k") and self._chosen is not None:
            worker = self._chosen
            if key == "k":
                self._aside(f"asking worker {worker} ...", lambda: self._stack(worker))
            else:
                self._ask(f"replace worker {worker}? (y/n) ", lambda _: self._do("replace", worker=worker))
        else:
            self._footer = ""

    def _ask(self, question: str, agreed: Callable[[str], None]) -> None:
        self._question, self._agreed = question, agreed

    def _answer(self, key: str, agreed: Callable[[str], None]) -> None:
        typed = self._typed
        if typed is not None and key == "backspace":
            self._typed = typed[:-1]
            return
        if typed is not None and (key.isdecimal() or key == "-"):
            self._typed = typed + key
            return
        self._question, self._typed, self._agreed, self._footer = "", None, None, ""
        is_agreed = key == "y" if typed is None else bool(typed) and key == "enter"
        if is_agreed:
            agreed(typed or "")

    def _scroll(self, key: str) -> None:
        if key in ("up", "down"):
            self._first += 5 if key == "down" else -5
        else:
            self._text = ""

    def _choose(self, step: int) -> None:
        picture = self._watch.picture
        ids = [] if picture is None else [worker["id"] for worker in picture["workers"]]
        if self._chosen in ids:
            self._chosen = ids[max(0, min(len(ids) - 1, ids.index(self._chosen) + step))]

    def _turn_to(self, place: int | None) -> None:
        """Show another pool: the next one if None."""
        before = self._pools.index(self._watch.found)
        found = self._pools[(before + 1) % len(self._pools) if place is None else place]
        self._watch.close()
        self._watch, self._chosen, self._footer = Watch(found), None, ""
        self._watch.look()

    # ---------------------------------------------------------------- what they do

    def _resize(self, typed: str) -> None:
        parts = typed.split("-")
        if not all(part.isdecimal() for part in parts) or len(parts) > 2:
            self._footer = f"{typed} is neither a number, such as 4, nor bounds, such as 0-16"
        else:
            self._do("resize", size=int(parts[0]) if len(parts) == 1 else [int(part) for part in parts])

    def _do(self, what: str, **details: Any) -> None:
        path = self._watch.found.path

        def act() -> None:
            with Line(path, ACTS_IN) as line:
                self._footer = str(line.ask(do=what, **details))

        self._aside(f"{what} ...", act)

    def _stack(self, worker: int) -> None:
        picture, path = self._watch.picture, self._watch.found.path
        assert picture is not None, "a worker of it was chosen"
        pid = next((each["pid"] for each in picture["workers"] if each["id"] == worker and each["is_here"]), None)
        text = None if pid is None else spied(pid)
        if text is None:
            with Line(path, ACTS_IN) as line:
                text = line.ask(do="stack", worker=worker)
        self._footer, self._first, self._text = "", 0, f"worker {worker}\n\n{text}"

    def _aside(self, meanwhile: str, act: Callable[[], None]) -> None:
        """Do what may take long on another thread: the view goes on."""
        self._footer = meanwhile

        def work() -> None:
            try:
                act()
            except (OSError, Refused) as error:
                self._footer = f"not done: {error}"

        threading.Thread(target=work, name="poise-top", daemon=True).start()


def spied(pid: int) -> str | None:
    """What py-spy sees of a process, without its help; None if it is not installed, or may not look."""
    spy = shutil.which("py-spy")
    if spy is None:
        return None
    try:
        done = subprocess.run(
            [spy, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=SPIES_IN, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    process, *threads = re.split(r"\n(?=Thread )", done.stdout)
    threads.sort(key=lambda thread: "poise/_worker/runner.py" not in thread)  # those that run calls come first
    return "\n".join([process, *threads])
