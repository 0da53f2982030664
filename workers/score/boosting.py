"""Gradient-boosted trees (LightGBM): deterministic, one thread, both classes with equal weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.score.features import FEATURE_NAMES
from workers.score.source_pixels import Floats

__all__ = ["boost", "even_classes", "from_text", "margins", "to_text"]

_Float = NDArray[np.float64]
_ROUNDS = 120
_PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.08,
    "num_leaves": 12,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


def boost(features: Floats, real: NDArray[np.bool_], weight: Floats, seed: int) -> Any:
    """Train trees on features (n, k), labels and weights (n,); return a lightgbm Booster, same for same input."""
    import lightgbm  # slow to import: only those who train or score pay for it

    balanced = even_classes(weight, real) * len(real)
    least = int(np.clip(len(real) // 60, 3, 20))
    data = lightgbm.Dataset(features, real.astype(np.float32), weight=balanced, feature_name=list(FEATURE_NAMES))
    return lightgbm.train({**_PARAMETERS, "min_data_in_leaf": least, "seed": seed}, data, num_boost_round=_ROUNDS)


def even_classes(weight: NDArray[np.floating], real: NDArray[np.bool_]) -> _Float:
    """Return the weights scaled so that each class has a total of 1/2, float64 (n,)."""
    totals = np.where(real, weight[real].sum(), weight[~real].sum())
    return np.asarray(0.5 * weight / totals, float)


def margins(booster: Any, features: Floats) -> _Float:
    """Return the log-odds that the trees give each source, at even prior odds, float64 (n,)."""
    if not len(features):
        return np.zeros(0)
    return np.asarray(booster.predict(features, raw_score=True, num_threads=1), float)


def to_text(booster: Any) -> str:
    """Return the trees as LightGBM's text format."""
    return str(booster.model_to_string())


def from_text(text: str) -> Any:
    """Return the Booster that `to_text` wrote."""
    import lightgbm

    return lightgbm.Booster(model_str=text)
