"""Image subtraction of one calibrated exposure: match, subtract, whiten, detect both signs, measure, flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import table_dtype
from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage, MaskImage
from workers.imaging.identity import dia_source_ids
from workers.imaging.masks import MaskPlane
from workers.imaging.stamps import Stamps, cut
from workers.subtract.control import FAINTEST, control_sources, sky_metrics, star_residual
from workers.subtract.detect import detect_peaks, one_per_region
from workers.subtract.difference import Matched, difference_image
from workers.subtract.dipole import pair_lobes
from workers.subtract.dipoles import dipole_candidates, measure_dipoles, redundant_lobes
from workers.subtract.flags import is_droppable, set_pixel_flags
from workers.subtract.glints import flag_glints
from workers.subtract.masking import blocked_pixels
from workers.subtract.matched_filter import robust_std, score_image
from workers.subtract.measure import (
    blank_rows,
    measure_extendedness,
    measure_fluxes,
    measure_positions,
    measure_shapes,
)
from workers.subtract.model_error import ModelErrors, model_errors
from workers.subtract.preconvolve import preconvolved_difference, suits
from workers.subtract.quiet import QuietSky, quiet_sky
from workers.subtract.runs import Runs, find_runs
from workers.subtract.snaps import measure_snaps
from workers.subtract.trails import measure_trails
from workers.subtract.zogy import zogy_difference
from workers.survey.config import SubtractConfig

__all__ = ["Subtraction", "subtract", "template_coverage"]

_Bool = NDArray[np.bool_]
_Index = NDArray[np.intp]
_Rows = NDArray[Any]
_DIPOLE_FWHM = 2.0
"""Within which peaks of opposite sign may be one dipole."""
_REGISTRATION = 0.05
"""Pixels along an axis, at the least: what a star may be off that is no dipole."""
_CLEAR_SIGMA = 2.0
"""Of the model per pixel: light that isn't sky."""
_CLEAR_FWHM = 2.0
"""Distance from any source of the pixels that tell the noise of the score, in units of the PSF's FWHM."""
_LIMIT_SIGMA = 5.0
_ANY_FIELD = 100
"""Sources that are never too many: small images have a few dozen of real ones."""


@dataclass(frozen=True)
class Subtraction:
    """A difference image and its sources."""

    difference: Exposure
    """nJy, whitened; `variance` gives PSF fluxes their true errors; `psf` of unit sum; metrics as below."""
    sources: _Rows
    """diaSource rows ordered by (y, x); timeProcessedMjdTai is 0, the worker fills it."""
    control: _Rows
    """Rows of `CONTROL_DTYPE`: sky sources and sources below the threshold."""
    stamps: Stamps
    """One set per source, in the same order; the template is the warped, not the convolved one."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Scored:
    """The difference with the errors it shows, and its score. What it was made of can be forgotten."""

    difference: Exposure
    score: FloatImage
    footprints: tuple[Runs, Runs]
    """Of the score beyond the threshold, positive and negative."""
    usable: _Bool
    """Pixels of the difference that may be measured."""
    halo: _Bool
    sky: QuietSky
    errors: ModelErrors
    fwhm: float
    """Of the difference's PSF in the middle, pixels."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Found:
    """Peaks that become sources, and the counts of those that do not."""

    peaks: _Rows
    partner: _Rows
    """Nearest strong peak of the other sign; score 0 where there is none."""
    suppressed: int


def template_coverage(template: Exposure) -> float:
    """Return the fraction of pixels in which the template has usable data."""
    return float(1.0 - np.mean(blocked_pixels(template)))


