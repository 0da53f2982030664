"""Log lines for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from stream.telemetry import configure, fields


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_json_lines_off_a_terminal() -> None:
    out = io.StringIO()
    configure(out)
    logging.getLogger("stream.runner").warning("pause of %d s", 2, extra=fields(topic="calexps", event="hidden"))
    line = json.loads(out.getvalue())
    assert line["event"] == "pause of 2 s"  # a field never hides what the line itself says
    assert (line["level"], line["logger"], line["topic"]) == ("warning", "stream.runner", "calexps")
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-01-01T00:00:00.000Z")


def test_text_on_a_terminal() -> None:
    out = Terminal()
    configure(out)
    logging.getLogger("x").info("committed", extra=fields(messages=8))
    assert out.getvalue()[8:] == " info    committed messages=8\n"


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()], ids=["json", "text"])
def test_tracebacks_are_kept(out: io.StringIO) -> None:
    configure(out)
    try:
        raise ZeroDivisionError("no flux")
    except ZeroDivisionError:
        logging.getLogger("x").exception("bug")
    assert "ZeroDivisionError: no flux" in out.getvalue()


def test_level_and_single_handler() -> None:
    out = io.StringIO()
    configure(io.StringIO())
    configure(out, logging.WARNING)
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").error("loud", extra=fields(key=b"1:2"))
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["key"] == "b'1:2'"
