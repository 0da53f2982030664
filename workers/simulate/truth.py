"""Truth tables: what changed in each exposure and how well it could be seen, and what is on the sky."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.simulate.cadence import Visit, plan_visits
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.exposure import Frame
from workers.simulate.lightcurves import CONSTANT
from workers.simulate.optics import electrons_per_njy, psf_field
from workers.simulate.scene import Population
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.sky import make_sky, star_fluxes, transient_fluxes

__all__ = ["SATURATION_REACH", "exposure_truth", "object_table", "template_fluxes"]

_Float = NDArray[np.float64]
SATURATION_REACH = 15.0
"""Pixels: a source nearer than this to a saturated pixel is flagged."""
_KINDS = ("variable", "transient", "asteroid")


def template_fluxes(config: SimulatedSurvey, band: str) -> tuple[_Float, _Float]:
    """Return the mean flux over the archive visits in `band`, nJy, of every star and of every transient of the sky."""
    sky, index = make_sky(config), config.bands.index(band)
    epochs = [visit.midpoint for visit in plan_visits(config) if visit.role == "archive" and visit.band == band]
    if not epochs:
        return sky.stars["flux"][:, index].copy(), np.zeros(len(sky.transients))
    stars = np.mean([star_fluxes(sky.stars, index, mjd) for mjd in epochs], axis=0)
    transients = np.mean([transient_fluxes(sky.transients, index, mjd) for mjd in epochs], axis=0)
    return stars, transients


def exposure_truth(config: SimulatedSurvey, visit: Visit, detector: int, frame: Frame) -> Table:
    """Return one row per variable star, transient and asteroid whose position is on the detector.

    Columns: id, kind (variable, transient, asteroid), ra, dec (degrees ICRS at mid-exposure), x, y (true 0-based
    pixels), flux, templateFlux (mean over the archive visits), fluxChange, fluxErr (nJy; of a difference against
    the mean of the archive visits), snr = fluxChange / fluxErr, hostId (0: none), hostOffset (arcsec, NaN: none),
    saturatedDistance (pixels, at most 1000), nearSaturated, onDefect (a bad pixel within 2 pixels),
    neighbourDistance (pixels to the next row with abs(snr) above 3, at most 1000).
    Empty for a calibration frame.
    """
    table = _identity(config, visit, frame)
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    table["fluxErr"] = _errors(config, visit, detector, frame, table)
    table["snr"] = table["fluxChange"] / table["fluxErr"]
    table["saturatedDistance"] = _distance(frame.saturated, x, y)
    table["nearSaturated"] = table["saturatedDistance"] < SATURATION_REACH
    table["onDefect"] = _distance(detector_pattern(config, detector).defects, x, y) <= 2.0
    table["neighbourDistance"] = _neighbours(x, y, np.abs(np.asarray(table["snr"])) > 3.0)
    table.meta.update({"VISIT": visit.number, "DETECTOR": detector, "BAND": visit.band, "MJD": visit.midpoint})
    return table


def object_table(config: SimulatedSurvey) -> Table:
    """Return the static truth: one row per star, galaxy and transient of the sky.

    Asteroids are in the exposures' tables only. Columns: id, kind (star, variable, galaxy, transient), ra, dec,
    flux_<band> (nJy; mean, or peak of a transient), and what the kind has (NaN or 0 elsewhere): variability, period,
    phase, amplitude, profile, radius, axisRatio, angle, reference, rise, fall, hostId, hostOffset as in `sky.Sky`.
    """
    sky = make_sky(config)
    populations = (sky.stars, sky.galaxies, sky.transients)
    kinds = [np.where(sky.stars["variability"] == CONSTANT, "star", "variable")]
    kinds += [np.full(len(sky.galaxies), "galaxy"), np.full(len(sky.transients), "transient")]
    table = Table()
    table["id"] = np.concatenate([rows["id"] for rows in populations])
    table["kind"] = np.concatenate(kinds).astype("U9")
    for name in ("ra", "dec"):
        table[name] = np.concatenate([rows[name] for rows in populations])
    for index, band in enumerate(config.bands):
        table[f"flux_{band}"] = np.concatenate([rows["flux"][:, index] for rows in populations])
    for rows in populations:
        for name in (rows.dtype.names or ())[4:]:
            table[name] = np.concatenate([_column(other, name, rows.dtype[name]) for other in populations])
    return table


def _column(rows: NDArray[np.void], name: str, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """The column, or NaN (0 for integers) where these rows have none."""
    if name in (rows.dtype.names or ()):
        return np.asarray(rows[name])
    return np.full(len(rows), np.nan if dtype.kind == "f" else 0, dtype)


def _identity(config: SimulatedSurvey, visit: Visit, frame: Frame) -> Table:
    """The columns that follow from the scene."""
    names = ("id", "kind", "ra", "dec", "x", "y", "flux", "templateFlux", "fluxChange", "hostId", "hostOffset")
    if frame.scene is None:
        types = ["i8", "U9", *["f8"] * 7, "i8", "f8"]
        return Table(names=names, dtype=types)
    sky, (stars, transients) = make_sky(config), template_fluxes(config, visit.band)
    width, height = config.detectors.width, config.detectors.height
    parts = []
    for kind, whole in zip(_KINDS, (frame.scene.stars, frame.scene.transients, frame.scene.asteroids), strict=True):
        part = whole.within(width, height, 0.0)
        if kind == "variable":
            part = part.where(part.rows["variability"] != CONSTANT)
            template = stars[np.searchsorted(sky.stars["id"], part.rows["id"])]
        elif kind == "transient":
            template = transients[np.searchsorted(sky.transients["id"], part.rows["id"])]
        else:
            template = np.zeros(len(part.x))
        parts.append(_rows(kind, part, template))
    return Table({name: np.concatenate([part[name] for part in parts]) for name in names})


def _rows(kind: str, part: Population, template: _Float) -> dict[str, NDArray[np.generic]]:
    """The rows of one kind, as columns."""
    count = len(part.x)
    hosted = "hostId" in (part.rows.dtype.names or ())
    host = part.rows["hostId"] if hosted else np.zeros(count, np.int64)
    offset = part.rows["hostOffset"] if hosted else np.zeros(count)
    return {
        "id": part.rows["id"],
        "kind": np.full(count, kind, "U9"),
        "ra": part.ra,
        "dec": part.dec,
        "x": part.x,
        "y": part.y,
        "flux": part.flux,
        "templateFlux": template,
        "fluxChange": part.flux - template,
        "hostId": host,
        "hostOffset": np.where(host > 0, offset, np.nan),
    }


def _errors(config: SimulatedSurvey, visit: Visit, detector: int, frame: Frame, table: Table) -> _Float:
    """Error of a PSF-weighted flux in the difference, nJy.

    Variance = noise area × (light of everything else + dark + read noise²) + 4/3 × own electrons (the ratio
    sum(P³) / sum(P²)² of a Gaussian); and once more over the number of archive visits for the template.
    """
    if len(table) == 0:
        return np.zeros(0)
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    columns = np.clip(np.rint(x).astype(int), 0, config.detectors.width - 1)
    rows = np.clip(np.rint(y).astype(int), 0, config.detectors.height - 1)
    psf, scale = psf_field(config, visit, detector), electrons_per_njy(config, visit)
    own = np.asarray(table["flux"]) * scale
    flat = np.maximum(flat_field(config, detector, visit.band)[rows, columns], 0.1)
    # the light at the source's own pixel, less the source itself, but never less than 90 % of the darkest sky
    others = np.maximum(frame.light[rows, columns] - own * psf.peak(x, y), 0.9 * frame.light.min())
    noise = (
        detector_pattern(config, detector).dark[rows, columns] * visit.exposure_time + config.detectors.read_noise**2
    )
    epochs = sum(other.role == "archive" and other.band == visit.band for other in plan_visits(config))
    share = 1.0 / epochs if epochs else 0.0
    constant = psf.noise_area(x, y) * (others / flat + noise / flat**2) * (1.0 + share)
    template = np.asarray(table["templateFlux"]) * scale * share
    return np.asarray(np.sqrt(constant + 4.0 / 3.0 * (own + template) / flat) / scale)


def _distance(marked: NDArray[np.bool_], x: _Float, y: _Float) -> _Float:
    """Distance of each position to the nearest marked pixel, pixels, at most 1000."""
    rows, columns = np.nonzero(marked)
    if len(rows) == 0:
        return np.full(len(x), 1000.0)
    tree = cKDTree(np.stack([columns, rows], axis=-1))
    return np.asarray(np.minimum(tree.query(np.stack([x, y], axis=-1))[0], 1000.0))


def _neighbours(x: _Float, y: _Float, seen: NDArray[np.bool_]) -> _Float:
    """Distance of each position to the nearest other one that is `seen`, pixels, at most 1000."""
    distances = np.full(len(x), 1000.0)
    if np.count_nonzero(seen) < 2:
        return distances
    tree = cKDTree(np.stack([x[seen], y[seen]], axis=-1))
    found = tree.query(np.stack([x, y], axis=-1), k=2)[0]
    return np.asarray(np.minimum(np.where(seen, found[:, 1], found[:, 0]), 1000.0))
