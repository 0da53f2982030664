"""A writer of the archive that kills itself at a place in its work, for the tests.

python dying.py FOLDER FIRST LAST [PLACE COUNT]: appends the alerts FIRST to LAST - 1, flushing every fourth, and dies
by SIGKILL at the COUNT-th time that it comes to PLACE: `torn` (half of the bytes are in the file), `written` (all are,
not synced), `synced`, `committed` (the index too).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.archive.packets import NIGHT, alert
from workers.archive import files
from workers.archive.index import Index
from workers.archive.store import AlertArchive


class Death:
    def __init__(self, place: str, count: int) -> None:
        self.place, self.left = place, count

    def __call__(self, place: str) -> bool:
        self.left -= place == self.place
        return place == self.place and self.left == 0


def arm(death: Death) -> None:
    pwrite, fsync, transaction = os.pwrite, os.fsync, Index.transaction

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_pwrite(handle: int, data: bytes, start: int) -> int:
        if death("torn"):
            pwrite(handle, data[: len(data) // 2], start)
            die()
        return pwrite(handle, data, start)

    def dying_fsync(handle: int) -> None:
        if death("written"):
            die()
        fsync(handle)
        if death("synced"):
            die()

    @contextmanager
    def dying_transaction(self: Index, doing: str) -> Iterator[None]:
        with transaction(self, doing):
            yield
        if death("committed"):
            die()

    files.os.pwrite, files.os.fsync = dying_pwrite, dying_fsync
    Index.transaction = dying_transaction


def main(folder: str, first: str, last: str, place: str = "never", count: str = "1") -> None:
    arm(Death(place, int(count)))
    archive = AlertArchive(Path(folder))
    for number in range(int(first), int(last)):
        archive.append(alert(number, NIGHT + number % 2, b"%d" % number * 300))
        if number % 4 == 3:
            archive.flush()
    archive.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
