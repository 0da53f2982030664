"""The full mode: every source of a calibrated exposure, measured into one row of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.aperture_correction import fit_aperture_correction
from workers.characterize.catalogue_columns import APERTURE_RADII, SOURCE_CATALOGUE_DTYPE, source_ids
from workers.characterize.source_detection import Footprints, find_sources
from workers.characterize.source_surroundings import local_background, set_pixel_flags
from workers.imaging.adaptive_moments import MomentFlag, adaptive_moments, psf_moments
from workers.imaging.blends import fit_blends, groups_of
from workers.imaging.detection import sep_image
from workers.imaging.exposure import Exposure
from workers.imaging.extendedness import extendedness_of, spread_model
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.kron import kron_fluxes
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.photometry import PhotometryFlag, psf_centroids, psf_fluxes
from workers.imaging.wcs import SkyWcs

__all__ = ["THRESHOLD", "measure_sources"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

THRESHOLD = 5.0
"""Sigma, of detections."""
MOST_BLENDED = 150
"""Sources that are fitted together; the time grows with the cube."""
FARTHEST = 2.5
"""Pixels between a detection and its centroid."""
RING = (20.0, 32.0)
"""Pixels, of the local background."""
TRUNCATED = 0x10 | 0x40  # sep: the aperture leaves the image, or all of it is masked


@dataclass(frozen=True)
class _Scene:
    """An exposure and what was found on it."""

    exposure: Exposure
    usable: _Bool
    found: Footprints
    image: NDArray[np.float32]
    """As sep wants it, like the two that follow."""
    variance: NDArray[np.float32]
    masked: _Bool


def measure_sources(exposure: Exposure, *, threshold: float = THRESHOLD) -> _Rows:
    """Return one row of `SOURCE_CATALOGUE_DTYPE` for every source of a calibrated exposure, by (y, x) of its peak.

    `exposure` in nJy, background-subtracted, with PSF and WCS. Sources stand out by `threshold` sigma in the image
    smoothed with a Gaussian of the PSF's width. Units and meanings: `catalogue_columns`. What could not be measured is
    NaN and flagged. Raises DataError where the exposure is not calibrated or most of it lies above threshold.
    """
    if exposure.unit != "nJy":
        raise DataError(
            f"exposure {exposure.info.label} is in {exposure.unit}, not nJy: a catalogue needs a calibrated exposure; "
            "run `skydelta isr` on the raw file first"
        )
    wcs, psf = exposure.need_wcs(), exposure.need_psf()
    seen = usable_pixels(exposure.image, exposure.variance, exposure.mask, BLOCKING & ~MaskPlane.SATURATED)
    usable = seen & ((exposure.mask & int(MaskPlane.SATURATED)) == 0)
    found = find_sources(exposure, seen, threshold)
    image, masked = sep_image(exposure.image, ~usable)
    scene = _Scene(exposure, usable, found, image, np.where(masked, np.float32(0.0), exposure.variance), masked)
    rows = np.zeros(len(found.rows), SOURCE_CATALOGUE_DTYPE)
    for name in SOURCE_CATALOGUE_DTYPE.names or ():
        if SOURCE_CATALOGUE_DTYPE[name].kind == "f":
            rows[name] = np.nan
    if len(rows) == 0:
        return rows
    _identify(rows, scene)
    _measure_points(rows, scene)
    _correct_apertures(rows, scene)
    _measure_sky(rows, wcs)
    _measure_apertures(rows, scene)
    _measure_shapes(rows, scene)
    rows["spread"], rows["spreadErr"] = spread_model(
        exposure.image, exposure.variance, usable, psf, rows["x"], rows["y"]
    )
    rows["extendedness"] = extendedness_of(rows["spread"].astype(float), rows["spreadErr"].astype(float))
    level = local_background(exposure, usable, found.segments, rows["x"], rows["y"], RING)
    rows["localBackground"], rows["localBackgroundErr"] = level
    set_pixel_flags(rows, exposure.mask, 0.5 * psf.size)
    return rows


def _identify(rows: _Rows, scene: _Scene) -> None:
    """Fill ids, parents and what the detection says."""
    info, found = scene.exposure.info, scene.found
    rows["visit"], rows["detector"] = info.visit, info.detector
    rows["sourceId"] = source_ids(info.visit, info.detector, len(rows))
    _, first, inverse, count = np.unique(found.parents, return_index=True, return_inverse=True, return_counts=True)
    rows["nChild"] = count[inverse]
    rows["deblend_flag"] = rows["nChild"] > 1
    rows["parentSourceId"] = np.where(rows["deblend_flag"], rows["sourceId"][first[inverse]], 0)
    rows["detectionSnr"] = found.snr


def _measure_points(rows: _Rows, scene: _Scene) -> None:
    """Fill positions and PSF fluxes: of each source alone, then of those that share light together."""
    exposure, found = scene.exposure, scene.found.rows
    planes = exposure.image, exposure.variance, scene.usable, exposure.need_psf()
    split = rows["deblend_flag"]
    start = (np.where(split, found[f"{axis}peak"], found[axis]).astype(float) for axis in "xy")
    start_x, start_y = start
    places = psf_centroids(*planes, start_x, start_y, max_shift=FARTHEST)
    lost = (places["flags"] & int(PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)) != 0
    lost |= ~np.isfinite(places["xErr"]) | ~(places["flux"] > 0.0)
    for axis, first in (("x", start_x), ("y", start_y)):
        rows[axis] = np.where(lost, first, places[axis])
        rows[f"{axis}Err"] = np.where(lost, np.nan, places[f"{axis}Err"])
    rows["centroid_flag"] = lost
    fluxes = psf_fluxes(*planes, rows["x"], rows["y"])
    rows["psfFlux"] = fluxes["flux"] - np.where(lost, 0.0, np.nan_to_num(places["fluxBias"]))
    rows["psfFluxErr"], rows["psfChi2"], rows["psfNdata"] = fluxes["fluxErr"], fluxes["chi2"], fluxes["nPixels"]
    rows["psfFlux_flag_edge"] = (fluxes["flags"] & int(PhotometryFlag.EDGE)) != 0
    rows["psfFlux_flag_noGoodPixels"] = (fluxes["flags"] & int(PhotometryFlag.NO_SUPPORT)) != 0
    bad = int(PhotometryFlag.NO_SUPPORT | PhotometryFlag.MASKED_CENTRE)
    rows["psfFlux_flag"] = (fluxes["flags"] & bad) != 0
    _measure_blends(rows, scene, start_x, start_y)
    rows["snr"] = rows["psfFlux"] / rows["psfFluxErr"]


def _measure_blends(rows: _Rows, scene: _Scene, start_x: _Float, start_y: _Float) -> None:
    """Fit the sources that share light together; fill blendedness and nBlend of all."""
    exposure, psf = scene.exposure, scene.exposure.need_psf()
    # a lone fit among neighbours may have run to one of them: the split peaks are the better start
    x, y = np.where(rows["deblend_flag"], start_x, rows["x"]), np.where(rows["deblend_flag"], start_y, rows["y"])
    group, size = groups_of(x, y, rows["psfFlux"], rows["psfFluxErr"], psf)
    rows["nBlend"] = size[group]
    rows["blendedness"] = np.where(np.isfinite(rows["psfFlux"]), 0.0, np.nan)
    rows["blend_flag_tooLarge"] = rows["nBlend"] > MOST_BLENDED
    at = np.flatnonzero((rows["nBlend"] > 1) & ~rows["blend_flag_tooLarge"])
    if len(at) == 0:
        return
    fit = fit_blends(exposure.image, exposure.variance, scene.usable, psf, x[at], y[at], group[at])
    fit, at = fit[fit["solved"]], at[fit["solved"]]
    moved = fit["moved"]
    rows["psfFlux"][at] = fit["flux"] - np.where(moved, np.nan_to_num(fit["fluxBias"]), 0.0)
    for name, column in (("psfFluxErr", "fluxErr"), ("psfChi2", "chi2"), ("psfNdata", "nPixels")):
        rows[name][at] = fit[column]
    rows["blendedness"][at] = fit["blendedness"]
    for name in ("x", "y", "xErr", "yErr"):
        rows[name][at] = fit[name]
    rows["centroid_flag"][at] = ~moved


def _correct_apertures(rows: _Rows, scene: _Scene) -> None:
    """Fill what turns PSF fluxes into those of a wide aperture."""
    psf, known = scene.exposure.need_psf(), ~rows["centroid_flag"]
    rows["apCorr_flag"] = True
    try:
        correction = fit_aperture_correction(
            scene.exposure.image, scene.exposure.variance, scene.usable, psf, rows["x"][known], rows["y"][known]
        )
    except DataError:
        return  # flagged: a crowded field, or a short exposure
    rows["apCorr"], rows["apCorrErr"] = correction(rows["x"], rows["y"])
    rows["apCorr_flag"] = False


def _measure_sky(rows: _Rows, wcs: SkyWcs) -> None:
    """Fill ra, dec, their errors and covariance from the centroid's."""
    steps = np.array([[0.0, 0.0], [0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    ra, dec = wcs.pixel_to_sky(rows["x"][:, None] + steps[:, 0], rows["y"][:, None] + steps[:, 1])
    rows["ra"], rows["dec"] = ra[:, 0], dec[:, 0]
    east = (ra[:, [1, 3]] - ra[:, [2, 4]] + 180.0) % 360.0 - 180.0
    east *= np.cos(np.radians(dec[:, :1]))
    north = dec[:, [1, 3]] - dec[:, [2, 4]]
    squares = np.stack([np.square(rows["xErr"].astype(float)), np.square(rows["yErr"].astype(float))], axis=1)
    rows["raErr"] = np.sqrt((np.square(east) * squares).sum(axis=1))
    rows["decErr"] = np.sqrt((np.square(north) * squares).sum(axis=1))
    rows["ra_dec_Cov"] = (east * north * squares).sum(axis=1)


def _measure_apertures(rows: _Rows, scene: _Scene) -> None:
    """Fill the fluxes in circles; pixels that can't be used count as the mean of those left, neighbours as they are."""
    x, y = np.ascontiguousarray(rows["x"]), np.ascontiguousarray(rows["y"])
    for radius in APERTURE_RADII:
        found = sep.sum_circle(scene.image, x, y, float(radius), var=scene.variance, mask=scene.masked, subpix=0)
        rows[f"apFlux_{radius}"], rows[f"apFlux_{radius}Err"] = found[0], found[1]
        rows[f"apFlux_{radius}_flag"] = (np.asarray(found[2]) & TRUNCATED) != 0


def _measure_shapes(rows: _Rows, scene: _Scene) -> None:
    """Fill the adaptive moments of sources and PSF, and the Kron fluxes in ellipses of that shape."""
    exposure, psf, found = scene.exposure, scene.exposure.need_psf(), scene.found
    own = psf_moments(psf, rows["x"], rows["y"])
    sigma = float(np.sqrt(np.nanmedian(0.5 * (own[:, 0] + own[:, 1]))))
    labels = np.arange(1, len(rows) + 1)
    measured = adaptive_moments(
        exposure.image,
        exposure.variance,
        scene.usable,
        rows["x"],
        rows["y"],
        sigma,
        segments=found.segments,
        labels=labels,
    )
    failed = (measured["flags"] & ~int(MomentFlag.MASKED)) != 0
    rows["shape_flag"] = measured["flags"] != 0
    for column, name in enumerate(("ixx", "iyy", "ixy")):
        rows[name] = np.where(failed, np.nan, measured[name])
        rows[f"{name}Err"] = np.where(failed, np.nan, measured[f"{name}Err"])
        rows[f"{name}PSF"] = own[:, column]
    shape = np.stack([np.where(failed, own[:, k], measured[name]) for k, name in enumerate(("ixx", "iyy", "ixy"))], 1)
    kron = kron_fluxes(scene.image, scene.variance, scene.masked, (rows["x"], rows["y"]), shape, found.segments, labels)
    for name in ("kronFlux", "kronFluxErr", "kronRad"):
        rows[name] = kron[name]
    rows["kronFlux_flag"] = kron["flag"]
