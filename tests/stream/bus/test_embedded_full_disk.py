"""The embedded bus on a disk that fills up: it says so, writes nothing by halves, and goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus

ROOT = Path(__file__).parents[3]
PIECE = 100_000  # bytes of one value

LIMITED = """
import resource, signal, sys
from pathlib import Path
from schemas.errors import UnreachableError
from stream.bus import Outgoing
from stream.bus.embedded import EmbeddedBus

path, limit = Path(sys.argv[1]), 2_000_000
bus = EmbeddedBus(path, 1.0)
bus.ensure({"in": 1, "out": 2})
bus.publish([Outgoing("in", b"k", b"%d" % n, 1) for n in range(3)])
session = bus.session("g", ["in"])
got = session.poll(3, 1.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
refused = 0
for n in range(60):
    try:
        bus.publish([Outgoing("out", b"%d" % k, b"%d " % n + bytes(100_000), 1) for k in range(4)])
    except UnreachableError as error:
        assert "see that its disk has room" in str(error), error
        refused += 1
try:
    session.commit([Outgoing("out", b"k", b"too early " + bytes(100_000), 1)] * 5, got)
    raise SystemExit("the commit went through")
except UnreachableError:
    session.rewind()
assert bus.lag("g", ["in"]) == {("in", 0): 3}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
got = session.poll(3, 1.0)
session.commit([Outgoing("out", b"k", b"in time", 1)], got)
session.close()
bus.close()
print(refused)
"""


def whole(messages: list[Message]) -> bool:
    """Tell whether every publication of four records is there as a whole or not at all."""
    tags = [message.value.split(b" ")[0] for message in messages if len(message.value) >= PIECE]
    return all(tags.count(tag) == 4 for tag in tags)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """Writes beyond a size fail with EFBIG, in the log or in its write-ahead log."""
    path = tmp_path / "bus.sqlite"
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    refused = int(child.stdout)
    bus = EmbeddedBus(path)
    out = list(bus.read("out"))
    assert 0 < refused < 60
    assert whole(out)
    assert len(out) == 4 * (60 - refused) + 1
    assert [message.value for message in out if len(message.value) < PIECE] == [b"in time"]
    assert bus.lag("g", ["in"]) == {("in", 0): 0}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room at all."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus = EmbeddedBus(small_disk / "bus.sqlite", 0.5, lock_timeout=0.5)
    bus.ensure({"in": 1, "out": 2})
    bus.publish([Outgoing("in", b"k", b"%d" % n, 1) for n in range(3)])
    session = bus.session("g", ["in"])
    got = session.poll(3, 1.0)
    ballast = fill(small_disk)
    for _ in range(3):
        with pytest.raises(UnreachableError, match="see that its disk has room"):
            bus.publish([Outgoing("out", b"%d" % n, bytes(PIECE), 1) for n in range(4)])
        with pytest.raises(UnreachableError, match="see that its disk has room"):
            session.commit([Outgoing("out", b"k", bytes(PIECE), 1)], got)
    session.rewind()
    with pytest.raises(UnreachableError, match="see that its disk has room"):
        bus.session("g", ["in"])  # it can't even join
    time.sleep(1.2)  # beats are missed; nobody can be put out of the group either
    assert list(bus.read("out")) == []
    assert [message.value for message in session.poll(3, 0.0)] == [b"0", b"1", b"2"]
    ballast.unlink()
    session.rewind()
    again = session.poll(3, 1.0)
    session.commit([Outgoing("out", b"k", b"in time", 1)], again)
    bus.publish([Outgoing("out", b"%d" % n, b"1 " + bytes(PIECE), 1) for n in range(4)])
    assert whole(list(bus.read("out")))
    assert [message.value for message in bus.read("out") if len(message.value) < PIECE] == [b"in time"]
    assert bus.lag("g", ["in"]) == {("in", 0): 0}
    session.close()
    bus.close()


def test_a_disk_that_fills_up_while_the_log_grows(small_disk: Path) -> None:
    """Publish until there is no room, make room, publish on: what was acknowledged is there, and nothing else."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    bus = EmbeddedBus(small_disk / "bus.sqlite", lock_timeout=0.5)
    bus.ensure({"out": 2})
    kept: list[bytes] = []
    for n in range(12):
        records = [Outgoing("out", b"%d" % k, b"%d " % n + bytes(PIECE), 1) for k in range(4)]
        try:
            bus.publish(records)
            kept += [record.value for record in records]
        except UnreachableError:
            if ballast.exists():
                assert sorted(message.value for message in bus.read("out")) == sorted(kept)
                ballast.unlink()
    assert not ballast.exists()
    assert 8 <= len(kept) < 48
    assert sorted(message.value for message in bus.read("out")) == sorted(kept)
    bus.close()
    assert sorted(message.value for message in EmbeddedBus(small_disk / "bus.sqlite").read("out")) == sorted(kept)
