"""Everything that can be wrong with an exposure, mixed into one night of good ones; each must end in its own place.

The bad ones are visits of their own, later than the good ones, so that these must come out as if alone.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import DataError
from stream import codec
from workers.clock import event_timestamp
from workers.drill.compare import LATE, Difference, Ending, Letter
from workers.drill.frames import REFUSED, blank, other_bytes, retaken
from workers.drill.night import ASSOCIATE, PIXELS, Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding
from workers.drill.settings import SIZES
from workers.drill.victim import Plan
from workers.imaging.exposure import ExposureInfo
from workers.ingest.worker import Ingested

__all__ = ["inject"]

_PROMPT = 1.0
"""Seconds from the moment a worker takes a bad input up until it is in its place."""
_RULES = {"associate": {"deadline_s": 900.0, "reorder_s": 400.0}}
"""Neighbouring visits, five minutes apart, may be announced in the wrong order."""
_BLANK, _FATAL, _TORN, _LAST = (901, 30.0), (902, 40.0), (903, 50.0), (904, 110.0)
"""Running number, and minutes after the last good visit: pixels that say nothing; an exposure that kills its worker;
one whose second detector comes an hour late; and a good one, an hour later."""


@dataclass
class _Script:
    """The night's frames, and what is to become of them."""

    night: Night
    letters: list[Letter] = field(default_factory=list)
    outcomes: dict[str, set[str]] = field(default_factory=dict)
    """By visit:detector, of the further visits."""
    seconds: dict[str, float] = field(default_factory=dict)
    """That ingest took, by file."""
    wrong: list[str] = field(default_factory=list)
    """What ingest did otherwise."""

    def put(self, data: bytes, name: str) -> Ingested:
        """Ingest one file, and note how long that took."""
        path = self.night.survey.root / "incoming" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        begin = time.monotonic()
        (done,) = self.night.ingest([path])
        self.seconds[name] = time.monotonic() - begin
        return done

    def refused(self, outcome: str, kind: str, done: Ingested) -> None:
        """Expect the dead letter of a file that ingest refuses."""
        key = done.info.label if done.info else done.path.name
        self.letters.append(Letter("ingest", kind, "", key))
        self.expect(done, outcome)

    def expect(self, done: Ingested, outcome: str) -> None:
        """Note as an outcome where ingest itself did something else."""
        if done.outcome != outcome:
            self.wrong.append(f"{done.path.name} was {done.outcome!r} to ingest, not {outcome!r}")


def inject(stage: Stage, place: Place) -> Finding:
    """One night with one worker of each role; hard poison kills its worker, which is replaced."""
    with begun(stage.settings, stage.prepared, place, "inputs", _RULES) as night:
        script = _Script(night)
        fatal = _play(script)
        for role, plan in ((PIXELS, Plan(fatal=fatal)), (ASSOCIATE, Plan())):
            night.crew.hire(role, plan)
        night.hire(pixels=0, associate=0)
        night.finish(lambda member: Plan(fatal=fatal) if member.role.stages == PIXELS else Plan())
        deaths = sum(1 for member in night.crew.gone if member.process.exitcode == -signal.SIGSEGV)
        _repeat(script)
        ending = night.ending()
        difference = night.compared(stage.expected, script.letters, script.outcomes)
        seconds = {**script.seconds, **_seconds(night, ending)}
    _judge(script, ending, seconds, difference)
    slowest = max(seconds, key=lambda what: seconds[what])
    notes = [
        f"{deaths} workers died of the hard poison",
        f"slowest in its place: {slowest} after {seconds[slowest]:.2f} s",
    ]
    return finding("inputs", place, difference, injections=len(script.letters) + len(script.outcomes), notes=notes)


def _play(script: _Script) -> str:
    """Ingest everything; return visit:detector of the hard poison."""
    night = script.night
    frames = [night.survey.root / path for path in night.prepared.frames]
    good = {path: path.read_bytes() for path in frames[-2:]}
    first, second = good.values()
    for name, change in REFUSED.items():
        script.refused("dead letter", "DataError", script.put(change(first), name))
    _out_of_order(script, frames)
    _twice(script, frames[2])
    for topic in ("visits", "exposures", "scored"):
        night.publish(topic, f"garbage-{topic}", b"no framing at all")
        stage = PIXELS if topic == "exposures" else ASSOCIATE
        script.letters.append(Letter(stage, "SchemaError", topic, f"garbage-{topic}"))
    date = int(frames[-1].parent.name)
    failed = [_alone(script, blank(first), date, _BLANK), _alone(script, first, date, _FATAL)]
    for label, kind in zip(failed, ("DataError", "FatalInputError"), strict=True):
        script.letters.append(Letter(PIXELS, kind, "exposures", label))
    _late(script, first, second, date)
    return failed[1]


