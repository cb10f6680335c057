"""The command line: `python -m bench` measures; with one of `ALONE` it does that alone."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import calls, core_cost, machine, payloads, replay, report, startup, utilisation
from bench.session import Absent, Session

if TYPE_CHECKING:
    from bench.targets import Finding

Measure = Callable[[Session], Awaitable[dict[str, Any]]]

ALONE: Final = ("affinity", "batching", "elastic", "observing", "policies", "scale", "scaling", "shared", "soak")
"""What is measured by itself: each is a module here."""
PARTS: Final = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8")


def main() -> int:
    """Run what the arguments ask for."""
    if sys.argv[1:2] and sys.argv[1] in ALONE:
        # Imported by name, because one of them needs scikit-learn.
        alone = importlib.import_module(f"bench.{sys.argv[1]}")
        status: int = alone.main(sys.argv[2:])
        return status
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, within 3 minutes")
    parser.add_argument("--only", type=_parts, default=set(PARTS), help="some parts: P1,P4")
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    parser.add_argument("--charts", type=Path, help="draw the charts into this folder")
    parser.add_argument("--docs", type=Path, help="rewrite the generated section of this page (needs --charts)")
    parser.add_argument("--from-json", type=Path, help="measure nothing: report what an earlier run has written")
    chosen = parser.parse_args()
    run = json.loads(chosen.from_json.read_text()) if chosen.from_json else measure(chosen)
    report.show(run)
    if chosen.json and not chosen.from_json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(run, indent=1) + "\n")
    names: list[str] = []
    if chosen.charts:
        try:
            from bench import charts

            names = charts.draw(run, chosen.charts)
        except ImportError as error:
            print(f"no charts: {error}", file=sys.stderr)
    if chosen.docs:
        report.rewrite(chosen.docs, report.generated_section(run, names))
    return 1 if run["failed"] else 0


def _parts(text: str) -> set[str]:
    parts = {part.strip().upper() for part in text.split(",")}
    if unknown := parts - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return parts


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were chosen; everything that is started is ended, also after an interrupt."""
    session = Session(quick=chosen.quick)
    command = ["python -m bench", *sys.argv[1:]]
    run: dict[str, Any] = {
        "command": "make bench" if chosen.docs else " ".join(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": chosen.quick,
        "machine": machine.describe(),
        "results": {},
        "findings": [],
        "failed": [],
    }
    began = time.monotonic()
    try:
        for name, needs, measure_part, find in _plan(chosen.charts):
            if needs & chosen.only:
                asyncio.run(_measure_part(session, run, name, measure_part, find, needs & chosen.only))
    finally:
        session.close()
    run["findings"].sort(key=lambda finding: finding["part"])
    run["troubles"] = session.troubles
    run["seconds"] = round(time.monotonic() - began)
    # Keys are text from here on, as in a run that was read from a file.
    copied: dict[str, Any] = json.loads(json.dumps(run))
    return copied


def _plan(
    folder: Path | None,
) -> list[tuple[str, set[str], Measure, Callable[[dict[str, Any]], list[Finding]]]]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return [
        ("P5", {"P5"}, core_cost.measure, core_cost.findings),
        ("P7", {"P7"}, calls.measure_freight, calls.freight_findings),
        ("calls", {"P1", "P2"}, calls.measure, calls.findings),
        ("P3", {"P3"}, utilisation.measure, utilisation.findings),
        ("P4", {"P4"}, partial(replay.measure, folder=folder), replay.findings),
        ("P6", {"P6"}, payloads.measure, payloads.findings),
        ("P8", {"P8"}, startup.measure, startup.findings),
    ]


async def _measure_part(
    session: Session,
    run: dict[str, Any],
    name: str,
    measure_part: Measure,
    find: Callable[[dict[str, Any]], list[Finding]],
    parts: set[str],
) -> None:
    try:
        result = await measure_part(session)
    except Absent:
        return
    except Exception as error:  # noqa: BLE001 - the figures of the other parts are not to be lost for it
        traceback.print_exc()
        session.trouble(name, f"failed: {type(error).__name__}: {error}")
        run["failed"].append(name)
        return
    run["results"][name] = result
    run["findings"] += [finding.as_dict() for finding in find(result) if finding.part in parts]


if __name__ == "__main__":
    sys.exit(main())
