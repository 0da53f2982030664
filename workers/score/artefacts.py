"""Bogus on purpose: misaligned and unsharp stars, particle hits and long streaks, made in the pixels of real exposures.

A clean subtraction has few bogus detections, and most of its own are real: then there is nothing else that a classifier
could learn bogus from. The stars are static ones, added to both images, but not quite in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.imaging.exposure import Exposure
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.injection import INJECTION_DTYPE, inject_sources
from workers.imaging.psf import FWHM_PER_SIGMA

__all__ = ["ARTEFACT_DTYPE", "KINDS", "add_artefacts", "plan_artefacts"]

_Rows = NDArray[Any]

KINDS = {"dipole": 0.35, "ring": 0.25, "hit": 0.39, "streak": 0.01}
"""Share of each: misaligned star, star of another width, particle hit or hot pixel, satellite."""

ARTEFACT_DTYPE = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("length", "f8"),
        ("angle", "f8"),
        ("step", "f8"),
        ("inTemplate", "?"),
        ("kind", "U8"),
    ]
)
"""Centre, 0-based pixels; flux, nJy; length (pixels) and angle (radians from x to y) of hits and streaks; pixels by
which a star is moved or widened; whether that is done to the template's star or, for a hit, in the template."""

_SNR = (5.0, 60.0)
"""Of the detection, roughly; log-uniform."""
_MOVED, _WIDENED = (0.1, 0.7), (0.4, 1.2)
_MAX_HIT = 8.0
_STREAK = (80.0, 300.0)


def plan_artefacts(science: Exposure, template: Exposure, count: int, taken: _Rows, rng: np.random.Generator) -> _Rows:
    """Return up to `count` artefacts, rows of ARTEFACT_DTYPE, on usable pixels and away from `taken` (rows x, y)."""
    usable = usable_pixels(science.image, science.variance, science.mask)
    usable &= usable_pixels(template.image, template.variance, template.mask)
    height, width = science.shape
    rows = np.zeros(count, ARTEFACT_DTYPE)
    rows["x"], rows["y"] = rng.uniform(0.0, width - 1.0, count), rng.uniform(0.0, height - 1.0, count)
    rows["kind"] = rng.choice(list(KINDS), count, p=list(KINDS.values()))
    rows["inTemplate"] = rng.random(count) < np.where(rows["kind"] == "hit", 0.1, 0.5)
    rows["angle"] = rng.uniform(0.0, 2.0 * np.pi, count)
    rows = rows[usable[np.round(rows["y"]).astype(int), np.round(rows["x"]).astype(int)]]
    rows = rows[_apart(rows, taken, science.need_psf().size)]
    return _with_strengths(rows, science, template, rng) if len(rows) else rows


def add_artefacts(
    science: Exposure, template: Exposure, plan: _Rows, rng: np.random.Generator
) -> tuple[Exposure, Exposure]:
    """Return both exposures with the artefacts of `plan`; the added light of stars has its photon noise."""
    stars = plan[np.isin(plan["kind"], ("dipole", "ring"))]
    streaks = _sources(plan[plan["kind"] == "streak"])
    changed, plain = _stars_changed(stars), _sources(stars)
    ours = [plain[stars["inTemplate"]], changed[~np.tile(stars["inTemplate"], 4)], streaks]
    theirs = [plain[~stars["inTemplate"]], changed[np.tile(stars["inTemplate"], 4)]]
    hits = plan[plan["kind"] == "hit"]
    science = inject_sources(science, np.concatenate(ours), rng)
    template = inject_sources(template, np.concatenate(theirs), None)
    return _with_hits(science, hits[~hits["inTemplate"]]), _with_hits(template, hits[hits["inTemplate"]])


def _apart(rows: _Rows, taken: _Rows, separation: float) -> NDArray[np.bool_]:
    """Return which rows lie `separation` pixels from all that are `taken` and from the rows before them."""
    places = np.column_stack([rows["x"], rows["y"]])
    kept = np.ones(len(rows), bool)
    if len(taken):
        kept = cKDTree(np.column_stack([taken["x"], taken["y"]])).query(places)[0] > separation
    for first, second in sorted(cKDTree(places).query_pairs(separation)) if len(rows) else ():
        kept[second] &= not kept[first]
    return kept