def _out_of_order(script: _Script, frames: list[Path]) -> None:
    """Announce neighbouring visits of a night in each other's place, and their detectors mixed."""
    nights: dict[int, list[Path]] = {}
    for path in frames:
        nights.setdefault(int(path.parent.name), []).append(path)
    for date, taken in nights.items():
        for start in range(0, len(taken), 4):
            for k in (3, 0, 2, 1):
                script.night.ingest(taken[start : start + 4][k : k + 1])
        if date != max(nights):
            _end_of_night(script, date)


def _end_of_night(script: _Script, date: int) -> None:
    """Nothing more is announced: let the last visits close."""
    end = SIZES[script.night.settings.size].cadence.live_mjd + 1.0
    tick = codec.encode("tick", {"night": date, "timestamp": event_timestamp(end)})
    script.night.publish("visits", str(date), tick, end)


def _twice(script: _Script, path: Path) -> None:
    """The same exposure once more, and one of other bytes, before anything was associated."""
    again = script.put(path.read_bytes(), "repeat.fits")
    script.expect(again, "announced")
    other = script.put(other_bytes(path.read_bytes()), "rewritten.fits")
    script.expect(other, "announced")
    script.letters.append(Letter(ASSOCIATE, "ConflictError", "visits", _info(other).label))


def _repeat(script: _Script) -> None:
    """Both once more when all is done: now ingest itself knows."""
    incoming = script.night.survey.root / "incoming"
    script.expect(script.put((incoming / "repeat.fits").read_bytes(), "repeat-2.fits"), "same")
    again = script.put((incoming / "rewritten.fits").read_bytes(), "rewritten-2.fits")
    script.refused("dead letter", "ConflictError", again)


def _alone(script: _Script, good: bytes, date: int, when: tuple[int, float]) -> str:
    """Ingest one detector of a further visit, which fails; the other is missing."""
    number, minutes = when
    visit = date * 10_000 + number
    info = _info(script.put(retaken(good, visit, minutes), f"visit-{number}.fits"))
    script.outcomes |= {f"{visit}:{1 - info.detector}": {"missing"}, info.label: {"failed"}}
    return info.label


def _late(script: _Script, first: bytes, second: bytes, date: int) -> None:
    """A visit whose second detector comes after an hour's silence, and what was taken meanwhile."""
    ended = {"alerts", "no_alerts"}
    torn, last = (date * 10_000 + number for number, _ in (_TORN, _LAST))
    infos = [
        _info(script.put(retaken(data, visit, minutes), f"{name}.fits"))
        for data, visit, minutes, name in (
            (first, torn, _TORN[1], "in-time"),
            (first, last, _LAST[1], "last-0"),
            (second, last, _LAST[1], "last-1"),
            (second, torn, _TORN[1], "hour-late"),
        )
    ]
    script.outcomes |= {info.label: ended for info in infos[:3]}
    script.outcomes[infos[3].label] = {outcome + LATE for outcome in ended}
    _end_of_night(script, date)


def _info(done: Ingested) -> ExposureInfo:
    if done.info is None:
        raise DataError(f"{done.path.name} was refused, which it must not be: {done.reason}")
    return done.info


def _seconds(night: Night, ending: Ending) -> dict[str, float]:
    """Return, for each dead letter of a worker, the time from taking the message up to the commit, by its own log."""
    taken, committed = {(1, "after"), (2, "before")}, (5, "after")
    found = {}
    for letter in ending.letters:
        crew = [member for member in night.crew.gone if member.role.stages == letter.stage]
        steps = [(step[:2], step[2]) for member in crew for step in member.steps()]
        begun = [when for place, when in steps if place in taken and when <= letter.failedMjdTai]
        ended = [when for place, when in steps if place == committed and when >= letter.failedMjdTai]
        if begun and ended:
            found[f"{letter.errorType} of {letter.key} at {letter.stage}"] = (min(ended) - max(begun)) * 86400.0
    return found


def _judge(script: _Script, ending: Ending, seconds: Mapping[str, float], difference: Difference) -> None:
    for label, allowed in script.outcomes.items():
        if (found := ending.outcomes.get(label, "never announced")) not in allowed:
            difference.differs(f"{label} ended as {found}, not as {' or '.join(sorted(allowed))}")
    for text in script.wrong:
        difference.differs(text)
    of_workers = [letter for letter in script.letters if letter.stage != "ingest"]
    if len(seconds) < len(script.seconds) + len(of_workers):
        difference.differs("the time until a dead letter was there could not be told for each")
    for what, slow in seconds.items():
        if slow > _PROMPT:
            difference.differs(f"{what} took {slow:.2f} s")
