"""The classifier as an artefact: a folder with the trees as text and a card that says everything about them.

::

    calibrations/classifier/card.json             version, threshold, features, calibration, figures, SHA-256 of trees
    calibrations/classifier/lgbm-<12 hex>.txt     the trees; the card names its file, and is written last

A reader sees the old pair or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.fits import write_atomically
from workers.score.boosting import from_text, margins
from workers.score.calibration import Calibration
from workers.score.features import FEATURE_NAMES
from workers.score.source_pixels import Floats

__all__ = ["Classifier", "load_classifier", "make_classifier", "save_classifier"]

CARD = "card.json"
_RETRAIN = "train it again with `skydelta calibrate classifier`"


@dataclass(frozen=True)
class Classifier:
    """Trees with their calibration; equal trees and cards are equal classifiers."""

    text: str
    """LightGBM's text format."""
    card: dict[str, Any]

    @property
    def version(self) -> str:
        """``lgbm-`` and 12 hex digits of the content's SHA-256."""
        return str(self.card["version"])

    @property
    def threshold(self) -> float:
        """Reliability at which purity and completeness balance."""
        return float(self.card["threshold"])

    @cached_property
    def calibration(self) -> Calibration:
        """How margins become probabilities."""
        return Calibration(**self.card["calibration"])

    @cached_property
    def _booster(self) -> Any:
        return from_text(self.text)

    def reliability(self, features: Floats) -> NDArray[np.float64]:
        """Return the probability to be real of sources with these features (n, k), float64 (n,)."""
        if not len(features):
            return np.zeros(0)
        return self.calibration.reliability(margins(self._booster, features))


def make_classifier(text: str, content: Mapping[str, Any]) -> Classifier:
    """Return the classifier of trees (`text`) and card `content`, with features, checksum and version added."""
    body = {**content, "features": list(FEATURE_NAMES), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return Classifier(text, {"version": _version(body), **body})


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write trees and card to `folder`, made where absent; the same classifier gives the same bytes."""
    write_atomically(folder / f"{classifier.version}.txt", classifier.text.encode())
    card = json.dumps(classifier.card, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(folder / CARD, card.encode())


def load_classifier(folder: Path) -> Classifier:
    """Read a classifier; raises ConfigurationError where there is none, it is damaged, or of other features."""
    try:
        card = json.loads((folder / CARD).read_bytes())
        text = (folder / f"{card['version']}.txt").read_text(encoding="utf-8")
        intact = card["sha256"] == hashlib.sha256(text.encode()).hexdigest() and card["version"] == _version(card)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no classifier in {folder} ({error.filename} is missing); train one with "
            "`skydelta calibrate classifier`, or name its folder as score.model in survey.toml"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"the classifier in {folder} can't be read ({error!r}); {_RETRAIN}") from error
    if not intact:
        raise ConfigurationError(f"the classifier in {folder} is not what was written there (checksum); {_RETRAIN}")
    if card["features"] != list(FEATURE_NAMES):
        raise ConfigurationError(f"the classifier in {folder} was trained on other features; {_RETRAIN}")
    return Classifier(text, card)


def _version(card: Mapping[str, Any]) -> str:
    """Return the version that a card's content gives."""
    body = {key: value for key, value in card.items() if key != "version"}
    return "lgbm-" + hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]
