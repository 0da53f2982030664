"""The only loop that consumes, processes, publishes and commits.

Every worker runs here, on every bus. One turn of the loop is one transaction; its steps are numbered in the code:

1. poll a batch of messages;
2. process each; transient errors are tried again, at once and then after pauses;
3. bury a message that can't be processed: it becomes a dead letter, with the outcome that the worker gives it;
4. flush: the worker makes durable what it wrote elsewhere;
5. commit outputs, dead letters and positions: all or nothing;
6. count.

Whatever happens between two steps, up to the death of the process, the messages since the last commit are given
again, to this worker or to another, and nothing of the first try was published. A message in which processes died is
known by the journal of attempts: it is buried without being processed once more.

A worker that was fenced (a partition moved away from it) has published nothing; it joins its group again and goes on.
Fenced `Retry.fenced` times in a row it stops with FencedError: its batches take longer than the bus allows. One that
its group declared dead while it worked (its process was stopped, say) ends with ExpiredError, to be started again.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

from schemas.errors import (
    DataError,
    DeliveryError,
    ExpiredError,
    FatalInputError,
    FencedError,
    SkydeltaError,
    TransientError,
)
from stream.attempts import Attempts
from stream.bus import Bus, Message, Outgoing, Session
from stream.dead_letters import DeadLetters, Failure
from stream.retry import STEPS, Retry, RunReport
from stream.telemetry import fields
from stream.worker import Worker

__all__ = ["Retry", "RunReport", "Worker", "run"]

_POLL = 0.25  # s; how soon a stop is noticed while nothing arrives
_BEAT = 1.0  # s between signs of life during a pause
_log = logging.getLogger(__name__)


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
    attempts: Attempts | None = None,
    on_step: Callable[[int, str], None] = lambda step, side: None,
) -> RunReport:
    """Run `worker` as a member of `group` until `stop` is set, or nothing came for `idle_exit` seconds.

    A bus that is away at the start is waited for, as later. A stop lets the message in work end, and commits what is
    done. `batch` is the most messages of a transaction; `attempts` is the journal, which is closed at the end;
    `on_step` is called with the number of each step and ``before``, or ``after`` where the step raised nothing.
    Raises DeliveryError where messages were lost by retention or this worker is fenced again and again, ExpiredError
    where its group declared it dead, ConfigurationError where a topic does not exist; nothing of the batch in work is
    then committed.
    """
    stop, retry, report = stop or threading.Event(), retry or Retry(), RunReport()
    with ExitStack() as closing:
        if attempts is not None:
            closing.callback(attempts.close)
        session = _joined(worker, bus, group, stop, retry, report)
        if session is not None:
            closing.callback(session.close)
            loop = _Loop(worker, session, group, dead_letters, stop, retry, attempts, on_step, report)
            loop.run(batch, idle_exit)
    _log.info("%s stopped", worker.name, extra=fields(group=group, **vars(report)))
    return report


def _joined(
    worker: Worker, bus: Bus, group: str, stop: threading.Event, retry: Retry, report: RunReport
) -> Session | None:
    """Join the group, with pauses for as long as the bus is away; None where `stop` came first."""
    while not stop.is_set():
        try:
            return bus.session(group, worker.inputs)
        except TransientError as error:
            pause = retry.pause_after(report.pauses)
            _log.warning("%s pauses %.1f s before it joins: %s", worker.name, pause, error)
        report.pauses += 1
        begin = time.monotonic()
        stop.wait(pause)
        report.seconds["pause"] += time.monotonic() - begin
    return None


@dataclass
class _Batch:
    """What one transaction will hold."""

    consumed: list[Message] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    letters: int = 0
    trouble: TransientError | None = None
    """Why the next message must wait."""
    refused: bool = False
    """The bus, or the worker's flush, refused the data of its only message, which was then buried."""


