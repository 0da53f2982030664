"""Help: every command has it, it answers without the heavy libraries, and the documentation names every command."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from tests.cli.command import skydelta
from tests.system.nights import REPOSITORY, environment
from workers.cli import COMMANDS, cli

HEAVY = ("numpy", "astropy", "scipy", "numba", "sep", "confluent_kafka", "fastavro", "pydantic")
SHOW_MODULES = f"""
import sys
from workers.cli import main
sys.argv = ["skydelta", "-h"]
try:
    main()
except SystemExit as stop:
    assert not stop.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def every_command() -> dict[str, click.Command]:
    """Return every command and subcommand by its words."""
    context = click.Context(cli)
    found = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {part}": inner for part, inner in command.commands.items()}
    return found


def test_top_level_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", SHOW_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text[:40])}", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", every_command())
def test_every_command_has_help(words: str) -> None:
    done = skydelta(*words.split(), "-h")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: skydelta {words}")
    description = done.out.split("\n\n")[1].strip()
    assert len(description) > 20
    assert description.endswith((".", ")"))


@pytest.mark.parametrize(("words", "command"), every_command().items())
def test_every_option_is_explained(words: str, command: click.Command) -> None:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    speaking = {"--workers", "--survey", "--preset"}
    unclear = [option.opts for option in options if not option.help and not speaking & set(option.opts)]
    assert unclear == []


def test_the_documentation_names_every_command() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [name for name in COMMANDS if not re.search(rf"skydelta {name}\b", text)] == []


def test_the_documentation_names_no_other_command() -> None:
    known = every_command()
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for first, second in re.findall(r"\bskydelta ([a-z]+)(?: ([a-z-]+))?", " ".join(_code(text))):
            assert first in COMMANDS, f"{page.name}: skydelta {first}"
            if isinstance(known[first], click.Group):
                assert f"{first} {second}" in known, f"{page.name}: skydelta {first} {second}"


def _code(text: str) -> list[str]:
    """Return shell blocks and inline code; prose may follow the product's name with any word."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [*blocks, *re.findall(r"`(skydelta [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]


def test_version() -> None:
    done = skydelta("--version")
    assert done.code == 0
    assert re.search(r"skydelta, version \d+\.\d+\.\d+", done.out)
