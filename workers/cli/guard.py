"""The start-up guard: stop where another distribution has put its files over ours."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from schemas.errors import ConfigurationError

__all__ = ["check_installation"]

_PACKAGES = ("schemas", "stream", "workers")


def check_installation() -> None:
    """Raise ConfigurationError unless the three packages are the ones that skydelta installed.

    `schemas`, `stream` and `workers` are common names: another distribution, or a file of that name in the working
    folder, would be imported in their place.
    """
    try:
        distribution("skydelta")
    except PackageNotFoundError as error:
        raise ConfigurationError(
            "skydelta is not installed in this environment; run `pip install skydelta` in an environment of its own"
        ) from error
    homes = {name: Path(str(importlib.import_module(name).__file__)).parent.parent for name in _PACKAGES}
    markers = {"schemas": "errors.py", "stream": "runner.py", "workers": "clock.py"}
    for name, home in homes.items():
        if home != homes["workers"] or not (home / name / markers[name]).exists():
            raise ConfigurationError(
                f"the package {name!r} is imported from {home}, which is not skydelta's: another distribution or a "
                f"file {name}.py in the working folder hides it. Install skydelta in an environment of its own"
            )
