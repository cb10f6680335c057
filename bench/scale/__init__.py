"""How far one owner goes, and what lies beyond it: `python -m bench scale`.

The pool's own scheduler is simulated with 1,000 workers, 64 clients and up to a million calls that wait, at what calls
cost the processes that they pass through (`bench.scale.costs`). What a decision costs with so many waiting, and what
memory they take, is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import machine
from bench.scale import page, study


def main(arguments: list[str]) -> int:
    """Simulate, or take an earlier run; print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part of it, within a minute")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--from-json", type=Path, help="simulate nothing: report what an earlier run has written")
    parser.add_argument("--charts", type=Path, help="draw the charts into this folder")
    parser.add_argument("--docs", type=Path, help="rewrite the tables of this page, and print nothing")
    chosen = parser.parse_args(arguments)
    if chosen.from_json is None:
        size = study.QUICK if chosen.quick else study.FULL
        run = study.run(size, lambda text: print(text, file=sys.stderr, flush=True)) | {"machine": machine.describe()}
    else:
        run = json.loads(chosen.from_json.read_text())
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(run, indent=1) + "\n")
    if chosen.charts is not None:
        from bench.scale import charts

        charts.draw(run, chosen.charts)
    if chosen.docs is not None:
        chosen.docs.write_text(page.rewrite(chosen.docs, run))
    else:
        print("\n\n".join(table.plain() for table in page.tables(run)))
    return 0
