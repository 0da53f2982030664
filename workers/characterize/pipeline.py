"""From electrons to a calibrated exposure: background, PSF, WCS, zero point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.astrometry import Astrometry, solve_astrometry
from workers.characterize.color_terms import ColorTerm
from workers.characterize.metrics import (
    background_metrics,
    horizon_metrics,
    psf_metrics,
    sky_metrics,
    wing_metrics,
    zero_point_metrics,
)
from workers.characterize.nightly_terms import catalogue_colors
from workers.characterize.psf_fit import PsfFit, fit_psf
from workers.characterize.star_selection import select_stars
from workers.characterize.zero_point import ZeroPoint, fit_zero_point
from workers.characterize.zero_point_clouds import sky_clarity
from workers.imaging.background import Background, source_free_background
from workers.imaging.background_layers import Box
from workers.imaging.detection import Detections, detect
from workers.imaging.exposure import Exposure, PhotoCalib
from workers.imaging.flagged_pixels import mark_pixels, usable_pixels
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.photometry import PhotometryFlag, psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.psf_wing import PsfWing, measure_wing
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs
from workers.survey.camera import Site
from workers.survey.characterize_config import CharacterizeConfig, PsfConfig

__all__ = ["SOURCE_DTYPE", "Frame", "Options", "Sky", "characterize", "measure_frame"]

_Bool = NDArray[np.bool_]

SOURCE_DTYPE = np.dtype(
    [(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "fluxErr", "snr")] + [("clean", "?")]
)
"""A measured source: position and error in pixels, PSF flux and error in electrons; clean: no flag of any kind."""

THRESHOLD = 5.0
"""Sigma, of the detections that are measured."""
LIMIT_SIGMA = 5.0
WING_SNR = 300.0
"""Of stars round which the PSF's wing is sought."""
SPIKE = 2.0
"""A pixel that exceeds the fitted star's by this factor, and by the threshold, is not a star's."""


@dataclass(frozen=True)
class Options:
    """What the survey says about how its exposures are characterized."""

    config: CharacterizeConfig
    amplifiers: tuple[Box, ...] = ()
    """Of the detector, (y0, y1, x0, x1); empty: no steps between them are looked for."""
    colorTerms: Mapping[str, ColorTerm] = field(default_factory=dict)
    """By band."""
    site: Site | None = None


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
    wing: PsfWing | None
    """The PSF beyond its stamp; None where too few stars show it."""


def measure_frame(exposure: Exposure, options: Options) -> Frame:
    """Measure background, PSF and stars of an exposure in electrons; no WCS is needed.

    Raises DataError where there is no sky or no star.
    """
    sky = _subtract_sky(exposure, options)
    psf = _measure_psf(exposure, sky, options.config.psf)
    sources = _measure_sources(exposure, sky, psf.model)
    return Frame(sky, psf, sources, _measure_wing(sky, psf.model, sources))


def characterize(exposure: Exposure, reference: ReferenceCatalogue, options: Options) -> Exposure:
    """Return `exposure` (electrons, with its header's WCS) in nJy: background-subtracted, with PSF, WCS and zero point.

    Image and variance are scaled by the zero point; the variance, which holds the sources' Poisson noise already, is
    not otherwise changed; pixels of detected sources get DETECTED. `reference` at the date of the exposure. Metrics:
    seeingFwhm (pixels), seeingArcsec, nDetected, and those of `workers.characterize.metrics`; what is not known is not
    among them. Raises DataError, naming the exposure, where there is no sky, no star, or no match; ConfigurationError
    where the catalogue lacks the band, or the bands of its colour term.
    """
    if exposure.unit != "electron":
        raise DataError(
            f"exposure {exposure.info.label} is in {exposure.unit}, not electrons: it was characterized before"
        )
    header_wcs = exposure.need_wcs()
    reference.in_band(exposure.info.band)
    try:
        frame = measure_frame(exposure, options)
        sight = solve_astrometry(
            header_wcs, frame.sources, reference, exposure.info.band, exposure.shape, options.config.astrometry
        )
        zero = _zero_point(frame, exposure, reference, sight, options)
    except DataError as error:
        raise DataError(f"exposure {exposure.info.label} ({exposure.info.fileName}): {error}") from error
    return _calibrated(exposure, frame, sight, zero, reference, options)


def _subtract_sky(exposure: Exposure, options: Options) -> Sky:
    """Subtract the background and detect what stands above it; saturated cores count as detections."""
    usable = usable_pixels(exposure.image, exposure.variance, exposure.mask)
    blocked = ~usable_pixels(exposure.image, exposure.variance, exposure.mask, BLOCKING & ~MaskPlane.SATURATED)
    config = options.config.background
    background = source_free_background(
        exposure.image,
        blocked,
        mesh=config.mesh,
        threshold=config.threshold,
        grow=config.grow,
        boxes=options.amplifiers if config.amplifier_steps else (),
    )
    image = exposure.image - background.level
    found = detect(image, background.noise, blocked, threshold=THRESHOLD)
    if len(found.rows) == 0:
        raise DataError(
            f"no source above {THRESHOLD:g} sigma (background {background.median:.1f}, "
            f"noise {background.medianNoise:.1f} electrons): shutter closed, clouds, or a wrong gain"
        )
    return Sky(image, background, usable, found)