def subtract(science: Exposure, template: Exposure, config: SubtractConfig) -> Subtraction:
    """Return the difference science - template with its sources.

    Both exposures in nJy, of one shape, each with its PSF; the template warped to the science image's pixels.
    Raises DataError where shapes or units differ, the template covers too little, or no kernel can be fitted.
    """
    coverage = _checked_coverage(science, template, config)
    scored = _scored(_matched(science, template, config), config.threshold)
    difference, fwhm = scored.difference, scored.fwhm
    height, width = difference.shape
    found = _find(scored, config.threshold)
    rows, kept = _measured(found, scored, (science, template))
    stamps = _stamps(difference, science, template, rows, config.stamp_size)
    measure_shapes(rows, stamps, fwhm, difference.need_wcs().pixel_scale(width / 2, height / 2))
    set_pixel_flags(rows, stamps.differenceMask, fwhm)
    rows["glint_trail"] = flag_glints(rows, difference.shape)
    measure_extendedness(rows, science)
    measure_snaps(rows, science)
    control = control_sources(difference, scored.score, scored.usable, scored.sky, config.threshold, fwhm)
    metrics = {
        **scored.metrics,
        **sky_metrics(control, int(np.count_nonzero(scored.usable))),
        "sourceDensity": 1e6 * len(rows) / max(difference.image.size, 1),
        "sourceExcess": 1e6 * max(len(rows) - _ANY_FIELD, 0) / max(difference.image.size, 1),
        "templateCoverage": coverage,
        "psfLimit": _psf_limit(difference, scored.usable),
        "nPositive": float(np.count_nonzero(~rows["isNegative"])),
        "nNegative": float(np.count_nonzero(rows["isNegative"])),
        "nTrails": float(np.count_nonzero(np.isfinite(rows["trailLength"]))),
        "nGlints": float(np.count_nonzero(rows["glint_trail"])),
        "nDipoles": float(np.count_nonzero(rows["isDipole"])),
        "nDropped": float(len(found.peaks) - kept),
        "nSuppressed": float(found.suppressed),
    }
    metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
    return Subtraction(difference.with_metrics(**metrics), rows, control, stamps, metrics)


def _checked_coverage(science: Exposure, template: Exposure, config: SubtractConfig) -> float:
    """Return the template's coverage, or raise DataError where the pair can't be subtracted."""
    label = science.info.label
    if science.shape != template.shape:
        raise DataError(
            f"exposure {label}: science is {science.shape} and template {template.shape} pixels; "
            "warp the template to the science image first"
        )
    if science.unit != "nJy" or template.unit != "nJy":
        raise DataError(
            f"exposure {label}: science is in {science.unit} and template in {template.unit}, both must be in nJy; "
            "run `skydelta isr` on the raw files first"
        )
    coverage = template_coverage(template)
    if coverage < config.min_template_coverage:
        raise DataError(
            f"exposure {label}: the template covers {coverage:.0%} of it, less than subtract.min_template_coverage "
            f"({config.min_template_coverage:.0%}); build templates there with `skydelta templates build`"
        )
    return coverage


def _matched(science: Exposure, template: Exposure, config: SubtractConfig) -> Matched:
    """Return the whitened difference by the method asked for."""
    if config.method == "preconvolved" or (config.method == "auto" and suits(science, template)):
        return preconvolved_difference(science, template, config.kernel_degree, config.kernel_half_width)
    if config.method == "zogy":
        return zogy_difference(science, template, config.kernel_half_width, register=True)
    return difference_image(science, template, config.kernel_degree, config.kernel_half_width)


def _scored(matched: Matched, threshold: float) -> _Scored:
    """Return the difference, its score image with what is beyond the threshold, and what tells how good they are.

    Where that noise exceeds 1 (pixels correlated by earlier resampling, an optimistic variance plane) the variance is
    scaled so that scores and errors mean what they say; it is never scaled down.
    """
    difference, model, planes = matched.exposure, matched.model, matched.planes
    psf = difference.need_psf()
    fwhm = psf.fwhm(difference.shape[1] / 2, difference.shape[0] / 2)
    errors = model_errors(difference.image, difference.variance, model, matched.stars, int(np.ceil(fwhm)))
    score = score_image(difference.image, difference.variance, planes.excluded, psf, model=(model, errors))
    typical = np.sqrt(np.median(difference.variance[::4, ::4][~planes.excluded[::4, ::4]]))
    sky = quiet_sky(
        score,
        model,
        planes.excluded | planes.halo,
        new=FAINTEST,
        light=_CLEAR_SIGMA * float(typical),
        reach=_CLEAR_FWHM * fwhm,
    )
    sample = sky.sample(score)
    noise = robust_std(sample if len(sample) else score[~planes.excluded][::16])
    factor = max(noise, 1.0) if np.isfinite(noise) else 1.0
    if factor > 1.0:
        difference = difference.replaced(variance=difference.variance * np.float32(factor**2))
        score *= np.float32(1.0 / factor)
    footprints = find_runs(score, threshold), find_runs(score, threshold, -1.0)
    _mark_detections(planes.mask, footprints)
    metrics = {
        **matched.metrics,
        "scoreNoise": noise,
        "modelError": errors.share,
        "registrationError": errors.shift,
        "starResidual": star_residual(difference.image, difference.variance, model, matched.stars, int(np.ceil(fwhm))),
    }
    usable = ~planes.excluded & (difference.variance > 0.0)
    return _Scored(difference, score, footprints, usable, planes.halo, sky, errors, fwhm, metrics)


