"""One worker of the night that dies by SIGKILL: python dying.py SURVEY STAGES PLACE COUNT.

It dies the COUNT-th time that it comes to PLACE: a step of the runner (1 to 6), or `inside`, between the writes of one
database transaction.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import workers.night
from workers.database.sqlite import SqliteDatabase
from workers.night import Role, run_role
from workers.survey.config import load_survey


class Death:
    def __init__(self, place: str, count: int) -> None:
        self.place, self.left = place, count

    def __call__(self, place: object, side: str = "before") -> None:
        self.left -= side == "before" and str(place) == self.place
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, stages: str, place: str, count: str) -> None:
    death = Death(place, int(count))
    remember = SqliteDatabase.remember

    def remember_and_die(self: SqliteDatabase, *values: Any) -> None:
        remember(self, *values)
        death("inside")

    SqliteDatabase.remember = remember_and_die  # type: ignore[method-assign]
    workers.night.run = functools.partial(workers.night.run, on_step=death)  # type: ignore[assignment]
    run_role(load_survey(Path(root)), Role(stages, drain=True), threading.Event())


if __name__ == "__main__":
    main(*sys.argv[1:])
