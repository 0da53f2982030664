"""The only loop that consumes, processes, publishes and commits.

Every worker runs here, on every bus. One turn of the loop is one transaction; its steps are numbered in the code:

1. poll a batch of messages;
2. process each; transient errors are tried again, at once and then after pauses;
3. a message that can't be processed becomes a dead letter, with the outcome that the worker gives it;
4. commit outputs, dead letters and positions: all or nothing;
5. count.

Whatever happens between two steps, up to the death of the process, the messages since the last commit are given
again, to this worker or to another, and nothing of the first try was published.

A worker that was fenced (its process slept, say) has published nothing; it joins its group again and goes on.
Fenced `Retry.fenced` times in a row it stops with FencedError: its batches take longer than the bus allows.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import DataError, DeliveryError, FencedError, SkydeltaError, TransientError
from stream.bus import Bus, Message, Outgoing, Session
from stream.dead_letters import DeadLetters, Failure
from stream.retry import Retry, RunReport
from stream.telemetry import fields

__all__ = ["Retry", "RunReport", "Worker", "run"]

_POLL = 0.25  # s; how soon a stop is noticed while nothing arrives
_BEAT = 1.0  # s between signs of life during a pause
_log = logging.getLogger(__name__)


class Worker(Protocol):
    """One stage, or several fused, as the runner sees them."""

    @property
    def name(self) -> str:
        """Stage name, for dead letters and the log."""

    @property
    def inputs(self) -> Sequence[str]:
        """Full names of the topics to read."""

    def process(self, message: Message) -> Sequence[Outgoing]:
        """Return what one message leads to.

        Called again for the same message after a crash or a transient error: what it does elsewhere must be
        harmless to repeat. TransientError is tried again; any other error makes a dead letter.
        """

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        """Return what goes out beside the dead letter of `message`: the outcome that closes its visit.

        `failure` is "stage: type of the error: its text".
        """


def run(
    worker: Worker,
    bus: Bus,
    *,
    group: str,
    dead_letters: DeadLetters,
    batch: int = 8,
    stop: threading.Event | None = None,
    idle_exit: float | None = None,
    retry: Retry | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> RunReport:
    """Run `worker` as a member of `group` until `stop` is set, or nothing came for `idle_exit` seconds.

    A stop lets the message in work end, and commits what is done. `batch` is the most messages of a transaction;
    `on_step` is called before each numbered step. Raises DeliveryError where messages were lost by retention or
    this worker is fenced again and again, ConfigurationError where a topic does not exist; nothing of the batch in
    work is then committed.
    """
    session = bus.session(group, worker.inputs)
    try:
        loop = _Loop(worker, session, dead_letters, stop or threading.Event(), retry or Retry(), idle_exit, on_step)
        loop.run(batch)
    finally:
        session.close()
    _log.info("%s stopped", worker.name, extra=fields(group=group, **vars(loop.report)))
    return loop.report


@dataclass
class _Batch:
    """What one transaction will hold."""

    consumed: list[Message] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    letters: int = 0
    trouble: TransientError | None = None
    """Why the next message must wait."""


@dataclass
class _Loop:
    """State of one run from one transaction to the next."""

    worker: Worker
    session: Session
    dead_letters: DeadLetters
    stop: threading.Event
    retry: Retry
    idle_exit: float | None
    on_step: Callable[[int], None]
    report: RunReport = field(default_factory=RunReport)
    rewind_due: bool = False
    resume: float = 0.0
    """End of the pause, on the monotonic clock."""
    troubles: int = 0
    """Pauses since the last commit."""
    fenced: int = 0
    """Times fenced since the last commit."""
    single: int = 0
    """Messages that go one by one: the bus refused the data of one of them, and it must be found."""

    def run(self, batch: int) -> None:
        busy = time.monotonic()
        while not self.stop.is_set():
            try:
                self._wait()
                if self._transact(1 if self.single else batch):
                    busy = time.monotonic()
                elif self.idle_exit is not None and time.monotonic() - busy >= self.idle_exit:
                    return
            except TransientError as error:
                busy = self._pause(error)
            except FencedError as error:
                self._rejoin(error)

    def _transact(self, limit: int) -> bool:
        """Take one batch through all steps; return False where there was none."""
        # 1. Poll. Until step 4 the messages are kept nowhere else: a crash costs time, and nothing more.
        self.on_step(1)
        with self._timed("poll"):
            messages = self.session.poll(limit, _POLL if self.idle_exit is None else min(_POLL, self.idle_exit))
        if not messages:
            return False
        batch = self._process(messages)
        if batch.consumed:
            # 4. Commit outputs, dead letters and positions, all or nothing.
            self.on_step(4)
            with self._timed("commit"):
                committed = self._commit(batch)
            # 5. Count. The outputs are out: a crash from here on repeats nothing.
            self.on_step(5)
            if committed:
                self._count(batch)
        if batch.trouble:
            raise batch.trouble
        return True

    def _process(self, messages: Sequence[Message]) -> _Batch:
        """Process in order, up to a stop or to a message that must wait: those before it are committed first."""
        batch = _Batch()
        for message in messages:
            if self.stop.is_set():
                self.rewind_due = True
                break
            self.session.keep_alive()
            try:
                with self._timed("process"):
                    self._settle(message, batch)
            except TransientError as error:
                batch.trouble = error
                break
        return batch

    def _settle(self, message: Message, batch: _Batch) -> None:
        """Add to `batch` what `message` leads to; raises TransientError where that must wait."""
        # 2. Process the message. A short trouble (a lock, a lost connection) is over at the second or third try.
        wait = self.retry.wait
        for attempt in range(1, self.retry.tries + 1):
            self.on_step(2)
            result = _caught(lambda: self.worker.process(message))
            if not isinstance(result, TransientError):
                break
            if attempt == self.retry.tries:
                raise result
            self.report.retries += 1
            self.stop.wait(wait)
            wait = min(wait * self.retry.growth, self.retry.longest_wait)
        if isinstance(result, Exception):
            result = self._bury(message, result, attempt)
            batch.letters += 1
        batch.outgoing += result
        batch.consumed.append(message)

    def _bury(self, message: Message, error: Exception, attempts: int) -> list[Outgoing]:
        """Return the dead letter of `message` and the outcome that the worker gives it."""
        # 3. The message can't be processed, now or ever: keep it with its cause, and let the stream go on.
        self.on_step(3)
        foreseen = isinstance(error, SkydeltaError)
        trace = None if foreseen else "".join(traceback.format_exception(error))
        text = str(error) or repr(error)
        failure = Failure(self.worker.name, type(error).__name__, text, attempts, trace)
        place = fields(topic=message.topic, partition=message.partition, offset=message.offset)
        _log.error("dead letter: %s", failure, extra=place, exc_info=None if foreseen else error)
        letter = self.dead_letters.write(message, failure)
        outcome = _caught(lambda: self.worker.failed(message, str(failure)))
        if isinstance(outcome, TransientError):
            raise outcome
        if isinstance(outcome, Exception):
            _log.error("%s gave no outcome either", self.worker.name, extra=place, exc_info=outcome)
            outcome = []
        return [letter, *outcome]

    def _commit(self, batch: _Batch) -> bool:
        """Commit; where the bus refuses the data, return False to find the message, or bury the only one."""
        try:
            self.session.commit(batch.outgoing, batch.consumed)
        except DataError as error:
            if len(batch.consumed) > 1:
                self.single = len(batch.consumed)
                self.rewind_due = True
                return False
            batch.outgoing = self._bury(batch.consumed[0], error, 1)
            batch.letters = 1
            self.session.commit(batch.outgoing, batch.consumed)
        return True

    def _count(self, batch: _Batch) -> None:
        self.report.messages += len(batch.consumed)
        self.report.outputs += len(batch.outgoing)
        self.report.dead_letters += batch.letters
        self.report.transactions += 1
        self.troubles = self.fenced = 0
        self.single = max(0, self.single - len(batch.consumed))

    def _pause(self, error: TransientError) -> float:
        """Plan a pause, twice as long as the last, and return its end; nothing is dropped, the order stays."""
        pause = min(self.retry.pause * 2.0**self.troubles, self.retry.longest_pause)
        self.troubles += 1
        self.report.pauses += 1
        self.rewind_due = True
        self.resume = time.monotonic() + pause
        _log.warning("%s pauses %.1f s: %s", self.worker.name, pause, error)
        return self.resume

    def _rejoin(self, error: FencedError) -> None:
        self.fenced += 1
        self.report.fenced += 1
        if self.fenced >= self.retry.fenced:
            raise error
        self.rewind_due = True
        _log.warning("%s was fenced and joins again: %s", self.worker.name, error)

    def _wait(self) -> None:
        """Sit a pause out, alive to the group, and go back to the committed positions where that is due."""
        if self.rewind_due:
            self.session.rewind()
            self.rewind_due = False
        with self._timed("pause"):
            while (left := self.resume - time.monotonic()) > 0 and not self.stop.wait(min(left, _BEAT)):
                self.session.keep_alive()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.report.seconds[stage] += time.monotonic() - begin


def _caught(call: Callable[[], Sequence[Outgoing]]) -> Sequence[Outgoing] | Exception:
    """Return what `call` returns or raises; only DeliveryError, which must stop the worker, goes through."""
    try:
        return call()
    except DeliveryError:
        raise
    except Exception as error:  # the one place: a worker's bug must cost one message, not the night
        return error
