"""From electrons to a calibrated exposure: background, PSF, WCS, zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.astrometry import Astrometry, solve_astrometry
from workers.characterize.psf_fit import PsfFit, fit_psf
from workers.characterize.star_selection import select_stars
from workers.characterize.zero_point import ZeroPoint, fit_zero_point
from workers.imaging.background import Background, source_free_background
from workers.imaging.detection import Detections, detect
from workers.imaging.exposure import Exposure, PhotoCalib
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.photometry import PhotometryFlag, psf_centroids, psf_fluxes, usable_pixels
from workers.imaging.psf import PsfModel
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs
from workers.survey.characterize_config import CharacterizeConfig

__all__ = ["SOURCE_DTYPE", "Frame", "Sky", "characterize", "measure_frame"]

_Bool = NDArray[np.bool_]

SOURCE_DTYPE = np.dtype(
    [(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "fluxErr", "snr")] + [("clean", "?")]
)
"""A measured source: position and error in pixels, PSF flux and error in electrons; clean: no flag of any kind."""

THRESHOLD = 5.0
"""Sigma, of the detections that are measured."""
LIMIT_SIGMA = 5.0
SPIKE = 2.0
"""A pixel that exceeds the fitted star's by this factor, and by the threshold, is not a star's."""


@dataclass(frozen=True)
class Sky:
    """The exposure less its background, and what was detected on it."""

    image: NDArray[np.float32]
    """(height, width), electrons."""
    background: Background
    usable: _Bool
    detections: Detections


@dataclass(frozen=True)
class Frame:
    """What one exposure shows by itself, without a reference catalogue."""

    sky: Sky
    psf: PsfFit
    sources: NDArray[Any]
    """Rows of `SOURCE_DTYPE`; spikes (hot pixels, cosmic rays) are left out."""


def measure_frame(exposure: Exposure, config: CharacterizeConfig) -> Frame:
    """Measure background, PSF and stars of an exposure in electrons; no WCS is needed.

    Raises DataError where there is no sky or no star.
    """
    sky = _subtract_sky(exposure, config)
    psf = _measure_psf(exposure, sky, config)
    return Frame(sky, psf, _measure_sources(exposure, sky, psf.model))


def characterize(exposure: Exposure, reference: ReferenceCatalogue, config: CharacterizeConfig) -> Exposure:
    """Return `exposure` (electrons, with its header's WCS) in nJy: background-subtracted, with PSF, WCS and zero point.

    Image and variance are scaled by the zero point; the variance, which holds the sources' Poisson noise already, is
    not otherwise changed; pixels of detected sources get DETECTED. Metrics: background, backgroundRms (electrons),
    seeingFwhm (pixels), seeingArcsec, nPsfStars, nDetected, astrometricRms (arcsec per coordinate), nMatched, zeroPoint
    (nJy per electron), zeroPointErr (same unit), zeroPointScatter (relative), psfLimit (5 sigma, nJy).
    Raises DataError, naming the exposure, where there is no sky, no star, or no match; ConfigurationError where the
    catalogue lacks the band.
    """
    if exposure.unit != "electron":
        raise DataError(
            f"exposure {exposure.info.label} is in {exposure.unit}, not electrons: it was characterized before"
        )
    header_wcs = exposure.need_wcs()
    reference.in_band(exposure.info.band)
    try:
        frame = measure_frame(exposure, config)
        sight = solve_astrometry(
            header_wcs, frame.sources, reference, exposure.info.band, exposure.shape, config.astrometry
        )
        zero = _zero_point(frame.sources, reference, exposure.info.band, sight, config)
    except DataError as error:
        raise DataError(f"exposure {exposure.info.label} ({exposure.info.fileName}): {error}") from error
    return _calibrated(exposure, frame, sight, zero, reference)


def _subtract_sky(exposure: Exposure, config: CharacterizeConfig) -> Sky:
    """Subtract the background and detect what stands above it; saturated cores count as detections."""
    usable = usable_pixels(exposure.image, exposure.variance, exposure.mask)
    blocked = ~usable_pixels(exposure.image, exposure.variance, exposure.mask, BLOCKING & ~MaskPlane.SATURATED)
    background = source_free_background(exposure.image, blocked, mesh=config.background.mesh)
    image = exposure.image - background.level
    found = detect(image, background.noise, blocked, threshold=THRESHOLD)
    if len(found.rows) == 0:
        raise DataError(
            f"no source above {THRESHOLD:g} sigma (background {background.median:.1f}, "
            f"noise {background.medianNoise:.1f} electrons): shutter closed, clouds, or a wrong gain"
        )
    return Sky(image, background, usable, found)


def _measure_psf(exposure: Exposure, sky: Sky, config: CharacterizeConfig) -> PsfFit:
    """Choose stars and fit the PSF to them."""
    trusted = sky.usable & ((exposure.mask & int(MaskPlane.SUSPECT)) == 0)
    rows = sky.detections.rows
    noise = sky.background.noise
    stars = select_stars(sky.image, noise, trusted, rows, min_snr=config.psf.star_snr, stamp_size=config.psf.size)
    chosen = rows[stars.rows]
    return fit_psf(
        sky.image,
        exposure.variance,
        trusted,
        chosen["x"],
        chosen["y"],
        fwhm=stars.fwhm,
        size=config.psf.size,
        max_degree=config.psf.degree,
    )


def _measure_sources(exposure: Exposure, sky: Sky, psf: PsfModel) -> NDArray[Any]:
    """Return rows of `SOURCE_DTYPE`, one per detection that is no spike; where no PSF fits, as it was detected."""
    found = sky.detections.rows
    places = psf_centroids(sky.image, exposure.variance, sky.usable, psf, found["x"], found["y"])
    fluxes = psf_fluxes(sky.image, exposure.variance, sky.usable, psf, places["x"], places["y"])
    flags = places["flags"] | fluxes["flags"]
    fitted = (flags & int(PhotometryFlag.MASKED_CENTRE | PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)) == 0
    fitted &= fluxes["flux"] > 0.0
    rows = np.zeros(len(found), SOURCE_DTYPE)
    for name in ("x", "y"):
        rows[name] = np.where(fitted, places[name], found[name])
        rows[f"{name}Err"] = np.where(fitted, places[f"{name}Err"], np.nan)
    rows["flux"] = np.where(fitted, fluxes["flux"], found["flux"])
    rows["fluxErr"] = np.where(fitted, fluxes["fluxErr"], np.nan)
    rows["snr"] = np.where(fitted, fluxes["flux"] / fluxes["fluxErr"], 0.0)
    rows["clean"] = fitted & (flags == 0) & (found["flags"] == 0)
    return np.asarray(rows[~(fitted & _spikes(sky, psf, rows))])


def _spikes(sky: Sky, psf: PsfModel, rows: NDArray[Any]) -> _Bool:
    """Tell which sources are narrower than the PSF: hot pixels and cosmic rays that no mask knows."""
    found = sky.detections.rows
    middle = psf.stamps(found["x"], found["y"])[:, psf.size // 2, psf.size // 2]
    noise = sky.background.medianNoise
    return np.asarray(found["peak"] > SPIKE * rows["flux"] * middle + THRESHOLD * noise, bool)


def _zero_point(
    sources: NDArray[Any], reference: ReferenceCatalogue, band: str, sight: Astrometry, config: CharacterizeConfig
) -> ZeroPoint:
    """Compare the fluxes of the matched clean stars with the reference's."""
    flux, error = reference.in_band(band)
    stars, rows = sources[sight.source], sight.reference
    clean = stars["clean"]
    if (
        np.count_nonzero(clean) < config.astrometry.min_matches
    ):  # crowded: blends are better than nothing, outliers are clipped
        clean = np.isfinite(stars["fluxErr"])
    return fit_zero_point(
        stars["flux"][clean],
        stars["fluxErr"][clean],
        flux[rows[clean]],
        np.nan_to_num(error[rows[clean]]),
        min_stars=config.photometry.min_stars,
    )


def _calibrated(
    exposure: Exposure,
    frame: Frame,
    sight: Astrometry,
    zero: ZeroPoint,
    reference: ReferenceCatalogue,
) -> Exposure:
    """Put the pieces together."""
    sky, psf = frame.sky, frame.psf
    height, width = exposure.shape
    scale = np.float32(zero.nJyPerElectron)
    middle = 0.5 * (width - 1), 0.5 * (height - 1)
    fwhm = psf.model.fwhm(*middle)
    noise = np.sqrt(float(np.median(exposure.variance[sky.usable])) * float(psf.model.noise_area(*middle)[0]))
    detected = np.where(sky.detections.segments > 0, np.int32(MaskPlane.DETECTED), np.int32(0))
    calibrated = exposure.replaced(
        image=sky.image * scale,
        variance=exposure.variance * scale**2,
        mask=exposure.mask | detected,
        unit="nJy",
        wcs=SkyWcs(sight.wcs.header()),  # as a file gives it back: fused stages see what separate ones see
        psf=psf.model,
        photo=PhotoCalib(zero.nJyPerElectron, zero.relativeError, zero.nStars),
        provenance={**exposure.provenance, "reference": reference.name},
    )
    return calibrated.with_metrics(
        background=sky.background.median,
        backgroundRms=sky.background.medianNoise,
        seeingFwhm=fwhm,
        seeingArcsec=fwhm * sight.wcs.pixel_scale(*middle),
        nPsfStars=float(np.count_nonzero(psf.used)),
        nDetected=float(len(sky.detections.rows)),
        astrometricRms=sight.rms,
        nMatched=float(len(sight.source)),
        zeroPoint=zero.nJyPerElectron,
        zeroPointErr=zero.nJyPerElectron * zero.relativeError,
        zeroPointScatter=zero.scatter,
        psfLimit=LIMIT_SIGMA * float(noise) * zero.nJyPerElectron,
    )
