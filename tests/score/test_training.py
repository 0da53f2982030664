"""Training on exposures: artefacts and injections through the real subtraction, from files to a saved classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from schemas.errors import DataError
from workers.imaging.fits import write_exposure
from workers.imaging.injection import INJECTION_DTYPE
from workers.score import training
from workers.score.artefacts import ARTEFACT_DTYPE, KINDS, add_artefacts, plan_artefacts
from workers.score.labels import label_detections
from workers.score.model import load_classifier
from workers.score.training import injected_samples, train_classifier
from workers.subtract.pipeline import subtract
from workers.survey.config import Survey, SurveyConfig

CONFIG = SurveyConfig.model_validate(
    {
        "name": "test",
        "score": {"injections": 60},
        "templates": {"begin": 60000.0, "end": 60500.0, "pixel_scale": 0.25},
    }
)
NOTHING = np.zeros(0, INJECTION_DTYPE)


@pytest.fixture(scope="module")
def pair(pair_maker: Callable[..., Any]) -> Any:
    return pair_maker(400, 90, 3)


def survey(root: Path) -> Survey:
    return Survey.model_construct(root=root, config=CONFIG, camera=None)


def test_artefacts_lie_apart_and_off_what_is_taken(pair: Any) -> None:
    taken = np.zeros(1, INJECTION_DTYPE)
    taken["x"], taken["y"] = 200.0, 200.0
    plan = plan_artefacts(pair.science, pair.template, 60, taken, np.random.default_rng(1))
    places = np.column_stack([plan["x"], plan["y"]])
    assert len(plan) > 20
    assert np.linalg.norm(places - 200.0, axis=1).min() > 25
    assert np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(len(plan), 1)].min() > 25
    assert set(plan["kind"]) <= set(KINDS)
    assert np.array_equal(plan, plan_artefacts(pair.science, pair.template, 60, taken, np.random.default_rng(1)))


@pytest.mark.parametrize("kind", ["dipole", "ring", "hit"])
def test_each_kind_is_detected_and_looks_as_it_should(pair: Any, kind: str) -> None:
    plan = plan_artefacts(pair.science, pair.template, 90, NOTHING, np.random.default_rng(5))
    plan = plan[plan["kind"] == kind]
    science, template = add_artefacts(pair.science, pair.template, plan, np.random.default_rng(6))
    result = subtract(science, template, CONFIG.subtract)
    labels = label_detections(result.sources, NOTHING, plan)
    assert (labels == 2).sum() > 0.5 * len(plan)
    if kind == "dipole":
        assert result.sources["isDipole"][labels == 2].mean() > 0.15
        assert 0.15 < result.sources["isNegative"][labels == 2].mean() < 0.85  # two dozen: 3 sigma
    assert np.array_equal(pair.science.variance, science.variance) == (kind == "hit")


def test_nothing_planned_changes_nothing(pair: Any) -> None:
    science, template = add_artefacts(
        pair.science, pair.template, np.zeros(0, ARTEFACT_DTYPE), np.random.default_rng(6)
    )
    assert np.array_equal(science.image, pair.science.image)
    assert np.array_equal(template.image, pair.template.image)


def test_injections_are_found_again_and_rounds_differ(pair: Any) -> None:
    samples = injected_samples(pair.science, pair.template, 50, CONFIG)
    assert len(samples) == 2
    assert not np.array_equal(samples[0].truth[:5], samples[1].truth[:5])
    for sample in samples:
        labels = label_detections(sample.sources, sample.truth, sample.artefacts)
        bright = (sample.truth["snr"] > 10).sum()
        assert (labels == 1).sum() >= 0.8 * bright
        assert (labels == 2).any()
    again = injected_samples(pair.science, pair.template, 50, CONFIG)
    assert samples[1].sources.tobytes() == again[1].sources.tobytes()


def stage_of(template: Callable[..., Any] | None) -> Any:
    """A subtraction stage whose templates have the window of CONFIG."""
    manifest = SimpleNamespace(end=CONFIG.templates.end)
    return SimpleNamespace(template=template, store=SimpleNamespace(manifest=lambda: manifest))


def test_from_files_to_a_classifier(
    pair_maker: Callable[..., Any], pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = pair_maker(64, 5, 8, visit=70, mjd=60400.0)
    paths = [tmp_path / "late.fits", tmp_path / "early.fits"]
    write_exposure(paths[0], pair.science)
    write_exposure(paths[1], early.science)
    stage = stage_of(lambda exposure: SimpleNamespace(exposure=pair.template))
    monkeypatch.setattr(training, "SubtractStage", SimpleNamespace(open=lambda survey: stage))
    said: list[str] = []
    made = train_classifier(survey(tmp_path), paths, said.append)
    assert load_classifier(tmp_path / CONFIG.score.model).version == made.version
    assert "early.fits: left out" in said[0]
    assert made.version in said[-1]
    assert made.card["training"]["exposures"] == ["77:3"]
    assert made.card["crossFit"][0]["completeness"] > 0.8
    assert made.card["crossFit"][0]["falsePositiveRate"] < 0.2


def test_exposures_inside_the_window_only_are_an_error_with_its_cure(
    pair_maker: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SubtractStage", SimpleNamespace(open=lambda survey: stage_of(None)))
    write_exposure(tmp_path / "early.fits", pair_maker(64, 5, 8, mjd=60400.0).science)
    with pytest.raises(DataError, match=r"after the template window.*templates.end"):
        train_classifier(survey(tmp_path), [tmp_path / "early.fits"])


def test_no_template_anywhere_is_an_error_with_its_cure(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(lambda exposure: None)
    monkeypatch.setattr(training, "SubtractStage", SimpleNamespace(open=lambda survey: stage))
    write_exposure(tmp_path / "late.fits", pair.science)
    with pytest.raises(DataError, match="skydelta templates build"):
        train_classifier(survey(tmp_path), [tmp_path / "late.fits"])
