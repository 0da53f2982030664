"""What is said of an object: its mean position and its fluxes per band, from all of its sources."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.associate.match import SIGMA_FLOOR, offsets
from workers.database import OBJECT_DTYPE

__all__ = ["band_summaries", "summarise"]

Rows = NDArray[Any]


def summarise(number: int, sources: Rows) -> Rows:
    """Return one OBJECT_DTYPE row for the object `number` from its diaSource rows in time order.

    The position is the mean weighted by the inverse variance (with the astrometric floor), in the tangent plane of the
    first source; errors in degrees, raErr on RA cos Dec. It is valid from the last source on.
    """
    row = np.zeros(1, OBJECT_DTYPE)
    ra0, dec0 = float(sources["ra"][0]), float(sources["dec"][0])
    dx, dy = offsets(sources["ra"], sources["dec"], ra0, dec0)
    floor = SIGMA_FLOOR / 3600.0
    weight_x = 1.0 / (np.nan_to_num(sources["raErr"].astype(float)) ** 2 + floor**2)
    weight_y = 1.0 / (np.nan_to_num(sources["decErr"].astype(float)) ** 2 + floor**2)
    x, y = np.average(dx, weights=weight_x), np.average(dy, weights=weight_y)
    row["diaObjectId"] = number
    row["ra"], row["dec"] = _from_plane(x, y, ra0, dec0)
    row["raErr"], row["decErr"] = weight_x.sum() ** -0.5, weight_y.sum() ** -0.5
    row["nDiaSources"] = len(sources)
    row["firstDiaSourceMjdTai"] = sources["midpointMjdTai"].min()
    row["lastDiaSourceMjdTai"] = row["validityStartMjdTai"] = sources["midpointMjdTai"].max()
    return row


def _from_plane(x: float, y: float, ra0: float, dec0: float) -> tuple[float, float]:
    """Inverse of the gnomonic projection, arcsec to degrees."""
    xi, eta = np.radians(x / 3600.0), np.radians(y / 3600.0)
    cos0, sin0 = np.cos(np.radians(dec0)), np.sin(np.radians(dec0))
    depth = cos0 - eta * sin0
    ra = ra0 + np.degrees(np.arctan2(xi, depth))
    dec = np.degrees(np.arctan2(sin0 + eta * cos0, np.hypot(depth, xi)))
    return float(ra % 360.0), float(dec)


def band_summaries(sources: Rows) -> list[dict[str, Any]]:
    """Return per band, in order of name, the DPDD's flux statistics of diaSource rows in time order; nJy, nJy/day.

    Means are weighted by the inverse variance; sigma is the sample's (ddof 1); the slope is the largest between
    successive points (DPDD table 2; LSE-163). None where there are too few points. Points without flux don't count.
    """
    found = []
    for band in sorted(set(sources["band"].tolist())):
        rows = sources[sources["band"] == band]
        rows = rows[np.isfinite(rows["psfFlux"]) & (rows["psfFluxErr"] > 0)]
        record: dict[str, Any] = {"band": str(band), "psfFluxNdata": len(rows)}
        record |= _statistics(rows["psfFlux"], rows["psfFluxErr"], rows["midpointMjdTai"])
        science = rows[np.isfinite(rows["scienceFlux"]) & (rows["scienceFluxErr"] > 0)]
        record |= _weighted(science["scienceFlux"], science["scienceFluxErr"], "scienceFlux")
        record |= {"fpFluxMean": None, "fpFluxMeanErr": None}
        found.append(record)
    return found


def _weighted(flux: Rows, error: Rows, name: str) -> dict[str, float | None]:
    if len(flux) == 0:
        return {f"{name}Mean": None, f"{name}MeanErr": None}
    weight = error.astype(float) ** -2
    mean = float(np.average(flux.astype(float), weights=weight))
    return {f"{name}Mean": mean, f"{name}MeanErr": float(weight.sum() ** -0.5)}


def _statistics(flux: Rows, error: Rows, times: Rows) -> dict[str, float | None]:
    values = flux.astype(float)
    record = _weighted(flux, error, "psfFlux")
    step = np.diff(times)
    slopes = np.diff(values)[step > 0] / step[step > 0]
    record["psfFluxSigma"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    record["psfFluxMin"] = float(values.min()) if len(values) else None
    record["psfFluxMax"] = float(values.max()) if len(values) else None
    record["psfFluxMaxSlope"] = float(slopes.max()) if len(slopes) else None
    record["psfFluxErrMean"] = float(error.astype(float).mean()) if len(values) else None
    return record
