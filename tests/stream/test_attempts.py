"""The journal of attempts: what kills its process is buried in the end, what is merely killed is not."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError, UnreachableError
from stream import deaths
from stream.attempts import Attempts, DeathLimits
from stream.bus import Message
from stream.deaths import PAGE, Evidence, evidence_of, killings, parse

SCRIPT = Path(__file__).with_name("poison.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _faults_go_where_they_went() -> Iterator[None]:
    before = faulthandler.is_enabled()
    yield
    assert faulthandler.is_enabled() == before


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "attempts"


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the kernel's counters."""
    path = tmp_path / "memory.events"
    path.write_text("oom 3\noom_kill 7\n")
    monkeypatch.setattr(deaths, "_counters", lambda: [path])
    return path


def message(offset: int = 5, *, topic: str = "in", value: bytes = b"value", timestamp: int = 99) -> Message:
    return Message(topic, 0, offset, b"k", value, timestamp)


def die_in(journal: Path, one: Message, group: str = "g", fault: str = "", mend: Any = lambda: None) -> None:
    """Leave what a process leaves that begins `one` and dies of a fault, or is killed."""
    attempts = Attempts(journal)
    attempts.review()
    record = attempts._record
    assert record is not None
    entry = attempts.entry(group, one)
    entry.__enter__()
    mend()
    os.pwrite(record._file, fault.encode(), PAGE)
    faulthandler.disable()
    os.close(record._file)
    os.close(record._faults)
    attempts._record = None
    record.end = lambda: None  # type: ignore[method-assign]
    faulthandler.enable(sys.__stderr__)


def names(journal: Path) -> list[str]:
    return sorted(path.suffix for path in journal.iterdir())


def test_what_is_done_leaves_nothing(journal: Path) -> None:
    attempts = Attempts(journal)
    assert not journal.exists()
    attempts.review()
    for offset in range(20):
        with attempts.entry("g", message(offset)) as fatal:
            assert fatal is None
            assert names(journal) == [".open"]
    with pytest.raises(DataError), attempts.entry("g", message()):
        raise DataError("no good")
    attempts.review()
    attempts.close()
    attempts.close()
    assert list(journal.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "limit"),
    [("Fatal Python error: Segmentation fault\n\nCurrent thread", 2), ("", 9)],
    ids=["fault", "kill"],
)
def test_limits(journal: Path, counters: Path, fault: str, limit: int) -> None:
    with_deaths = Attempts(journal)
    for count in range(limit):
        with_deaths.review()
        with with_deaths.entry("g", message()) as fatal:
            assert fatal is None, f"after {count} deaths"
        die_in(journal, message(), fault=fault)
    with_deaths.review()
    with with_deaths.entry("g", message()) as fatal:
        assert fatal is not None
        assert fatal.deaths == limit
        assert fatal.trace == fault
        assert not fatal.alone
        text = "2 by a fault (the last: Fatal Python error: Segmentation fault)" if fault else "9 unexplained"
        assert f"{limit} processes died while they worked on this message: {text}. It was not run again" in str(fatal)
    with_deaths.close()


def test_limits_can_be_set(journal: Path, counters: Path) -> None:
    die_in(journal, message(), fault="Fatal")
    for limits, buried in ((DeathLimits(), False), (DeathLimits(explained=1), True)):
        attempts = Attempts(journal, limits)
        attempts.review()
        with attempts.entry("g", message()) as fatal:
            assert (fatal is not None) == buried
        attempts.close()


def test_want_of_memory_is_told_by_the_kernels_counter(journal: Path, counters: Path) -> None:
    for count in (8, 9):
        die_in(journal, message(), mend=lambda: counters.write_text(f"oom_kill {count}\n"))  # noqa: B023
        attempts = Attempts(journal)
        attempts.review()
        assert names(journal).count(".memory") == count - 7
        attempts.close()
    attempts.review()
    with attempts.entry("g", message()) as fatal:
        assert "2 for want of memory" in str(fatal)
    attempts.close()


def test_only_the_message_in_work_is_blamed(journal: Path, counters: Path) -> None:
    for _ in range(3):
        die_in(journal, message(), fault="Fatal")
    attempts = Attempts(journal)
    attempts.review()
    others = [message(4), message(6), message(topic="other"), message(value=b"longer value"), message(timestamp=100)]
    for other in others:
        with attempts.entry("g", other) as fatal:
            assert fatal is None
    with attempts.entry("other", message()) as fatal:
        assert fatal is None
    with attempts.entry("g", message()) as fatal:
        assert fatal is not None
        assert fatal.alone  # more than the two that were needed: one died while it was buried
    attempts.close()


