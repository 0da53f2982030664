"""The embedded bus beyond the port: its file, its troubles, retention, processes and threads."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError, DeliveryError, FencedError, PositionLostError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.bus.embedded_session import EmbeddedSession

T = TypeVar("T")


def out(topic: str, *values: bytes, timestamp: int = 1000) -> list[Outgoing]:
    return [Outgoing(topic, b"k", value, timestamp + n) for n, value in enumerate(values)]


def values(messages: list[Message]) -> list[bytes]:
    return [message.value for message in messages]


def until(done: Callable[[], T]) -> T:
    """Return what `done` returns as soon as it is true."""
    deadline = time.monotonic() + 20.0
    while not (result := done()):
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.02)
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "bus.sqlite"


@pytest.fixture
def bus(path: Path) -> EmbeddedBus:
    bus = EmbeddedBus(path, session_timeout=1.0, lock_timeout=0.2)
    bus.ensure({"t": 1, "wide": 4})
    return bus


def test_everything_survives_reopening(bus: EmbeddedBus, path: Path) -> None:
    bus.publish(out("t", b"a", b"b"))
    session = bus.session("g", ["t"])
    session.commit(out("wide", b"c"), session.poll(1, 0))
    session.close()
    bus.close()
    bus.close()
    again = EmbeddedBus(path)
    assert again.topics() == {"t": 1, "wide": 4}
    assert values(list(again.read("t"))) == [b"a", b"b"]
    assert values(list(again.read("wide"))) == [b"c"]
    assert again.lag("g", ["t"]) == {("t", 0): 1}


def test_refuses_what_is_no_bus(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"SIMPLE  =                    T" * 200)
    with pytest.raises(ConfigurationError, match=r"text is damaged or no bus file: .*set bus\.path"):
        EmbeddedBus(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE dia (id INTEGER)")
    other.close()
    with pytest.raises(ConfigurationError, match=r"format 0, not a bus of format 1; set bus\.path"):
        EmbeddedBus(tmp_path / "other")


def test_says_where_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnreachableError, match=r"file/bus\.sqlite failed while opening it"):
        EmbeddedBus(tmp_path / "file" / "bus.sqlite")
    with pytest.raises(UnreachableError, match="failed while opening it: unable to open database file"):
        EmbeddedBus(tmp_path)


def test_locked_is_unreachable_and_leaves_nothing(bus: EmbeddedBus, path: Path) -> None:
    bus.publish(out("t", b"a"))
    session = bus.session("g", ["t"])
    got = session.poll(1, 0)
    intruder = sqlite3.connect(path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnreachableError, match="failed while publishing: database is locked"):
        bus.publish(out("t", b"b"))
    with pytest.raises(UnreachableError, match="committing for group 'g': database is locked; see that its disk"):
        session.commit(out("wide", b"c"), got)
    intruder.execute("ROLLBACK")
    session.rewind()
    session.commit(out("wide", b"d"), session.poll(1, 0))
    assert values(list(bus.read("t"))) + values(list(bus.read("wide"))) == [b"a", b"d"]
    session.close()
    intruder.close()


def test_full_disk_is_unreachable_and_passes(bus: EmbeddedBus) -> None:
    log = bus._log()
    log.execute(f"PRAGMA max_page_count = {log.version('page_count') + 10}")
    with pytest.raises(UnreachableError, match="publishing: database or disk is full; see that its disk has room"):
        bus.publish(out("t", b"small", bytes(200_000)))
    assert list(bus.read("t")) == []
    log.execute("PRAGMA max_page_count = 1000000")
    bus.publish(out("t", bytes(200_000)))
    assert [len(message.value) for message in bus.read("t")] == [200_000]


def test_closing_needs_no_answer(bus: EmbeddedBus, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = bus.session("g", ["t"])
    intruder = sqlite3.connect(path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    session.close()
    session.close()
    intruder.close()
    assert "left without notice" in caplog.text


def test_partitions_that_cannot_be(bus: EmbeddedBus) -> None:
    with pytest.raises(ConfigurationError, match=r"'none' .* 0 partitions and 0 are wanted"):
        bus.ensure({"fine": 1, "none": 0})
    assert "fine" not in bus.topics()


def test_commits_cannot_skip(bus: EmbeddedBus) -> None:
    bus.publish(out("t", b"a", b"b", b"c"))
    session = bus.session("g", ["t"])
    got = session.poll(3, 0)
    with pytest.raises(
        DeliveryError, match=r"skip offsets 0 to 1 of t\[0\] in group 'g'; commit messages in the order"
    ):
        session.commit([], got[2:])
    session.commit([], got)
    with pytest.raises(FencedError, match=r"position 3, consumed from 0"):
        session.commit(out("wide", b"twice"), got)
    assert list(bus.read("wide")) == []
    session.close()


def test_a_fenced_commit_forgets_what_was_polled(bus: EmbeddedBus) -> None:
    bus.publish(out("t", b"a", b"b"))
    session = bus.session("g", ["t"])
    old = session.poll(1, 0)
    session.commit([], old)
    assert values(session.poll(1, 0)) == [b"b"]
    with pytest.raises(FencedError):
        session.commit([], old)
    assert values(session.poll(1, 0)) == [b"b"]
    session.close()


def test_poll_is_fair_and_bounded(bus: EmbeddedBus) -> None:
    bus.publish([Outgoing("wide", b"%d" % n, b"%d" % n, 0) for n in range(200)])
    session = bus.session("g", ["wide"])
    seen = [message.partition for _ in range(8) for message in session.poll(5, 0)]
    assert {partition: seen.count(partition) for partition in range(4)} == dict.fromkeys(range(4), 10)
    bus.publish(out("t", *[bytes(9 << 20)] * 9))
    other = bus.session("h", ["t"])
    assert len(other.poll(100, 0)) == 8  # 72 MiB: the first beyond 64 MiB ends the poll
    assert len(other.poll(100, 0)) == 1
    session.close()
    other.close()


def test_poll_waits_for_what_comes(bus: EmbeddedBus) -> None:
    session = bus.session("g", ["t"])
    begin = time.monotonic()
    assert session.poll(1, 0.15) == []
    assert 0.14 < time.monotonic() - begin < 2.0
    timer = threading.Timer(0.1, lambda: bus.publish(out("t", b"late")))
    timer.start()
    assert values(session.poll(1, 10.0)) == [b"late"]
    timer.join()
    session.close()


def test_own_outputs_come_back(bus: EmbeddedBus) -> None:
    bus.publish(out("t", b"ping"))
    session = bus.session("g", ["t"])
    session.commit(out("t", b"pong"), session.poll(1, 0))
    assert values(session.poll(1, 0)) == [b"pong"]
    session.close()


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.integers(0, 50), max_size=40), before=st.integers(0, 60))
def test_trim_cuts_the_old_end(tmp_path_factory: pytest.TempPathFactory, times: list[int], before: int) -> None:
    bus = EmbeddedBus(tmp_path_factory.mktemp("bus") / "bus.sqlite")
    bus.ensure({"t": 1, "other": 1})
    bus.publish([Outgoing("t", b"", b"%d" % n, t) for n, t in enumerate(times)] + out("other", b"x", timestamp=0))
    young = [n for n, t in enumerate(times) if t >= before]
    first = young[0] if young else len(times)
    assert bus.trim(before, ["t"]) == first
    assert [message.offset for message in bus.read("t")] == list(range(first, len(times)))
    assert bus.lag("new", ["t", "other"]) == {("t", 0): len(times) - first, ("other", 0): 1}
    bus.publish(out("t", b"next"))
    assert list(bus.read("t"))[-1].offset == len(times)
    bus.close()


def test_trim_in_several_transactions(bus: EmbeddedBus) -> None:
    bus.publish([Outgoing("wide", b"%d" % n, b"", 5) for n in range(5000)])
    assert bus.trim(6) == 5000
    assert list(bus.read("wide")) == []
    assert bus.trim(6) == 0


def test_lost_position_says_how_much(bus: EmbeddedBus) -> None:
    bus.publish(out("t", b"a", b"b", b"c"))
    session = bus.session("g", ["t"])
    session.commit([], session.poll(1, 0))
    bus.trim(1002)
    with pytest.raises(PositionLostError, match=r"'g' stands at offset 1 of t\[0\] .* 1 were deleted unread; replay"):
        session.poll(1, 0)
    session.close()


def test_a_partition_in_work_waits_for_its_commit(bus: EmbeddedBus) -> None:
    """A newcomer gets idle partitions soon, and one that is in work only after the commit or the rewind."""
    bus.publish([Outgoing("wide", b"%d" % n, b"%d" % n, 0) for n in range(40)])
    first = bus.session("g", ["wide"])
    got = first.poll(1, 0)
    working = ("wide", got[0].partition)
    second = bus.session("g", ["wide"])
    share = until(lambda: second.assigned() if len(second.assigned()) == 2 else None)
    assert working in first.assigned()
    assert working not in share
    other = first.poll(1, 0)  # of the second partition kept
    third = bus.session("g", ["wide"])
    fourth = bus.session("g", ["wide"])
    time.sleep(0.5)
    held = {("wide", m.partition) for m in got + other}
    assert first.assigned() == held
    assert len({m.partition for m in first.poll(20, 0)}) == 1  # the other has an heir: no more work on it
    first.rewind()
    until(lambda: len(third.assigned() | fourth.assigned()) == 2 and len(first.assigned()) == 1)
    for session in (first, second, third, fourth):
        session.close()


def test_long_work_keeps_the_partition(bus: EmbeddedBus) -> None:
    bus.publish(out("t", b"a"))
    worker = bus.session("g", ["t"])
    got = worker.poll(1, 0)
    other = bus.session("g", ["t"])
    assert other.poll(1, 2.0) == []  # twice the session timeout without any call on `worker`
    worker.commit(out("wide", b"done"), got)
    assert values(list(bus.read("wide"))) == [b"done"]
    worker.close()
    other.close()


def test_threads_may_share_the_bus(bus: EmbeddedBus) -> None:
    def publish(name: int) -> None:
        for n in range(20):
            bus.publish([Outgoing("wide", b"%d" % n, b"%d %d" % (name, n), 0)])

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values(list(bus.read("wide")))) == sorted(b"%d %d" % (i, n) for i in range(4) for n in range(20))


def test_a_fork_opens_its_own_connection(bus: EmbeddedBus) -> None:
    child = os.fork()
    if child == 0:
        try:
            bus.publish(out("t", b"from the child"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    bus.publish(out("t", b"from the parent"))
    assert values(list(bus.read("t"))) == [b"from the child", b"from the parent"]


def test_a_stopped_process_is_fenced(bus: EmbeddedBus, path: Path) -> None:
    """SIGSTOP for longer than the session timeout, then SIGCONT: the late commit publishes nothing."""
    bus.publish(out("t", b"a"))
    script = (
        "import sys\n"
        "from schemas.errors import FencedError\n"
        "from stream.bus import Outgoing\n"
        "from stream.bus.embedded import EmbeddedBus\n"
        "session = EmbeddedBus(sys.argv[1], 1.0).session('g', ['t'])\n"
        "got = session.poll(1, 5.0)\n"
        "print('polled', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    session.commit([Outgoing('wide', b'', b'zombie', 0)], got)\n"
        "except FencedError as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zombie:
        assert zombie.stdin
        assert zombie.stdout
        assert zombie.stdout.readline() == "polled\n"
        zombie.send_signal(signal.SIGSTOP)
        heir = bus.session("g", ["t"])
        heir.commit(out("wide", b"heir"), until(lambda: heir.poll(1, 0.1)))
        zombie.send_signal(signal.SIGCONT)
        zombie.communicate("go\n", timeout=20)
    assert zombie.returncode == 75
    assert values(list(bus.read("wide"))) == [b"heir"]
    heir.close()


def test_the_clock_may_jump(path: Path) -> None:
    """A lease from the future (the clock was set back) counts as dead, and no member is dead for long."""
    now = [10_000.0]
    bus = EmbeddedBus(path, session_timeout=1.0, clock=lambda: now[0])
    bus.ensure({"t": 1})
    bus.publish(out("t", b"a"))
    old = bus.session("g", ["t"])
    now[0] = 5_000.0
    new = bus.session("g", ["t"])
    owners: list[EmbeddedSession] = until(lambda: [s for s in (old, new) if s.poll(1, 0.05)])
    assert len(owners) == 1
    owners[0].rewind()
    old.close()
    new.close()


def test_a_member_that_lapsed_while_another_joined_gets_its_share_back(path: Path) -> None:
    now = [0.0]
    bus = EmbeddedBus(path, session_timeout=1.0, clock=lambda: now[0])
    bus.ensure({"wide": 4})
    old = bus.session("g", ["wide"])
    now[0] = 5.0
    new = bus.session("g", ["wide"])
    assert len(new.assigned()) == 4

    def shared() -> bool:
        assert old.poll(1, 0) == new.poll(1, 0) == []
        return len(old.assigned()) == len(new.assigned()) == 2

    until(shared)
    old.close()
    new.close()
