"""What is said of objects: their mean positions and their fluxes per band, from all of their sources.

Objects with equally many sources are computed together, one row of a matrix each: the sums along a row are then the
same to the last bit, whichever objects are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas
from schemas import RowGroups
from workers.associate.match import SIGMA_FLOOR, offsets
from workers.database import OBJECT_DTYPE

__all__ = ["band_summaries", "summarise"]

Rows = NDArray[Any]
_Float = NDArray[np.float64]
_Int = NDArray[np.int64]


def summarise(numbers: _Int, sources: RowGroups) -> Rows:
    """Return the OBJECT_DTYPE row of each object, shape (n,); `numbers` are the ids, `sources` diaSource rows in time.

    The position is the mean weighted by the inverse variance (with the astrometric floor), in the tangent plane of the
    first source; errors in degrees, raErr on RA cos Dec. It is valid from the last source on. Every object must have a
    source.
    """
    summary = np.zeros(len(numbers), OBJECT_DTYPE)
    summary["diaObjectId"], summary["nDiaSources"] = numbers, sources.counts
    floor = SIGMA_FLOOR / 3600.0
    for members, places in _by_count(sources.counts):
        rows = sources.rows.take(places)
        ra0, dec0 = rows["ra"][:, :1], rows["dec"][:, :1]
        dx, dy = offsets(rows["ra"], rows["dec"], ra0, dec0)
        weight_x = 1.0 / (np.nan_to_num(rows["raErr"].astype(float)) ** 2 + floor**2)
        weight_y = 1.0 / (np.nan_to_num(rows["decErr"].astype(float)) ** 2 + floor**2)
        x, y = np.average(dx, axis=1, weights=weight_x), np.average(dy, axis=1, weights=weight_y)
        summary["ra"][members], summary["dec"][members] = _from_plane(x, y, ra0[:, 0], dec0[:, 0])
        summary["raErr"][members] = weight_x.sum(axis=1) ** -0.5
        summary["decErr"][members] = weight_y.sum(axis=1) ** -0.5
        summary["firstDiaSourceMjdTai"][members] = rows["midpointMjdTai"].min(axis=1)
        summary["lastDiaSourceMjdTai"][members] = rows["midpointMjdTai"].max(axis=1)
    summary["validityStartMjdTai"] = summary["lastDiaSourceMjdTai"]
    return summary


def band_summaries(sources: RowGroups) -> RowGroups:
    """Return each object's diaObjectBand rows, in order of the band's name, from its diaSource rows in order of time.

    The DPDD's flux statistics, nJy and nJy/day: means are weighted by the inverse variance; sigma is the sample's
    (ddof 1); the slope is the largest between successive points (DPDD table 2; LSE-163). NaN where there are too few
    points. Points without flux don't count.
    """
    rows = sources.rows
    bands, code = _codes(rows["band"])
    owner = np.repeat(np.arange(len(sources)), sources.counts)
    present, member = np.unique(owner * max(1, len(bands)) + code, return_inverse=True)
    summary = np.zeros(len(present), schemas.table_dtype("alert", "diaObjectBand"))
    for name in summary.dtype.names or ():
        if summary.dtype[name].kind == "f":
            summary[name] = np.nan
    order = np.argsort(member, kind="stable")  # by object and band, and in time within them
    rows, member = rows.take(order), member[order]
    good = np.isfinite(rows["psfFlux"]) & (rows["psfFluxErr"] > 0)
    science = good & np.isfinite(rows["scienceFlux"]) & (rows["scienceFluxErr"] > 0)
    _summarise_difference(summary, _chosen(rows, member, good, len(present)))
    _summarise_science(summary, _chosen(rows, member, science, len(present)))
    if len(bands):
        summary["band"] = np.array(bands)[present % len(bands)]
    return RowGroups(summary, np.bincount(present // max(1, len(bands)), minlength=len(sources)))


def _summarise_difference(summary: Rows, points: RowGroups) -> None:
    """Fill in the statistics of psfFlux."""
    summary["psfFluxNdata"] = points.counts
    for members, places in _by_count(points.counts):
        rows = points.rows.take(places)
        values, error = rows["psfFlux"].astype(float), rows["psfFluxErr"].astype(float)
        summary["psfFluxMean"][members], summary["psfFluxMeanErr"][members] = _weighted(values, error)
        summary["psfFluxMin"][members], summary["psfFluxMax"][members] = values.min(axis=1), values.max(axis=1)
        summary["psfFluxErrMean"][members] = error.mean(axis=1)
        if values.shape[1] > 1:
            summary["psfFluxSigma"][members] = np.std(values, axis=1, ddof=1)
            summary["psfFluxMaxSlope"][members] = _largest_slope(values, rows["midpointMjdTai"])


def _summarise_science(summary: Rows, points: RowGroups) -> None:
    """Fill in the statistics of scienceFlux."""
    for members, places in _by_count(points.counts):
        rows = points.rows.take(places)
        mean, error = _weighted(rows["scienceFlux"].astype(float), rows["scienceFluxErr"].astype(float))
        summary["scienceFluxMean"][members], summary["scienceFluxMeanErr"][members] = mean, error


def _weighted(flux: _Float, error: _Float) -> tuple[_Float, _Float]:
    """Return the mean along the rows, weighted by the inverse variance, and its error."""
    weight = error**-2
    total = weight.sum(axis=1)
    return (flux * weight).sum(axis=1) / total, total**-0.5


def _largest_slope(values: _Float, times: _Float) -> _Float:
    """Return the largest slope between successive points of different times along each row; NaN where none are."""
    step = np.diff(times, axis=1)
    apart = step > 0
    slope = np.divide(np.diff(values, axis=1), step, out=np.full(step.shape, -np.inf), where=apart)
    return np.where(apart.any(axis=1), slope.max(axis=1), np.nan)


def _from_plane(x: _Float, y: _Float, ra0: _Float, dec0: _Float) -> tuple[_Float, _Float]:
    """Inverse of the gnomonic projection, arcsec to degrees."""
    xi, eta = np.radians(x / 3600.0), np.radians(y / 3600.0)
    cos0, sin0 = np.cos(np.radians(dec0)), np.sin(np.radians(dec0))
    depth = cos0 - eta * sin0
    ra = ra0 + np.degrees(np.arctan2(xi, depth))
    dec = np.degrees(np.arctan2(sin0 + eta * cos0, np.hypot(depth, xi)))
    return np.asarray(ra % 360.0), np.asarray(dec)


def _by_count(counts: _Int) -> Iterator[tuple[_Int, _Int]]:
    """Yield for each number of rows n > 0 the g groups that have it, and where their rows lie, shape (g, n)."""
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]).tolist():
        members = np.flatnonzero(counts == count)
        yield members, starts[members][:, None] + np.arange(count)


def _chosen(rows: Rows, member: _Int, mask: NDArray[np.bool_], count: int) -> RowGroups:
    """Return the rows of the mask in their groups."""
    return RowGroups(rows.take(np.flatnonzero(mask)), np.bincount(member[mask], minlength=count))


def _codes(texts: Rows) -> tuple[list[str], _Int]:
    """Return the different texts, sorted, and the place of each text among them: np.unique, but fast for few."""
    values = texts.tolist()
    names = sorted(set(values))
    place = {name: k for k, name in enumerate(names)}
    return names, np.array([place[value] for value in values], np.int64)
