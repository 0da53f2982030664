"""A released schema never changes: make a new version folder, then run ``python -m schemas.freeze``."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import pytest

import schemas
from schemas import freeze
from schemas.compatibility import transitive_problems
from schemas.errors import SchemaError


def _current() -> dict[tuple[str, str], dict[str, object]]:
    return {(schema.family, schema.version): freeze.entry(schema) for schema in schemas.all_schemas()}


def test_released_schemas_have_not_changed() -> None:
    assert freeze.problems(freeze.read_frozen(), _current()) == []


def test_every_schema_is_frozen() -> None:
    frozen = {(family, version) for family, versions in freeze.read_frozen().items() for version in versions}
    assert frozen == set(_current()), "run `python -m schemas.freeze` to freeze the new version"


@pytest.mark.parametrize("family", schemas.families())
def test_all_versions_are_compatible_both_ways(family: str) -> None:
    assert transitive_problems([schemas.get(family, version) for version in schemas.versions(family)]) == []


def test_a_changed_schema_is_refused_and_an_old_entry_never_altered() -> None:
    frozen, current = freeze.read_frozen(), _current()
    for key, value in (("fingerprint", "0" * 64), ("id", 7), ("files", {})):
        changed = copy.deepcopy(current)
        changed[("alert", "1.0")][key] = value
        assert freeze.problems(frozen, changed) == [f"alert 1.0 is frozen but was changed: {key} differ"]
        with pytest.raises(SchemaError, match="make a new version folder"):
            freeze.added(frozen, changed)
    del current[("visit", "1.0")]
    assert freeze.problems(frozen, current) == ["visit 1.0 is frozen but its files are gone"]


def test_a_new_version_is_added_and_nothing_else() -> None:
    frozen, current = freeze.read_frozen(), _current()
    new = {"id": 199, "fingerprint": "f", "files": {}}
    entries = freeze.added(frozen, {**current, ("alert", "1.99"): new})
    assert entries["alert"] == {**frozen["alert"], "1.99": new}
    assert {k: v for k, v in entries.items() if k != "alert"} == {k: v for k, v in frozen.items() if k != "alert"}
    assert "1.99" not in frozen["alert"]


def test_the_command_refuses_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "frozen.json"
    monkeypatch.setattr(freeze, "FROZEN", path)
    monkeypatch.setattr(freeze.read_frozen, "__defaults__", (path,))
    assert freeze.main() == 0
    assert json.loads(path.read_text()) == freeze.read_frozen(path)
    written = path.read_text().replace("diaSource.avsc", "source.avsc")
    path.write_text(written)
    assert freeze.main() == 5
    assert "alert 1.0 is frozen but was changed: files differ" in capsys.readouterr().err
    assert path.read_text() == written


def test_fingerprints_tell_schemas_apart() -> None:
    prints = [schema.fingerprint for schema in schemas.all_schemas()]
    assert all(len(text) == 64 for text in prints)
    assert all(a != b for a, b in itertools.combinations(prints, 2))
