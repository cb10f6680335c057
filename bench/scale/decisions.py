"""What a decision takes of the processor, as JSON: `python -m bench.scale.decisions WAITING WORKERS DECISIONS`.

Unlike P5 it counts processor time, so that it can be told on a machine that is busy with other things too.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

from bench.core_cost import Model


def measure(waiting: int, workers: int, decisions: int) -> dict[str, Any]:
    """Five times so many decisions, with so many calls that wait for so many workers."""
    model = Model(workers, sends_ahead=True)
    model.fill(waiting)
    gc.collect()
    model.decisions(decisions // 4)
    seconds: list[float] = []
    for _ in range(5):
        began = time.process_time()
        model.decisions(decisions)
        seconds.append((time.process_time() - began) / decisions)
    return {"waiting": waiting, "workers": workers, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
    sys.stdout.flush()
    os._exit(0)  # giving up a million objects one by one takes seconds
