"""Two snaps of one visit become one exposure, free of what is in one of them only (LDM-151 section 8.2.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, ExposureInfo, FloatImage, MaskImage, SnapDifference
from workers.imaging.masks import MaskPlane
from workers.isr.saturation import grown
from workers.isr.snap_artefacts import find_artefacts, sky_level
from workers.survey.isr_config import SnapsConfig

__all__ = ["combine_snaps"]

_UNUSABLE = MaskPlane.BAD | MaskPlane.SATURATED | MaskPlane.CR | MaskPlane.NO_DATA | MaskPlane.STREAK | MaskPlane.BLEED
"""Planes for which a pixel gives way to the other snap's."""
_NO_VALUE = np.int32(MaskPlane.BAD | MaskPlane.NO_DATA)
_SAMPLES = 1_000_000
_Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class _Snap:
    """One snap in electrons of the whole visit: values and noise as if it had lasted as long as both."""

    image: FloatImage
    variance: FloatImage
    mask: MaskImage
    usable: _Bool
    share: float
    """Of the exposure time."""


def combine_snaps(first: Exposure, second: Exposure, config: SnapsConfig) -> Exposure:
    """Return one exposure of the electrons of both snaps, sky included, with their summed exposure time.

    Both come straight from signature removal, in electrons, of one visit, detector, band and pixel grid. What is in
    one only (`find_artefacts`), and what is flagged in one only, is taken from the other, moved by half of what their
    smooth skies differ by; the rest is the mean with weights of the expected noise. These follow from the sum of both
    snaps, for weights from each snap's own counts would prefer whichever came out lower. A pixel that neither has is
    flagged as in both. The snaps' difference goes along, without the pixels that one of them lacks. The order of the
    arguments does not matter. PSF and zero point, if any, are dropped. Raises DataError where the two are no pair.
    """
    first, second = sorted((first, second), key=lambda snap: (snap.info.midpointMjdTai, snap.info.sha256))
    _check_pair(first, second)
    total = first.info.exposureTime + second.info.exposureTime
    one, two = _scaled(first, total), _scaled(second, total)
    blocked = ~(one.usable & two.usable)
    step = sky_level(one.image - two.image, blocked, config.mesh)
    difference, noise = one.image - two.image - step, one.variance + two.variance
    in_one, in_two = _artefacts(one, two, (difference, noise, step), blocked, config)
    one, two = replace(one, usable=one.usable & ~in_one), replace(two, usable=two.usable & ~in_two)
    image, variance = _combined(one, two, step)
    mask = _mask(one, two, in_one, in_two)
    lost = ~np.isfinite(image)
    if lost.any():
        image[lost], variance[lost] = np.median(image[~lost]) if not lost.all() else 0.0, 0.0
        mask[lost] |= _NO_VALUE
    return Exposure(
        info=_info(first.info, second.info),
        image=image,
        mask=mask,
        variance=variance,
        wcs=first.wcs,
        provenance=_provenance(first, second),
        metrics=_metrics(first, second)
        | {
            "snapArtefactFraction0": float(in_one.mean()),
            "snapArtefactFraction1": float(in_two.mean()),
            "snapSkyDifference": float(np.median(step)),
            "skyMedian": _sky_median(image, mask),
        },
        snaps=_difference(difference, noise, one.usable & two.usable, in_one | in_two),
    )


def _check_pair(first: Exposure, second: Exposure) -> None:
    """Raise DataError naming both files and what they differ in."""
    names = f"{first.info.fileName} and {second.info.fileName} are no two snaps of one visit"
    for field in ("instrument", "visit", "detector", "band", "kind"):
        one, two = getattr(first.info, field), getattr(second.info, field)
        if one != two:
            raise DataError(f"{names}: {field} is {one!r} in one and {two!r} in the other; pair the snaps by visit")
    if first.shape != second.shape:
        raise DataError(f"{names}: their shapes are {first.shape} and {second.shape}; were they read out alike?")
    if first.info.sha256 == second.info.sha256:
        raise DataError(f"{names}: they are one file (sha256 {first.info.sha256[:12]}); give each snap once")
    for snap in (first, second):
        if snap.unit != "electron":
            raise DataError(f"{names}: {snap.info.fileName} is in {snap.unit}, not in electrons; run isr.steps on it")
        if not snap.info.exposureTime > 0:
            raise DataError(f"{names}: {snap.info.fileName} lasted {snap.info.exposureTime} s; check its header")


def _scaled(snap: Exposure, total: float) -> _Snap:
    scale = total / snap.info.exposureTime
    image, variance = snap.image * np.float32(scale), snap.variance * np.float32(scale**2)
    usable = ((snap.mask & np.int32(_UNUSABLE)) == 0) & np.isfinite(image) & (variance > 0)
    return _Snap(image, variance, snap.mask, usable, 1.0 / scale)


