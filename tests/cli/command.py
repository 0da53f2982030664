"""Run the command line in this process, as the installed command does."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock

from workers.cli import main


class _Stream(io.TextIOWrapper):
    """A text stream in memory that takes bytes as well."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def skydelta(*arguments: object) -> Done:
    """Run `skydelta ARGUMENTS` and return exit code, stdout and stderr."""
    out, err, code = _Stream(), _Stream(), 0
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    argv = ["skydelta", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", argv):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            logging.getLogger().handlers[:] = handlers
            logging.getLogger().setLevel(level)
    return Done(code, out.text(), err.text())
