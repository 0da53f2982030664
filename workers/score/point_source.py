"""How well a point source explains the pixels: PSF fit, growth, sharpness, moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.score.source_pixels import Floats, SourcePixels, ratio, total

__all__ = ["PointFit", "fit_point", "point_features"]

_CORE = 1.0
"""Radius of the core, FWHM."""
_RING = 2.5
_GROWTH = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class PointFit:
    """The PSF fitted to each source."""

    flux: Floats
    """Shape (n,), nJy, at least one sigma, so that it can divide."""
    snr: Floats
    """Of the fit, signed."""
    residual: Floats
    """Difference less the fitted source, 0 where not usable, (n, s, s)."""
    peak: Floats
    """Fitted value in the brightest pixel, (n,)."""


def fit_point(pixels: SourcePixels) -> PointFit:
    """Fit the amplitude of the PSF with inverse-variance weights (matched filter at the source's position)."""
    weighted = pixels.psf * pixels.weight
    norm = total(weighted * pixels.psf)
    snr = ratio(total(weighted * pixels.flux), np.sqrt(norm), 1e6)
    sigma = ratio(np.ones_like(norm), np.sqrt(norm), 1e30)
    flux = np.maximum(snr, 1.0) * sigma
    residual = np.where(pixels.good, pixels.flux - flux[:, None, None] * pixels.psf, np.float32(0.0))
    return PointFit(flux, snr, residual, flux * pixels.psf.max(axis=(1, 2)))


def point_features(pixels: SourcePixels, fit: PointFit) -> dict[str, Floats]:
    """Return features of the source itself, float32 (n,) each: zero or one where it is a perfect point source."""
    core = pixels.good & (pixels.radius < 1.5 * _CORE)
    ring = pixels.good & (pixels.radius >= 1.5 * _CORE) & (pixels.radius < _RING)
    chi2 = np.square(fit.residual) * pixels.weight
    out = {
        "fitSnr": fit.snr,
        "coreChi2": ratio(total(chi2 * core), total(core)),
        "ringChi2": ratio(total(chi2 * ring), total(ring)),
        "misfit": ratio(total(np.abs(fit.residual) * core), fit.flux),
    }
    for radius in _GROWTH:
        inside = pixels.good & (pixels.radius < radius)
        out[f"growth{radius:g}"] = ratio(total(pixels.flux * inside), fit.flux * total(pixels.psf * inside), 10.0)
    return {**out, **_sharpness(pixels, fit), **_moments(pixels)}


def _sharpness(pixels: SourcePixels, fit: PointFit) -> dict[str, Floats]:
    """How the brightest pixels compare with the PSF's."""
    core = pixels.good & (pixels.radius < _CORE)
    light = np.where(core, pixels.flux, np.float32(0.0))
    centre = pixels.flux.shape[1] // 2
    around = (slice(None), slice(centre - 1, centre + 2), slice(centre - 1, centre + 2))
    return {
        "sharpness": ratio(light.max(axis=(1, 2)), fit.peak, 20.0),
        "centreValue": ratio(pixels.flux[:, centre, centre], fit.peak, 20.0),
        "centreShare": ratio(total(np.abs(light[around])), total(np.abs(light)), 1.0),
        "deepest": ratio(
            np.where(pixels.good & (pixels.radius < _RING), pixels.flux, np.float32(0.0)).min(axis=(1, 2)),
            fit.peak,
            20.0,
        ),
    }


def _moments(pixels: SourcePixels) -> dict[str, Floats]:
    """Centroid, size and ellipticity under the PSF as weight, relative to the PSF's own."""
    own = np.maximum(pixels.psf, np.float32(0.0)) * pixels.good
    seen, model = own * pixels.flux, own * own
    squares = pixels.dx * pixels.dx + pixels.dy * pixels.dy
    plus, cross = pixels.dx * pixels.dx - pixels.dy * pixels.dy, 2.0 * pixels.dx * pixels.dy
    light, size = total(seen), total(seen * squares)
    ours, theirs = total(model * squares), total(model)
    offset = np.hypot(ratio(total(seen * pixels.dx), light), ratio(total(seen * pixels.dy), light))
    stretch = [ratio(total(seen * part), size, 5.0) - ratio(total(model * part), ours, 5.0) for part in (plus, cross)]
    return {
        "centroidOffset": ratio(offset, pixels.fwhm, 5.0),
        "size": ratio(ratio(size, light), ratio(ours, theirs), 10.0),
        "ellipticity": np.hypot(*stretch),
    }
