"""Log lines: text for people on a terminal, one JSON object per line elsewhere."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, TextIO

__all__ = ["JsonLines", "PlainText", "configure", "fields"]

_NAME = "skydelta_fields"


def fields(**values: object) -> dict[str, Any]:
    """Return what `extra=` of a logging call takes, to carry `values` beside the event's text."""
    return {_NAME: values}


def configure(stream: TextIO, level: int = logging.INFO) -> None:
    """Send the log of this process to `stream` from `level` on, in the form that suits it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainText() if stream.isatty() else JsonLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601, ms), level, logger, event, the fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line."""
        line: dict[str, object] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in _fields(record).items() if name not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class PlainText(logging.Formatter):
    """Time of day (UTC), level, event and fields; a traceback where the record has one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as text."""
        parts = [_utc(record)[11:19], f"{record.levelname.lower():7}", record.getMessage()]
        parts += [f"{name}={value}" for name, value in _fields(record).items()]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return dict(getattr(record, _NAME, {}))


def _utc(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
