"""Solve the calibrated exposures of one visit jointly: measure their stars again, and give each the visit's WCS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.visit_astrometry import VisitDetector, solve_visit
from workers.imaging.detection import detect
from workers.imaging.exposure import Exposure
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.photometry import PhotometryFlag, psf_centroids, psf_fluxes
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs
from workers.survey.characterize_config import AstrometryConfig

__all__ = ["STAR_DTYPE", "field_of", "measure_stars", "solve_exposures"]

STAR_DTYPE = np.dtype([(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "snr")])
"""What the astrometry needs of a source: position and error in pixels, flux in the image's unit, S/N."""
THRESHOLD = 5.0
"""Sigma, of a detection."""


def field_of(exposures: Sequence[Exposure]) -> tuple[float, float, float]:
    """Return centre and radius, degrees, of a circle round all the exposures by their WCS."""
    corners = [np.stack(one.need_wcs().footprint(one.shape), axis=1) for one in exposures]
    ra, dec = np.radians(np.concatenate(corners)).T
    points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    middle = points.mean(axis=0)
    middle /= np.linalg.norm(middle)
    radius = 2.0 * np.degrees(np.arcsin(np.clip(0.5 * np.linalg.norm(points - middle, axis=1).max(), 0.0, 1.0)))
    centre = np.degrees([np.arctan2(middle[1], middle[0]), np.arcsin(middle[2])])
    return float(centre[0] % 360.0), float(centre[1]), float(radius)


def measure_stars(exposure: Exposure) -> NDArray[Any]:
    """Detect the sources of a background-subtracted exposure and fit its PSF to them; rows of `STAR_DTYPE`.

    Where no PSF fits (saturated stars) the barycentre is given without an error. Raises DataError where the exposure
    has no PSF or shows no source.
    """
    psf = exposure.need_psf()
    usable = usable_pixels(exposure.image, exposure.variance, exposure.mask)
    blocked = ~usable_pixels(exposure.image, exposure.variance, exposure.mask, BLOCKING & ~MaskPlane.SATURATED)
    noise = np.sqrt(np.where(exposure.variance > 0.0, exposure.variance, 1.0))
    found = detect(exposure.image, noise, blocked, threshold=THRESHOLD).rows
    if len(found) == 0:
        raise DataError(f"exposure {exposure.info.label}: no source above {THRESHOLD:g} sigma")
    places = psf_centroids(exposure.image, exposure.variance, usable, psf, found["x"], found["y"])
    fluxes = psf_fluxes(exposure.image, exposure.variance, usable, psf, places["x"], places["y"])
    wrong = int(PhotometryFlag.MASKED_CENTRE | PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)
    fitted = ((places["flags"] | fluxes["flags"]) & wrong) == 0
    fitted &= fluxes["flux"] > 0.0
    rows = np.zeros(len(found), STAR_DTYPE)
    for name in ("x", "y"):
        rows[name] = np.where(fitted, places[name], found[name])
        rows[f"{name}Err"] = np.where(fitted, places[f"{name}Err"], np.nan)
    rows["flux"] = np.where(fitted, fluxes["flux"], found["flux"])
    with np.errstate(invalid="ignore", divide="ignore"):
        rows["snr"] = np.where(fitted, fluxes["flux"] / fluxes["fluxErr"], 0.0)
    return rows


def solve_exposures(
    exposures: Sequence[Exposure], reference: ReferenceCatalogue, config: AstrometryConfig
) -> list[Exposure | DataError]:
    """Return the exposures of one visit with the visit's WCS, or the error of each that has none.

    `reference` at the epoch of the visit. New metrics: astrometricRms (arcsec per coordinate), nMatched,
    astrometricEdgeError (arcsec per coordinate, expected at the worst point). Raises DataError where the exposures are
    not of one visit and band, or the visit can't be solved.
    """
    visits = {(one.info.visit, one.info.band) for one in exposures}
    if len(visits) != 1:
        raise DataError(f"exposures of one visit and band are solved jointly, these are of {sorted(visits)}")
    detectors = [VisitDetector(one.need_wcs(), measure_stars(one), one.shape, one.info.label) for one in exposures]
    solved = solve_visit(detectors, reference, exposures[0].info.band, config)
    results: list[Exposure | DataError] = []
    for one, found in zip(exposures, solved, strict=True):
        if isinstance(found, DataError):
            results.append(found)
            continue
        better = one.replaced(wcs=SkyWcs(found.wcs.header()))  # as a file gives it back
        better = better.with_metrics(
            astrometricRms=found.rms, nMatched=float(len(found.source)), astrometricEdgeError=found.edge_error
        )
        results.append(better.replaced(provenance={**one.provenance, "astrometry": f"visit of {len(exposures)}"}))
    return results
