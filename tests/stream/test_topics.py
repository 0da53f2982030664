"""Topic names and their partitions."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigurationError
from stream.topics import TOPICS, Topics


def test_names_carry_the_prefix() -> None:
    topics = Topics(prefix="replay.", partitions=6)
    assert topics.name("scored") == "replay.scored"
    assert list(topics.all()) == [f"replay.{name}" for name in TOPICS]


def test_work_is_spread_and_reports_are_not() -> None:
    counts = Topics(partitions=6).all()
    assert {name for name, count in counts.items() if count == 1} == {"dead", "quality", "visits"}
    assert set(counts.values()) == {1, 6}


def test_unknown_topic_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"no topic 'alert'; choose one of visits, .*alerts"):
        Topics().name("alert")
