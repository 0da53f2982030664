"""Each fault on the smallest night, and nights that are wrong on purpose: the drill must fail those.

`test_whole_drill.py` has the hundred kills.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from stream.bus import Outgoing
from workers.drill.night import Night, Stage, begun
from workers.drill.outage import killed_in_the_night
from workers.drill.place import Place
from workers.drill.report import FAILED, PASSED, SKIPPED
from workers.drill.run import run_fault
from workers.drill.settings import Commands

HERE = Place()


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("kill", "embedded-sqlite"),
        ("kill", "kafka-postgresql"),
        ("zombie", "embedded-sqlite"),
        pytest.param("zombie", "kafka-postgresql", marks=pytest.mark.slow),  # test_zombie.py has one on Kafka
    ],
    indirect=["place"],
)
def test_a_fault_changes_nothing(fault: str, stage: Stage, place: Place) -> None:
    _survives(fault, stage, place)


@pytest.mark.parametrize("fault", [pytest.param("steps", marks=pytest.mark.slow), "inputs"])
def test_a_fault_changes_nothing_on_a_laptop(fault: str, stage: Stage) -> None:
    _survives(fault, stage, HERE)


def _survives(fault: str, stage: Stage, place: Place) -> None:
    found = run_fault(fault, stage, place)
    assert found.verdict == PASSED, found.notes
    assert (found.lost, found.duplicate, found.different) == (0, 0, 0)
    assert found.injections > 2


@pytest.mark.parametrize("fault", ["workers", "replay"])
def test_crews_of_any_size_and_replays_give_the_same(fault: str, stage: Stage) -> None:
    found = run_fault(fault, stage, HERE)
    assert found.verdict == PASSED, found.notes


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk")
def test_a_full_disk_changes_nothing(stage: Stage) -> None:
    found = run_fault("disk", stage, HERE)
    if any("`mount" in note for note in found.notes):
        pytest.skip("this machine lets nobody mount")
    assert (found.verdict, found.injections) == (PASSED, 3), found.notes


def test_what_needs_a_server_or_its_commands_is_skipped(stage: Stage) -> None:
    for fault in ("broker", "database"):
        for place in (HERE, Place("kafka", "postgresql")):
            found = run_fault(fault, stage, place)
            assert (found.verdict, len(found.notes)) == (SKIPPED, 1)


def spoiled(stage: Stage, tmp_path: Path, spoil) -> tuple[int, int, int]:  # type: ignore[no-untyped-def]
    """Run a night, let `spoil` change what it left, and return lost, duplicate and different."""
    elsewhere = replace(stage.settings, folder=tmp_path)
    with begun(elsewhere, stage.prepared, HERE, "spoiled") as night:
        night.ingest()
        night.hire()
        night.finish()
        spoil(night)
        difference = night.compared(stage.expected)
    assert not difference or (night.kept and night.survey.root.exists())
    return difference.lost, difference.duplicate, difference.different


def test_an_alert_published_twice_is_found(stage: Stage, tmp_path: Path) -> None:
    def spoil(night: Night) -> None:
        topic = night.topics.name("alerts")
        message = next(iter(night.bus.read(topic)))
        night.bus.publish([Outgoing(topic, message.key, message.value, message.timestamp)])

    assert spoiled(stage, tmp_path, spoil) == (0, 1, 0)


def test_an_alert_of_other_bytes_is_found(stage: Stage, tmp_path: Path) -> None:
    def spoil(night: Night) -> None:
        topic = night.topics.name("alerts")
        one, *others = list(night.bus.read(topic))
        night.bus.trim(2**62)  # type: ignore[attr-defined]
        changed = one.value[:-1] + bytes([one.value[-1] ^ 1])
        night.bus.publish([Outgoing(topic, one.key, changed, one.timestamp)])
        night.bus.publish([Outgoing(topic, other.key, other.value, other.timestamp) for other in others])

    assert spoiled(stage, tmp_path, spoil) == (0, 0, 1)


def test_lost_alerts_are_found(stage: Stage, tmp_path: Path) -> None:
    assert spoiled(stage, tmp_path, lambda night: night.bus.trim(2**62))[0] == len(stage.expected.alerts)


def test_a_command_that_fails_is_told(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="`false` ended with exit code 1"):
        killed_in_the_night("broker", stage, HERE, Commands("false", "true"))


def test_a_night_that_does_not_end_fails(stage: Stage) -> None:
    found = run_fault("workers", replace(stage, settings=replace(stage.settings, limit=0.0)), HERE)
    assert found.verdict == FAILED
    assert "has not ended after 0 s" in found.notes[0]
