"""That the bare owner does what it is measured by."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.scale import relay


def test_costs_are_found_again_in_samples_that_have_them() -> None:
    samples = [
        {"calls": 100, "frames": 100 * frames, "processor": 100 * (3e-6 + 2e-6 * frames)} for frames in (0.1, 1, 4)
    ]
    assert relay.fit(samples) == pytest.approx((3e-6, 2e-6))


def test_the_bare_owner_passes_a_lone_call_on_in_four_frames() -> None:
    script = "import asyncio; from bench.scale import relay; print(asyncio.run(relay.sample(1, 2, 1, 0.1, 50)).frames)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
    assert int(done.stdout) == 4 * 50
