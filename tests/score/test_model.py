"""The artefact: written the same way every time, and refused when it is not what was written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import ConfigurationError
from workers.score.model import Classifier, load_classifier, save_classifier
from workers.score.pipeline import TrainingSample, score, train
from workers.survey.config import ScoreConfig


@pytest.fixture(scope="module")
def classifier(drawn: Any, truth_maker: Any) -> Classifier:
    return train([TrainingSample(drawn.sources, drawn.stamps, truth_maker(drawn, drawn.real))], ScoreConfig())


def test_it_comes_back_the_same(classifier: Classifier, drawn: Any, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path / "a" / "b")
    read = load_classifier(tmp_path / "a" / "b")
    assert (read.version, read.threshold, read.card) == (classifier.version, classifier.threshold, classifier.card)
    ours, theirs = (score(drawn.sources, drawn.stamps, one)["reliability"] for one in (classifier, read))
    assert np.array_equal(ours, theirs)


def test_writing_twice_gives_the_same_bytes(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_classifier(classifier, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["card.json", f"{classifier.version}.txt"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_card_says_what_a_user_needs(classifier: Classifier) -> None:
    card = classifier.card
    assert classifier.version.startswith("lgbm-")
    assert len(classifier.version) == 17
    assert 0.0 < classifier.threshold < 1.0
    assert card["training"]["nReal"] == 600
    assert card["crossFit"][0]["completeness"] > 0.85
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_none_there_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="skydelta calibrate classifier"):
        load_classifier(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda card: {**card, "threshold": 0.001}, "checksum"),
        (lambda card: {**card, "sha256": "0" * 64}, "checksum"),
        (lambda card: {key: value for key, value in card.items() if key != "sha256"}, "can't be read"),
    ],
)
def test_a_card_that_was_edited_is_refused(classifier: Classifier, tmp_path: Path, change: Any, text: str) -> None:
    save_classifier(classifier, tmp_path)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigurationError, match=text):
        load_classifier(tmp_path)


def test_damaged_trees_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path)
    path = tmp_path / f"{classifier.version}.txt"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ConfigurationError, match="checksum"):
        load_classifier(tmp_path)


def test_other_features_are_refused(classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_classifier(classifier, tmp_path)
    monkeypatch.setattr("workers.score.model.FEATURE_NAMES", ("snr",))
    with pytest.raises(ConfigurationError, match="other features"):
        load_classifier(tmp_path)


def test_lightgbm_is_imported_by_those_who_need_it_only() -> None:
    code = "import sys, workers.score.worker; sys.exit('lightgbm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
