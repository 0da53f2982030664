"""A page of docs as something to run: its shell blocks and the lines it tells to edit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.system.nights import REPOSITORY, environment

PAGE = REPOSITORY / "docs" / "first-survey.md"
CALIBRATION = REPOSITORY / "docs" / "calibration.md"
FRAMES = REPOSITORY.parent / "shared" / "data" / "image-series-starcluster-iraf"
BLOCK = re.compile(r"<!-- (run|edit): (\w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(name: str, page: Path) -> list[tuple[str, str]]:
    """Return the (run or edit, text) blocks of one example, in the page's order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(what, text) for what, label, _, text in found if label == name]


def shell(script: str, folder: Path) -> str:
    """Run shell lines in `folder` as a user would, with the installed command; return what they print."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = environment() | {"PATH": path, "FRAMES": str(FRAMES)}
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _keys(table: str, tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (table, key) of every value."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _keys(f"{table}.{name}".strip("."), value)
        else:
            yield table, name


def edit(path: Path, text: str) -> None:
    """Give survey.toml the keys of a block, as a person would: in the place where each stands."""
    lines = path.read_text(encoding="utf-8").splitlines()
    table, wanted = "", set(_keys("", tomllib.loads(text)))
    new = {}
    for line in text.splitlines():
        table = line.strip("[]") if line.startswith("[") else table
        if "=" in line:
            new[table, line.split("=")[0].strip()] = line
    assert new.keys() == wanted
    table = ""
    for number, line in enumerate(lines):
        table = line.strip("[]") if line.startswith("[") else table
        key = re.match(r"(?:# )?(\w+) (?:=|is not set)", line)
        if key and (table, key[1]) in new:
            lines[number] = new.pop((table, key[1]))
    assert new == {}
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(name: str, folder: Path, page: Path = PAGE) -> list[str]:
    """Run an example from its first block on; return what each shell block printed. A `cd` lasts, as in a shell."""
    printed = []
    for what, text in blocks(name, page):
        if what == "edit":
            edit(folder / "survey.toml", text)
        else:
            printed.append(shell(text, folder))
            for place in re.findall(r"^cd (\S+)$", text, re.MULTILINE):
                folder = folder / place
    return printed