def _with_strengths(rows: _Rows, science: Exposure, template: Exposure, rng: np.random.Generator) -> _Rows:
    """Fill flux, step and length so that the artefacts are detected with S/N between 5 and 60.

    For a Gaussian PSF of width s, a star of S/N F moved by d gives a matched-filter peak of 0.43 F d / s, one widened
    by four images at distance e gives F e² / (4 s²).
    """
    n, kind = len(rows), rows["kind"]
    column, row = np.round(rows["x"]).astype(int), np.round(rows["y"]).astype(int)
    pixel = np.sqrt(science.variance[row, column] + template.variance[row, column])
    psf, (height, width) = science.need_psf(), science.shape
    area = psf.noise_area(rows["x"], rows["y"])
    spread = psf.fwhm(width / 2, height / 2) / FWHM_PER_SIGMA
    snr = np.exp(rng.uniform(np.log(_SNR[0]), np.log(_SNR[1]), n))
    limits = np.where(kind == "dipole", _MOVED[0], _WIDENED[0]), np.where(kind == "dipole", _MOVED[1], _WIDENED[1])
    rows["step"] = np.where(np.isin(kind, ("dipole", "ring")), rng.uniform(*limits), 0.0)
    hit_length = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0.0, _MAX_HIT, n))
    rows["length"] = np.select([kind == "hit", kind == "streak"], [hit_length, rng.uniform(*_STREAK, n)])
    boost = np.ones(n)
    moved, widened = kind == "dipole", kind == "ring"
    boost[moved] = spread / (0.43 * rows["step"][moved])
    boost[widened] = 4.0 * spread**2 / np.square(rows["step"][widened])
    streak = kind == "streak"
    boost[streak] = rows["length"][streak] / (2.5 * spread)
    sharp = 1.0 / (np.sqrt(area) * psf.stamps(rows["x"], rows["y"]).max(axis=(1, 2)))
    hit = kind == "hit"
    boost[hit] = (sharp / np.sqrt(area) * np.sqrt(1.0 + rows["length"]))[hit]
    rows["flux"] = snr * pixel * np.sqrt(area) * boost
    return rows


def _sources(rows: _Rows) -> _Rows:
    """Return artefacts as sources to inject: stars where they are, streaks as trails."""
    out = np.zeros(len(rows), INJECTION_DTYPE)
    for name in ("x", "y", "flux"):
        out[name] = rows[name]
    out["trailLength"], out["trailAngle"] = rows["length"], rows["angle"]
    return out


def _stars_changed(stars: _Rows) -> _Rows:
    """Return four images of each star, a quarter of its flux each: all moved together, or round the true place."""
    parts = []
    for quarter in range(4):
        turn = np.where(stars["kind"] == "ring", 0.5 * np.pi * quarter, 0.0)
        part = _sources(stars)
        part["x"] += stars["step"] * np.cos(stars["angle"] + turn)
        part["y"] += stars["step"] * np.sin(stars["angle"] + turn)
        part["flux"] *= 0.25
        parts.append(part)
    return np.concatenate(parts)


def _with_hits(exposure: Exposure, hits: _Rows) -> Exposure:
    """Return `exposure` with charge along lines one pixel wide, as sharp as no light can be."""
    image = exposure.image.copy()
    for hit in hits:
        along = np.linspace(-0.5, 0.5, 2 * int(np.ceil(hit["length"])) + 1) * hit["length"]
        column = np.round(hit["x"] + along * np.cos(hit["angle"])).astype(int)
        row = np.round(hit["y"] + along * np.sin(hit["angle"])).astype(int)
        inside = (column >= 0) & (column < image.shape[1]) & (row >= 0) & (row < image.shape[0])
        np.add.at(image, (row[inside], column[inside]), np.float32(hit["flux"] / len(along)))
    return exposure.replaced(image=image)