def _find(scored: _Scored, threshold: float) -> _Found:
    """Return the peaks ordered by (y, x), lobes of possible dipoles paired, one source at most per saturated halo."""
    height, width = scored.score.shape
    psf = scored.difference.need_psf().stamps(width / 2, height / 2)[0]
    peaks = detect_peaks(scored.score, scored.footprints, threshold, psf, scored.fwhm)
    alone = one_per_region(peaks, scored.halo)
    kept = peaks[alone]
    stronger, weaker = pair_lobes(kept, _DIPOLE_FWHM * scored.fwhm)
    partner = np.zeros(len(kept), kept.dtype)
    partner[stronger], partner[weaker] = kept[weaker], kept[stronger]
    order = np.lexsort((kept["x"], kept["y"]))
    return _Found(kept[order], partner[order], int(np.count_nonzero(~alone)))


def _measured(found: _Found, scored: _Scored, pair: tuple[Exposure, Exposure]) -> tuple[_Rows, int]:
    """Return measured rows ordered by (y, x), those without a usable centre left out, and their number."""
    difference, usable, fwhm = scored.difference, scored.usable, scored.fwhm
    info, peaks = difference.info, found.peaks
    rows = blank_rows(table_dtype("alert", "diaSource"), len(peaks))
    rows["snr"], rows["isNegative"] = np.abs(peaks["score"]), peaks["score"] < 0.0
    rows["bboxSize"] = peaks["bboxSize"]
    measure_positions(rows, difference, usable, peaks["x"], peaks["y"])
    keep = ~is_droppable(difference.mask, rows["x"], rows["y"])
    rows, partner = rows[keep], found.partner[keep]
    order = np.lexsort((rows["x"], rows["y"]))
    rows, partner = rows[order], partner[order]
    measure_fluxes(rows, difference, usable, *pair)
    candidates = dipole_candidates(rows, partner, scored.score, fwhm)
    measure_dipoles(rows, candidates, difference, *pair, usable, registration=max(_REGISTRATION, scored.errors.shift))
    rows = rows[~redundant_lobes(rows, fwhm)]
    rows = rows[~measure_trails(rows, difference, usable)]  # of a long trail's peaks the strongest stays
    rows["diaSourceId"] = dia_source_ids(info.visit, info.detector, len(rows))
    rows["visit"], rows["detector"], rows["band"] = info.visit, info.detector, info.band
    rows["midpointMjdTai"], rows["exposureTime"] = info.midpointMjdTai, info.exposureTime
    rows["timeProcessedMjdTai"] = 0.0
    return rows, len(rows)


def _mark_detections(mask: MaskImage, footprints: tuple[Runs, Runs]) -> None:
    """Set the DETECTED planes in the footprints."""
    for runs, plane in zip(footprints, (MaskPlane.DETECTED, MaskPlane.DETECTED_NEGATIVE), strict=True):
        for y, begin, end in zip(runs.row, runs.begin, runs.end, strict=True):
            mask[y, begin:end] |= int(plane)


def _stamps(difference: Exposure, science: Exposure, template: Exposure, rows: _Rows, size: int) -> Stamps:
    """Cut the stamps of all three images at the sources' positions."""
    planes = [cut(exposure, rows["x"], rows["y"], size) for exposure in (difference, science, template)]
    return Stamps(*planes[0], *planes[1], *planes[2])


def _psf_limit(difference: Exposure, usable: _Bool) -> float:
    """Return the flux, nJy, of a point source at 5 sigma on typical sky in the middle of the image."""
    good = usable[::4, ::4]
    if not good.any():
        return float("nan")
    height, width = difference.shape
    area = difference.need_psf().noise_area(width / 2, height / 2)[0]
    return _LIMIT_SIGMA * float(np.sqrt(np.median(difference.variance[::4, ::4][good]) * area))