@dataclass
class _Loop:
    """State of one run from one transaction to the next."""

    worker: Worker
    session: Session
    group: str
    dead_letters: DeadLetters
    stop: threading.Event
    retry: Retry
    attempts: Attempts | None
    on_step: Callable[[int, str], None]
    report: RunReport = field(default_factory=RunReport)
    rewind_due: bool = False
    resume: float = 0.0
    """End of the pause, on the monotonic clock."""
    troubles: int = 0
    """Pauses since the last commit."""
    fenced: int = 0
    """Times fenced since the last commit."""
    single: int = 0
    """Messages that go one by one: the data of one of them were refused, and it must be found."""

    def run(self, batch: int, idle_exit: float | None) -> None:
        patience = _POLL if idle_exit is None else min(_POLL, idle_exit)
        busy = time.monotonic()
        while not self.stop.is_set():
            try:
                self._wait()
                if self._transact(1 if self.single else batch, patience):
                    busy = time.monotonic()
                elif idle_exit is not None and time.monotonic() - busy >= idle_exit:
                    return
            except TransientError as error:
                busy = self._pause(error)
            except ExpiredError:
                raise  # who knows what else slept too long: a new process is the clean way back
            except FencedError as error:
                self._rejoin(error)

    def _transact(self, limit: int, patience: float) -> bool:
        """Take one batch through all steps; return False where there was none."""
        # 1. Poll. Until step 5 the messages are kept nowhere else: a crash costs time, and nothing more.
        with self._step(1):
            messages = self.session.poll(limit, patience)
        if not messages:
            return False
        if self.attempts is not None:
            self.attempts.review()
        batch = self._process(messages)
        if batch.consumed and self._commit(batch):
            # 6. Count. The outputs are out: a crash from here on repeats nothing.
            with self._step(6):
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
                self._settle(message, batch)
            except TransientError as error:
                batch.trouble = error
                break
        return batch

    def _settle(self, message: Message, batch: _Batch) -> None:
        """Add to `batch` what `message` leads to; raises TransientError where that must wait."""
        with _attempt(self.attempts, self.group, message) as fatal:
            result, tries = (fatal, fatal.deaths) if fatal else self._tried(message)
            if isinstance(result, Exception):
                result = self._bury(message, result, tries)
                batch.letters += 1
        batch.outgoing += result
        batch.consumed.append(message)

    def _tried(self, message: Message) -> tuple[Sequence[Outgoing] | Exception, int]:
        """Return what `process` returns or raises at last, and after how many tries; raises TransientError."""
        # 2. Process the message. A short trouble (a lock, a lost connection) is over at the second or third try.
        wait = self.retry.wait
        tries = 0
        while True:
            tries += 1
            with self._step(2):
                result = _caught(lambda: self.worker.process(message))
            if not isinstance(result, TransientError):
                return result, tries
            if tries >= self.retry.tries:
                raise result
            self.report.retries += 1
            self.stop.wait(wait)
            wait = min(wait * self.retry.growth, self.retry.longest_wait)

    def _bury(self, message: Message, error: Exception, attempts: int) -> list[Outgoing]:
        """Return the dead letter of `message` and the outcome that the worker gives it."""
        # 3. Bury: the message can't be processed, now or ever. Keep it with its cause, and let the stream go on.
        with self._step(3):
            foreseen = isinstance(error, SkydeltaError)
            failure = Failure(
                self.worker.name, type(error).__name__, str(error) or repr(error), attempts, _trace(error)
            )
            place = fields(topic=message.topic, partition=message.partition, offset=message.offset)
            _log.error("dead letter: %s", failure, extra=place, exc_info=None if foreseen else error)
            letter = self.dead_letters.write(message, failure)
            if isinstance(error, FatalInputError) and error.alone:
                return [letter]
            outcome = _caught(lambda: self.worker.failed(message, str(failure)))
            if isinstance(outcome, TransientError):
                raise outcome
            if isinstance(outcome, Exception):
                _log.error("%s gave no outcome either", self.worker.name, extra=place, exc_info=outcome)
                outcome = []
            return [letter, *outcome]

    def _commit(self, batch: _Batch) -> bool:
        """Flush and commit; where the data are refused, return False to find the message, or bury the only one."""
        try:
            # 4. Flush. What the outputs speak of must be there before them; it is harmless without them.
            with self._step(4):
                self.worker.flush()
            # 5. Commit outputs, dead letters and positions, all or nothing.
            with self._step(5):
                self.session.commit(batch.outgoing, batch.consumed)
        except DataError as error:
            if batch.refused:
                raise
            if len(batch.consumed) > 1:
                self.single = len(batch.consumed)
                self.rewind_due = True
                return False
            batch.outgoing = self._bury(batch.consumed[0], error, 1)
            batch.letters, batch.refused = 1, True
            return self._commit(batch)
        return True

    def _count(self, batch: _Batch) -> None:
        self.report.messages += len(batch.consumed)
        self.report.outputs += len(batch.outgoing)
        self.report.dead_letters += batch.letters
        self.report.transactions += 1
        self.troubles = self.fenced = 0
        self.single = max(0, self.single - len(batch.consumed))
        if self.attempts is not None:
            self.attempts.committed(self.group, batch.consumed)
        self._tell(batch.consumed)

    def _tell(self, consumed: Sequence[Message]) -> None:
        """Tell the worker what is committed; that is done, whatever comes of telling."""

        def tell() -> Sequence[Outgoing]:
            self.worker.committed(consumed)
            return ()

        if isinstance(error := _caught(tell), Exception):
            _log.warning("%s took no note of a commit: %s", self.worker.name, error)

    def _pause(self, error: TransientError) -> float:
        """Plan a pause, twice as long as the last, and return its end; nothing is dropped, the order stays."""
        pause = self.retry.pause_after(self.troubles)
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
        begin = time.monotonic()
        while (left := self.resume - time.monotonic()) > 0 and not self.stop.wait(min(left, _BEAT)):
            self.session.keep_alive()
        self.report.seconds["pause"] += time.monotonic() - begin

    @contextmanager
    def _step(self, number: int) -> Iterator[None]:
        """Tell `on_step` of a numbered step, before it and, where it raised nothing, after it; add up its time."""
        self.on_step(number, "before")
        begin = time.monotonic()
        try:
            yield
        finally:
            self.report.seconds[STEPS[number]] += time.monotonic() - begin
        self.on_step(number, "after")


def _attempt(attempts: Attempts | None, group: str, message: Message) -> AbstractContextManager[FatalInputError | None]:
    """Keep `message` in the journal while it is in work; give the error of one that must not be run again."""
    return nullcontext() if attempts is None else attempts.entry(group, message)


def _caught(call: Callable[[], Sequence[Outgoing]]) -> Sequence[Outgoing] | Exception:
    """Return what `call` returns or raises; only DeliveryError, which must stop the worker, goes through."""
    try:
        return call()
    except DeliveryError:
        raise
    except Exception as error:  # the one place: a worker's bug must cost one message, not the night
        return error


def _trace(error: Exception) -> str | None:
    """Return where an error came from: of one that nobody foresaw, and of one that ended processes."""
    if isinstance(error, FatalInputError):
        return error.trace or None
    return None if isinstance(error, SkydeltaError) else "".join(traceback.format_exception(error))
