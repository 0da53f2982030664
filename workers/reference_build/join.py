"""Two catalogues of one piece of sky as one: duplicates out, stars of both joined, doubtful pairs left apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from workers.imaging.proper_motion import JULIAN_YEAR, moved
from workers.reference_build.columns import QUANTITIES, row_dtype

__all__ = ["Joined", "distinct", "join"]

_Float = NDArray[np.float64]
_Rows = NDArray[Any]
_Index = NDArray[np.int64]

SAME_PLACE = 1.0
"""mas: rows of one catalogue nearer than that are one star, read twice."""
DECISIVE = 0.5
"""A pair is taken where the next candidate of either star is at least twice as far."""
_RAD_PER_MAS = np.pi / (180.0 * 3.6e6)


def _directions(ra: _Float, dec: _Float) -> _Float:
    """Return unit vectors (n, 3)."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def distinct(rows: _Rows) -> _Index:
    """Return the indices of `rows` (`row_dtype`) without those that repeat a star, in an order of content alone."""
    columns = [*rows["fluxErr"].T, *rows["flux"].T, *(rows[key] for key in reversed(QUANTITIES))]
    order = np.lexsort(columns)
    if len(rows) < 2:
        return order
    place = _directions(rows["ra"][order], rows["dec"][order])
    pairs = KDTree(place).query_pairs(SAME_PLACE * _RAD_PER_MAS, output_type="ndarray")
    keep = np.ones(len(rows), bool)
    keep[pairs[:, 1]] = False  # of each pair the first stands
    return order[keep]


@dataclass(frozen=True)
class Joined:
    """What became of two catalogues."""

    rows: _Rows
    """`row_dtype` of the bands of the first, then of the second."""
    own: NDArray[np.bool_]
    """As given, by row."""
    joined: NDArray[np.bool_]
    """By row of the first catalogue."""
    left_out: NDArray[np.bool_]
    """By row of the second: near a star of the first, but not certainly it."""


def join(
    first: _Rows, first_own: NDArray[np.bool_], second: _Rows, second_own: NDArray[np.bool_], radius: float
) -> Joined:
    """Join stars of `first`, whose positions and motions stand, with those of `second` within `radius` mas.

    Places are compared at each second star's epoch. Stars are joined that are each other's nearest, with no rival less
    than twice as far; the second catalogue's other stars within the radius of one of the first are left out: blends
    and fragments, whose fluxes belong to nobody. `own` is carried along.
    """
    one, two, apart = _candidates(first, second, radius)
    nearest_two, clear_two = _best(one, two, apart, len(first))
    nearest_one, clear_one = _best(two, one, apart, len(second))
    rows = np.flatnonzero(clear_two)
    partner = nearest_two[rows]
    good = clear_one[partner] & (nearest_one[partner] == rows)
    rows, partner = rows[good], partner[good]
    joined, alone = np.zeros(len(first), bool), np.ones(len(second), bool)
    joined[rows] = True
    alone[two] = False
    left_out = ~alone
    left_out[partner] = False
    bands = first["flux"].shape[1]
    merged = np.full(len(first) + np.count_nonzero(alone), np.nan, row_dtype(bands + second["flux"].shape[1]))
    for key in QUANTITIES:
        merged[key] = np.concatenate([first[key], second[key][alone]])
    for key in ("flux", "fluxErr"):
        merged[key][: len(first), :bands] = first[key]
        merged[key][rows, bands:] = second[key][partner]
        merged[key][len(first) :, bands:] = second[key][alone]
    return Joined(merged, np.concatenate([first_own, second_own[alone]]), joined, left_out)


def _candidates(first: _Rows, second: _Rows, radius: float) -> tuple[_Index, _Index, _Float]:
    """Return rows of either and their distance, mas, of all pairs within `radius` at the second's epoch."""
    none = np.zeros(0, np.int64)
    if len(first) == 0 or len(second) == 0:
        return none, none, np.zeros(0)
    known = second["epoch"][np.isfinite(second["epoch"])]
    middle = float(np.median(known)) if known.size else np.nan
    spread = float(np.abs(known - middle).max()) / JULIAN_YEAR if known.size else 0.0
    speed = np.nan_to_num(np.hypot(first["pmRa"], first["pmDec"]))
    places = _directions(*_at(first, np.full(len(first), middle)))
    reach = (1.01 * radius + speed * spread) * _RAD_PER_MAS
    found = KDTree(_directions(second["ra"], second["dec"])).query_ball_point(places, reach)
    one = np.repeat(np.arange(len(first)), [len(near) for near in found])
    two = np.array([row for near in found for row in near], np.int64)
    then = np.where(np.isfinite(second["epoch"]), second["epoch"], middle)[two]
    place = _directions(*_at(first[one], then))
    apart = np.linalg.norm(place - _directions(second["ra"][two], second["dec"][two]), axis=1) / _RAD_PER_MAS
    near = apart <= radius
    return one[near], two[near], apart[near]


def _at(rows: _Rows, mjd: _Float) -> tuple[_Float, _Float]:
    """Return the places of rows at dates; what has no motion, or no date, stays."""
    years = np.nan_to_num((mjd - rows["epoch"]) / JULIAN_YEAR)
    return moved(rows["ra"], rows["dec"], np.nan_to_num(rows["pmRa"]), np.nan_to_num(rows["pmDec"]), years)[:2]


def _best(one: _Index, two: _Index, apart: _Float, count: int) -> tuple[_Index, NDArray[np.bool_]]:
    """Return, for each of `count` stars, its nearest candidate (-1: none), and whether it has no rival."""
    order = np.lexsort([two, apart, one])
    star, candidate, distance = one[order], two[order], apart[order]
    nearest, clear = np.full(count, -1), np.zeros(count, bool)
    begin = np.flatnonzero(np.diff(star, prepend=-1))
    nearest[star[begin]], clear[star[begin]] = candidate[begin], True
    following = begin[np.append(np.diff(begin), len(star) - begin[-1:]) > 1]
    clear[star[following]] = distance[following] <= DECISIVE * distance[following + 1]
    return nearest, clear
