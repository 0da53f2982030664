"""The numbers by which an exposure is judged, and what they say of a night."""

from __future__ import annotations

import math

from workers.characterize.astrometry import Astrometry
from workers.characterize.psf_fit import PsfFit
from workers.characterize.zero_point import ZeroPoint
from workers.characterize.zero_point_clouds import SkyClarity
from workers.imaging.background import Background
from workers.imaging.bright_stars import AB_NJY
from workers.imaging.exposure import ExposureInfo
from workers.imaging.horizon import look_up
from workers.imaging.psf_wing import PsfWing
from workers.survey.camera import Site

__all__ = ["background_metrics", "horizon_metrics", "psf_metrics", "sky_metrics", "wing_metrics", "zero_point_metrics"]


def magnitude(flux: float) -> float:
    """Return the AB magnitude of `flux` (nJy), NaN where it is not positive."""
    return AB_NJY - 2.5 * math.log10(flux) if flux > 0.0 else math.nan


def background_metrics(background: Background) -> dict[str, float]:
    """Return background, backgroundRms (electrons), sourceFraction, and the largest amplifier step (electrons)."""
    found = {
        "background": background.median,
        "backgroundRms": background.medianNoise,
        "sourceFraction": background.sourceFraction,
    }
    if background.steps:
        found["amplifierStep"] = max(abs(step) for step in background.steps)
    return found


def horizon_metrics(info: ExposureInfo, site: Site | None) -> dict[str, float]:
    """Return altitude, airmass and parallacticAngle (degrees, north through east to the zenith) of the pointing.

    Empty without a site; an altitude below 0, which has no airmass, says that site or clock are wrong.
    """
    if site is None:
        return {}
    seen = look_up(info.ra, info.dec, info.midpointMjdTai, **site.model_dump())
    return {name: value for name, value in vars(seen).items() if math.isfinite(value)}


def psf_metrics(psf: PsfFit) -> dict[str, float]:
    """Return nPsfStars, psfE1, psfE2, psfEllipticity ((a - b) / (a + b)), psfSize (T, pixels²), and how well it fits.

    psfChi2 is the reserved stars' per degree of freedom, psfSizeSpread the relative change of T over the detector.
    """
    quality = psf.quality
    square = min(math.hypot(quality.e1, quality.e2), 1.0)
    ratio = math.sqrt((1.0 - square) / (1.0 + square))
    return {
        "nPsfStars": float(quality.nStars),
        "psfE1": quality.e1,
        "psfE2": quality.e2,
        "psfEllipticity": (1.0 - ratio) / (1.0 + ratio),
        "psfSize": quality.size,
        "psfSizeSpread": quality.sizeSpread / quality.size,
        "psfChi2": quality.chi2,
        "psfModelError": quality.modelError,
    }


def wing_metrics(wing: PsfWing | None) -> dict[str, float]:
    """Return the power law of the light beyond the PSF's stamp, per pixel in units of the PSF flux.

    light = wingScale (radius / wingRadius)^wingPower, radius in pixels; empty where no star shows it.
    """
    if wing is None:
        return {}
    return {"wingRadius": float(wing.radius[0]), "wingScale": wing.scale, "wingPower": wing.power}


def zero_point_metrics(zero: ZeroPoint, clarity: SkyClarity) -> dict[str, float]:
    """Return zeroPoint and its error (nJy per electron), scatter (relative), flags, and what it says of the sky."""
    return {
        "zeroPoint": zero.nJyPerElectron,
        "zeroPointErr": zero.nJyPerElectron * zero.relativeError,
        "zeroPointScatter": zero.scatter,
        "zeroPointChi2": zero.chi2,
        "zeroPointOutliers": zero.outliers,
        "zeroPointFlags": float(zero.flags),
        "transparency": clarity.transparency,
        "transparencyErr": clarity.transparencyErr,
        "cloudStructure": clarity.structure,
        "cloudFlag": float(clarity.cloudFlag),
    }


def sky_metrics(
    background: Background, sight: Astrometry, zero: ZeroPoint, limit: float, scale: float
) -> dict[str, float]:
    """Return what needs WCS and zero point: `limit` (nJy) is the flux of a point source at 5 sigma.

    astrometricRms (arcsec per coordinate), astrometricEdgeError (arcsec, expected at the worst corner), nMatched,
    psfLimit (nJy), limitingMagnitude, and skyMagnitude per square arcsecond of pixels `scale` arcsec wide (AB).
    """
    return {
        "astrometricRms": sight.rms,
        "astrometricEdgeError": sight.edge_error,
        "nMatched": float(len(sight.source)),
        "psfLimit": limit,
        "limitingMagnitude": magnitude(limit),
        "skyMagnitude": magnitude(background.median * zero.nJyPerElectron / scale**2),
    }
