"""What the headers of a call say of its trace."""

from __future__ import annotations

import pytest

from poise._protocol.headers import Ids, ids_in

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("field", "ids"),
    [
        (f"00-{TRACE}-{SPAN}-01", Ids(TRACE, SPAN, is_sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", Ids(TRACE, SPAN, is_sampled=False)),
        (f"cc-{TRACE}-{SPAN}-03-what may come", Ids(TRACE, SPAN, is_sampled=True)),
        (f"00-{TRACE}-{SPAN}-011", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-01", None),
        ("", None),
    ],
)
def test_the_callers_span_is_read_as_w3c_writes_it(field: str, ids: Ids | None) -> None:
    assert ids_in({"traceparent": field}) == ids


def test_a_trace_that_is_said_otherwise_is_not_known() -> None:
    assert ids_in({}) is None
    assert ids_in({"b3": f"{TRACE}-{SPAN}-1"}) is None
