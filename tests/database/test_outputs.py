"""Remembered outputs come back as they were, and take the room of their compressed bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.database import StoredOutput
from workers.database.outputs import pack_outputs, unpack_outputs

OUTPUTS = st.lists(
    st.builds(
        StoredOutput,
        topic=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        key=st.binary(max_size=20),
        value=st.binary(max_size=300),
        timestamp=st.integers(-(2**63), 2**63 - 1),
        headers=st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.binary(max_size=40), max_size=3
        ),
    ),
    max_size=6,
)


@given(OUTPUTS)
@settings(deadline=None)
def test_outputs_come_back(outputs):
    found = unpack_outputs(pack_outputs(outputs))
    assert found == outputs
    assert [list(one.headers) for one in found] == [list(one.headers) for one in outputs]


def test_what_repeats_is_small():
    outputs = [StoredOutput("alerts", b"1", bytes(1000), 5) for _ in range(100)]
    assert len(pack_outputs(outputs)) < 2000