def _artefacts(
    one: _Snap, two: _Snap, change: tuple[FloatImage, FloatImage, FloatImage], blocked: _Bool, config: SnapsConfig
) -> tuple[_Bool, _Bool]:
    """Return what is in the first and in the second snap only; `change`: difference, its variance, and of the skies."""
    difference, noise, step = change
    sky = sky_level(one.image, ~one.usable, config.mesh)
    return find_artefacts(
        difference,
        noise,
        np.minimum(one.image - sky, two.image + step - sky),
        blocked,
        threshold=config.threshold,
        growth=config.growth,
        tolerance=config.tolerance,
    )


def _difference(image: FloatImage, variance: FloatImage, usable: _Bool, artefacts: _Bool) -> SnapDifference:
    """Write NaN to both planes where not `usable`, and to artefacts with the pixels beside them, which hold their rim.

    An artefact is in one snap only, so all of it would be flux.
    """
    image[~usable], variance[~usable] = np.nan, np.nan
    at_rows, at_columns = np.nonzero(artefacts)
    rim = grown((at_rows, at_columns), (image.shape[0], image.shape[1]))
    image[rim], variance[rim] = np.nan, np.nan
    return SnapDifference(image, variance)


def _combined(one: _Snap, two: _Snap, step: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return image and variance of the sum; `step` is the smooth difference of the skies, the first less the second."""
    image, variance = np.empty_like(one.image), np.empty_like(one.image)
    shares = np.array([one.share, two.share], np.float32)
    planes = (one.image, one.variance, one.usable), (two.image, two.variance, two.usable)
    _combine(planes[0], planes[1], step, shares, image, variance)
    return image, variance


@njit(cache=True, nogil=True)
def _combine(one: Any, two: Any, step: Any, shares: Any, image: Any, variance: Any) -> None:  # pragma: no cover
    """Write the sum: from the one good snap on the sky of both, else the mean by the expected variances.

    The expected variance has the Poisson noise of what both saw, not of what a snap counted itself; never below 1/10.
    """
    tenth = np.float32(0.1)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            a, b, noise_a, noise_b = one[0][y, x], two[0][y, x], one[1][y, x], two[1][y, x]
            if one[2][y, x] and not two[2][y, x]:
                image[y, x], variance[y, x] = a - shares[1] * step[y, x], noise_a
            elif two[2][y, x] and not one[2][y, x]:
                image[y, x], variance[y, x] = b + shares[0] * step[y, x], noise_b
            else:
                both = shares[0] * a + shares[1] * b
                expected_a = max(noise_a + (both - a) / shares[0], tenth * noise_a)
                expected_b = max(noise_b + (both - b) / shares[1], tenth * noise_b)
                weight = expected_b / (expected_a + expected_b) if expected_a + expected_b > 0 else np.float32(0.5)
                rest = np.float32(1.0) - weight
                image[y, x] = weight * a + rest * b
                variance[y, x] = weight**2 * noise_a + rest**2 * noise_b


def _mask(one: _Snap, two: _Snap, in_one: _Bool, in_two: _Bool) -> MaskImage:
    """Return the planes of the snap a pixel was taken from; of both where it is from both, or neither is good.

    Beside an artefact a pixel that only the same snap has may belong to it: nothing tells, so it gets CR.
    """
    planes = np.where(one.usable == two.usable, one.mask | two.mask, np.where(one.usable, one.mask, two.mask))
    mask: MaskImage = planes.astype(np.int32, copy=False)
    height, width = mask.shape
    for artefacts, other in ((in_one, two), (in_two, one)):
        at_rows, at_columns = np.nonzero(artefacts)
        rows, columns = grown((at_rows, at_columns), (height, width))
        alone = ~other.usable[rows, columns]
        mask[rows[alone], columns[alone]] |= np.int32(MaskPlane.CR)
    return mask


def _info(first: ExposureInfo, second: ExposureInfo) -> ExposureInfo:
    """Return the identity of the sum: its midpoint is that of the light, its sha256 that of both sha256s."""
    total = first.exposureTime + second.exposureTime
    wait = second.midpointMjdTai - first.midpointMjdTai
    return replace(
        first,
        midpointMjdTai=first.midpointMjdTai + wait * second.exposureTime / total,
        exposureTime=total,
        sha256=hashlib.sha256(f"{first.sha256} {second.sha256}".encode()).hexdigest(),
        fileName=f"{first.fileName}+{second.fileName}",
    )


def _provenance(first: Exposure, second: Exposure) -> Mapping[str, str]:
    """Return what went into each, both named where they differ, and the sha256 of each raw file."""
    merged = dict(first.provenance)
    for name, used in second.provenance.items():
        merged[name] = used if merged.get(name, used) == used else f"{merged[name]}, {used}"
    return merged | {"snap0": first.info.sha256, "snap1": second.info.sha256}


def _metrics(first: Exposure, second: Exposure) -> dict[str, float]:
    """Return the mean of each metric that both have."""
    return {
        name: 0.5 * (first.metrics[name] + second.metrics[name]) for name in first.metrics if name in second.metrics
    }


def _sky_median(image: FloatImage, mask: MaskImage) -> float:
    """Median of the unflagged pixels, of every so-many-th row on large detectors."""
    stride = max(image.size // _SAMPLES, 1)
    good = image[::stride][mask[::stride] == 0]
    return float(np.median(good)) if good.size else float("nan")