def _measure_psf(exposure: Exposure, sky: Sky, config: PsfConfig) -> PsfFit:
    """Choose stars and fit the PSF to them."""
    trusted = sky.usable & ((exposure.mask & int(MaskPlane.SUSPECT)) == 0)
    rows = sky.detections.rows
    noise = sky.background.noise
    stars = select_stars(sky.image, noise, trusted, rows, min_snr=config.star_snr, stamp_size=config.size)
    chosen = rows[stars.rows]
    return fit_psf(
        sky.image,
        exposure.variance,
        trusted,
        chosen["x"],
        chosen["y"],
        fwhm=stars.fwhm,
        size=config.size,
        max_degree=config.degree,
        oversampling=None if config.oversample else 1,
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
    flux = fluxes["flux"] - np.nan_to_num(places["fluxBias"])  # a fitted position flatters the flux
    rows["flux"] = np.where(fitted, flux, found["flux"])
    rows["fluxErr"] = np.where(fitted, fluxes["fluxErr"], np.nan)
    rows["snr"] = np.where(fitted, flux / fluxes["fluxErr"], 0.0)
    rows["clean"] = fitted & (flags == 0) & (found["flags"] == 0)
    return np.asarray(rows[~(fitted & _spikes(sky, psf, rows))])


def _measure_wing(sky: Sky, psf: PsfModel, sources: NDArray[Any]) -> PsfWing | None:
    """Stack the surroundings of the brightest stars that are whole."""
    bright = sources[sources["clean"] & (sources["snr"] > WING_SNR)]
    inner = float(psf.size // 2)
    return measure_wing(
        sky.image, sky.usable, sky.detections.segments, bright["x"], bright["y"], bright["flux"], inner=inner
    )


def _spikes(sky: Sky, psf: PsfModel, rows: NDArray[Any]) -> _Bool:
    """Tell which sources are narrower than the PSF: hot pixels and cosmic rays that no mask knows."""
    found = sky.detections.rows
    middle = psf.stamps(found["x"], found["y"])[:, psf.size // 2, psf.size // 2]
    noise = sky.background.medianNoise
    return np.asarray(found["peak"] > SPIKE * rows["flux"] * middle + THRESHOLD * noise, bool)


def _zero_point(
    frame: Frame, exposure: Exposure, reference: ReferenceCatalogue, sight: Astrometry, options: Options
) -> ZeroPoint:
    """Compare the fluxes of the matched clean stars with the reference's."""
    band, config = exposure.info.band, options.config
    flux, error = reference.in_band(band)
    stars, rows = frame.sources[sight.source], sight.reference
    clean = stars["clean"]
    if np.count_nonzero(clean) < config.astrometry.min_matches:  # crowded: blends are better than nothing
        clean = np.isfinite(stars["fluxErr"])
    term = options.colorTerms.get(band)
    color = None if term is None else catalogue_colors(reference, term.color)[0][rows[clean]]
    chosen = stars[clean]
    return fit_zero_point(
        chosen["flux"],
        chosen["fluxErr"],
        flux[rows[clean]],
        np.nan_to_num(error[rows[clean]]),
        min_stars=config.photometry.min_stars,
        color=color,
        color_term=term,
        x=chosen["x"],
        y=chosen["y"],
        shape=exposure.shape if config.photometry.spatial else None,
    )


def _calibrated(
    exposure: Exposure,
    frame: Frame,
    sight: Astrometry,
    zero: ZeroPoint,
    reference: ReferenceCatalogue,
    options: Options,
) -> Exposure:
    """Put the pieces together."""
    sky, psf = frame.sky, frame.psf
    height, width = exposure.shape
    factor: NDArray[np.float32] | np.float32 = np.float32(zero.nJyPerElectron)
    if zero.spatial is not None:
        factor = factor * zero.plane(exposure.shape)
    middle = 0.5 * (width - 1), 0.5 * (height - 1)
    fwhm, scale = psf.model.fwhm(*middle), sight.wcs.pixel_scale(*middle)
    some = slice(None, None, max(min(exposure.shape) // 512, 1))
    typical = float(np.median(exposure.variance[some, some][sky.usable[some, some]]))
    noise = np.sqrt(typical * float(psf.model.noise_area(*middle)[0]))
    calibrated = exposure.replaced(
        image=np.multiply(sky.image, factor, out=sky.image),  # nobody else holds it
        variance=exposure.variance * np.square(factor),
        mask=mark_pixels(exposure.mask, sky.detections.segments, MaskPlane.DETECTED),
        unit="nJy",
        snaps=None if exposure.snaps is None else exposure.snaps.scaled(factor),
        wcs=SkyWcs(sight.wcs.header()),  # as a file gives it back: fused stages see what separate ones see
        psf=psf.model,
        photo=PhotoCalib(zero.nJyPerElectron, zero.relativeError, zero.nStars),
        provenance={**exposure.provenance, "reference": reference.name, **_color_provenance(zero)},
    )
    above = horizon_metrics(exposure.info, options.site)
    clarity = sky_clarity(
        zero,
        exposure.info.band,
        exposure.info.exposureTime,
        exposure.shape,
        options.config.photometry,
        airmass=above.get("airmass", 1.0),
    )
    metrics = {
        **above,
        **background_metrics(sky.background),
        "seeingFwhm": fwhm,
        "seeingArcsec": fwhm * scale,
        "nDetected": float(len(sky.detections.rows)),
        **psf_metrics(psf),
        **wing_metrics(frame.wing),
        **zero_point_metrics(zero, clarity),
        **sky_metrics(sky.background, sight, zero, LIMIT_SIGMA * float(noise) * zero.nJyPerElectron, scale),
    }
    return calibrated.with_metrics(**{name: value for name, value in metrics.items() if np.isfinite(value)})


def _color_provenance(zero: ZeroPoint) -> dict[str, str]:
    term = zero.colorTerm
    return {} if term is None else {"colorTerm": f"{term.color} {term.slope:+.5f} at {term.pivot:.3f}"}
