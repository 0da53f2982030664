"""The embedded bus keeps every promise of the port, and the suite notices a bus that breaks one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from schemas.errors import FencedError, SkydeltaError
from stream.bus import Bus, Message, Outgoing, Session, conformance, embedded_log
from stream.bus.conformance import CHECKS, Trial, check_bus, run_check
from stream.bus.embedded import EmbeddedBus
from stream.bus.embedded_session import EmbeddedSession


class Maker:
    """Opens buses on one file; silent members die after a second."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> EmbeddedBus:
        return EmbeddedBus(self.path, session_timeout=1.0, silence_limit=1.0)

    def expire(self, topic: str) -> None:
        bus = self()
        bus.trim(2**62, [topic])
        bus.close()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "bus.sqlite")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Trial], None], maker: Maker) -> None:
    run_check(check, maker, patience=20.0, silence=1.6, expire=maker.expire)


def test_is_the_port(maker: Maker) -> None:
    bus: Bus = maker()
    bus.ensure({"t": 1})
    session: Session = bus.session("g", ["t"])
    session.close()
    bus.close()


def test_check_bus_runs_every_check(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float, object]] = []
    checks = [lambda trial: seen.append((trial.patience, trial.silence, trial.expire))] * 3
    monkeypatch.setattr(conformance, "CHECKS", tuple(checks))
    check_bus(maker, patience=3.0, silence=1.5, expire=maker.expire)
    assert seen == [(3.0, 1.5, maker.expire)] * 3


def test_checks_are_all_listed() -> None:
    takes_a_trial = [
        name
        for name, value in vars(conformance).items()
        if getattr(value, "__annotations__", {}).keys() == {"trial", "return"} and not name.startswith("_")
    ]
    assert [check.__name__ for check in CHECKS] == takes_a_trial


# Each of the following breaks one promise.

publish, commit, session_init = EmbeddedBus.publish, EmbeddedSession.commit, EmbeddedSession.__init__
take = EmbeddedSession._take


def drop_headers(self: EmbeddedBus, outgoing: Sequence[Outgoing]) -> None:
    publish(self, [Outgoing(o.topic, o.key, o.value, o.timestamp) for o in outgoing])


def publish_one_by_one(self: EmbeddedBus, outgoing: Sequence[Outgoing]) -> None:
    for record in outgoing:
        publish(self, [record])


def let_zombies_publish(self: EmbeddedSession, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
    try:
        commit(self, outgoing, consumed)
    except FencedError:
        commit(self, outgoing, [])
        raise


def forget_the_position(self: EmbeddedSession, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
    commit(self, outgoing, [])


def forget_the_outputs(self: EmbeddedSession, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
    commit(self, [], consumed)


def share_groups(self: EmbeddedSession, path: Path, group: str, *rest: object) -> None:
    session_init(self, path, "everyone", *rest)  # type: ignore[arg-type]


def expire_the_idle(self: EmbeddedSession, limit: int) -> list[Message]:
    if not self._is_member():
        raise self._expired()
    return take(self, limit)


BROKEN = [
    (EmbeddedBus, "publish", drop_headers, "records_travel_unchanged"),
    (EmbeddedBus, "publish", publish_one_by_one, "publishing_is_all_or_nothing"),
    (EmbeddedBus, "ensure", lambda self, topics: None, "topics_are_created_once"),
    (EmbeddedBus, "lag", lambda self, group, topics: {}, "lag_counts_what_is_left"),
    (embedded_log, "partition_of", lambda key, count: crc32(key) % count, "keys_choose_the_partition"),
    (embedded_log, "_LARGEST", 1 << 20, "large_messages_pass"),
    (embedded_log, "_LARGEST", 1 << 30, "too_large_messages_are_refused"),
    (EmbeddedSession, "commit", let_zombies_publish, "silent_members_expire"),
    (EmbeddedSession, "_expired", lambda self: FencedError("taken"), "silent_members_expire"),
    (EmbeddedSession, "_take", expire_the_idle, "silent_idle_members_join_again"),
    (EmbeddedSession, "commit", forget_the_position, "commits_publish_and_advance"),
    (EmbeddedSession, "commit", forget_the_outputs, "commits_publish_and_advance"),
    (EmbeddedSession, "rewind", lambda self: None, "polling_goes_forward"),
    (EmbeddedSession, "keep_alive", lambda self: self.poll(1, 0), "polling_goes_forward"),
    (EmbeddedSession, "keep_alive", lambda self: None, "keeping_alive_keeps_the_partitions"),
    (EmbeddedSession, "__init__", share_groups, "groups_are_independent"),
    (EmbeddedSession, "_require_kept", lambda self, slot, position: None, "lost_positions_are_loud"),
]


@pytest.mark.parametrize(("owner", "name", "broken", "check"), BROKEN)
def test_the_suite_notices(
    owner: object, name: str, broken: object, check: str, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, SkydeltaError)):
        run_check(getattr(conformance, check), maker, patience=1.0, silence=1.4, expire=maker.expire)
