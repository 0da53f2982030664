"""A prepared tiny survey, and nights that run on copies of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream import codec
from stream.bus import Message
from workers.calibrate.worker import make_masters
from workers.connect import open_bus, open_database, open_topics
from workers.ingest.open import open_ingest
from workers.ingest.worker import Ingested
from workers.isr.worker import calibrate_file
from workers.night import ALL, Role, run_role
from workers.records import decoded_messages
from workers.score.training import train_classifier
from workers.simulate.pipeline import write_survey
from workers.simulate.settings import TINY
from workers.survey.config import load_survey
from workers.templates.pipeline import build
from workers.templates.store import TemplateStore

REPOSITORY = Path(__file__).parents[2]
CONFIG = replace(TINY, cadence=replace(TINY.cadence, live=3))
PIXELS = ALL[0]
SEPARATE = ("isr", "subtract", "score", "associate")

Packet = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A survey folder with masters, templates and classifier; raw frames relative to it."""

    root: Path
    archive: tuple[Path, ...]
    recent: tuple[Path, ...]
    """One visit, twenty days before the live night and after the template window."""
    live: tuple[Path, ...]

    @property
    def nights(self) -> tuple[Path, ...]:
        """Frames of two nights after the window: the recent and the live one."""
        return (*self.recent, *self.live)

    def copy(self, folder: Path) -> Path:
        """Return a copy of the survey folder, to be changed."""
        return Path(shutil.copytree(self.root, folder))


def prepare(root: Path) -> Prepared:
    """Simulate a survey below `root` and do the day's work: what `skydelta demo` does before the live night."""
    files = write_survey(root, CONFIG)
    with (root / "survey.toml").open("a", encoding="utf-8") as file:
        file.write("\n[bus]\nbatch = 2\nsession_timeout_s = 3.0\n")  # how soon a killed worker's share moves
    survey = load_survey(root)
    for kind, paths in files.calibration.items():
        make_masters(kind, paths, survey)
    make_masters("defects", (), survey)
    done = [calibrate_file(str(root), path) for path in (*files.archive, *files.recent)]
    assert not [result.error for result in done if result.error]
    build(survey.archive / "calexps", TemplateStore(survey.templates), survey.config.templates)
    train_classifier(survey, [result.path for result in done[len(files.archive) :] if result.path])
    names = [tuple(path.relative_to(root) for path in part) for part in (files.archive, files.recent, files.live)]
    return Prepared(root, *names)


def environment() -> dict[str, str]:
    """Return the environment of a process of ours: it finds this tree, and may keep compiled modules."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


def ingest(root: Path, paths: Iterable[Path]) -> list[Ingested]:
    """Ingest frames, given relative to the survey folder, in one call."""
    opened = open_ingest(load_survey(root))
    try:
        return opened.files([root / path for path in paths])
    finally:
        opened.bus.close()


def drain(root: Path, roles: Sequence[str] = ALL, prefix: str = "") -> None:
    """Run workers in this process, one after the other, until all that was ingested is done."""
    survey = load_survey(root)
    for stages in roles:
        run_role(survey, Role(stages, prefix, drain=True), threading.Event())


def messages(root: Path, topic: str, prefix: str = "") -> list[tuple[Message, Packet]]:
    """Return the messages of a topic in the order of time, with their decoded records."""
    survey = load_survey(root)
    bus = open_bus(survey)
    try:
        return list(decoded_messages(bus, open_topics(survey, bus, prefix).name(topic)))
    finally:
        bus.close()


def alerts(root: Path, prefix: str = "") -> dict[int, bytes]:
    """Return the packets by alert id, as bytes; an id that is there twice is an error."""
    found = messages(root, "alerts", prefix)
    values = {packet["diaSourceId"]: message.value for message, packet in found}
    assert len(values) == len(found)
    return values


def packets_of(values: dict[int, bytes]) -> list[Packet]:
    """Decode packets, in order of alert id."""
    return [codec.decode(values[number]).record for number in sorted(values)]


def outcomes(root: Path) -> dict[str, str]:
    """Return how each announced visit and detector ended, by `visit:detector`."""
    database = open_database(load_survey(root))
    return {f"{one.visit}:{one.detector}": one.outcome for one in database.announcements()}


def dead_letters(root: Path) -> list[Packet]:
    """Return the dead letters in the order in which they were written."""
    return [letter for _, letter in sorted(messages(root, "dead"), key=lambda pair: pair[0].offset)]