def test_a_commit_forgets_the_deaths_up_to_it(journal: Path, counters: Path) -> None:
    for offset in (3, 5, 6):
        die_in(journal, message(offset))
    die_in(journal, message(4, topic="other"))
    attempts = Attempts(journal)
    attempts.review()
    attempts.committed("another group", [message(9)])
    assert names(journal) == [".open"] + [".unexplained"] * 4
    attempts.committed("g", [message(5), message(4)])
    assert names(journal) == [".open"] + [".unexplained"] * 2
    attempts.review()
    attempts.committed("g", [message(6), message(4, topic="other")])
    attempts.close()
    assert names(journal) == []


def test_the_living_are_not_judged(journal: Path, counters: Path) -> None:
    """A stopped process, too, holds its lock; two processes may have one message in work."""
    zombie, heir = Attempts(journal), Attempts(journal)
    zombie.review()
    with zombie.entry("g", message()):
        heir.review()
        assert names(journal) == [".open", ".open"]
        with heir.entry("g", message()) as fatal:
            assert fatal is None
        heir.committed("g", [message()])
    heir.review()
    assert names(journal) == [".open", ".open"]
    heir.close()
    zombie.close()
    assert names(journal) == []


def test_idle_deaths_leave_nothing(journal: Path, counters: Path) -> None:
    idle = Attempts(journal)
    idle.review()
    with idle.entry("g", message()):
        pass
    assert idle._record is not None
    os.close(idle._record._file)  # what the kernel does at its death
    attempts = Attempts(journal)
    attempts.review()
    assert names(journal) == [".open"]
    attempts.close()
    os.close(idle._record._faults)


def test_old_deaths_are_forgotten(journal: Path, counters: Path) -> None:
    die_in(journal, message())
    (journal / "1-ab.new").touch()
    attempts = Attempts(journal, DeathLimits(kept=0.05))
    attempts.review()
    time.sleep(0.1)
    attempts.review()
    assert names(journal) == [".open"]
    attempts.close()


def test_many_reviewers_see_each_death_once(journal: Path, counters: Path) -> None:
    for _ in range(3):
        die_in(journal, message(), fault="Fatal")
    counts: list[int] = []

    def look() -> None:
        attempts = Attempts(journal)
        attempts.review()
        with attempts.entry("g", message()) as fatal:
            counts.append(fatal.deaths if fatal else 0)
        faulthandler.disable()

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faulthandler.enable(sys.__stderr__)
    assert counts == [3] * 8
    assert names(journal).count(".fault") == 3


def test_a_journal_out_of_reach_must_wait(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UnreachableError, match=r"journal of attempts .*file/attempts failed.*see that its disk has room"
    ):
        Attempts(tmp_path / "file" / "attempts").review()


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_torn_records_are_read(entry: bytes, trace: bytes) -> None:
    found, told = parse((b"{" + entry).ljust(PAGE, b"\0") + trace)
    assert found is None or isinstance(found, dict)
    assert len(told.splitlines()) <= 41


def test_a_long_trace_is_cut_at_its_head() -> None:
    lines = ["Fatal Python error: Bus error", *[f"line {n}" for n in range(100)], "Extension modules: many"]
    _, trace = parse(bytes(PAGE) + "\n".join(lines).encode())
    assert trace.splitlines() == [lines[0], *lines[61:101]]


def test_the_first_counter_that_can_be_read_decides(tmp_path: Path) -> None:
    group, machine = tmp_path / "group", tmp_path / "vmstat"
    group.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    machine.write_text("pgfault 5\noom_kill 4\nnuma 1\n")
    entry = {"killings": killings([group, machine, tmp_path / "none"])}
    assert entry["killings"] == [(str(group), 1), (str(machine), 4)]
    machine.write_text("oom_kill 5\n")
    assert evidence_of(entry, "") is Evidence.UNEXPLAINED  # it was another group's process
    group.unlink()
    assert evidence_of(entry, "") is Evidence.MEMORY
    assert evidence_of(entry, "Fatal Python error") is Evidence.FAULT
    machine.unlink()
    assert evidence_of(entry, "") is Evidence.UNEXPLAINED


def test_this_machines_counters_are_found() -> None:
    assert "/proc/vmstat" in [path for path, _ in killings()]
