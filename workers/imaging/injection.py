"""Fake sources: planned where real ones occur, and put into the pixels with their own photon noise.

A plan covers the places and kinds in which a difference-image search must work: blank sky, the light of galaxies, stars
that change, short trails; both signs. What fades was in the template, so such a source is injected there. Training on
fakes in random places alone fails near galaxies (arXiv:2510.17053), on variables and on fading sources (DMTN-337).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from schemas.errors import DataError
from workers.imaging.detection import detect
from workers.imaging.exposure import Exposure
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import aperture_fluxes, psf_centroids
from workers.imaging.psf import PsfModel

__all__ = ["INJECTION_DTYPE", "STRATA", "inject_pair", "inject_sources", "plan_injections"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

STRATA = {"sky": 0.35, "galaxy": 0.3, "star": 0.2, "trail": 0.15}
"""Share of each kind in a plan; what one can't place (no galaxies, few stars) goes to the sky."""

INJECTION_DTYPE = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("snr", "f8"),
        ("trailLength", "f8"),
        ("trailAngle", "f8"),
        ("inTemplate", "?"),
        ("starFlux", "f8"),
        ("addStar", "?"),
        ("stratum", "U8"),
    ]
)
"""Centre, 0-based pixels; flux in the difference, nJy, signed; its expected S/N, positive; length, pixels, and angle of
the trail, radians from x to y; whether the light is put into the template (flux is negative then); flux of the star
that changes, nJy (0: none), and whether that star has to be added to both images first."""

_DETECT_SIGMA = 3.0
_HOST_SNR = 20.0
_EXTENDED = 1.12
"""Growth from 0.75 to 2 FWHM, relative to the PSF's, from which a source is a galaxy."""
_NEGATIVE = 1.0 / 3.0
_STAR_SHARE = 0.1
"""Of the stars of an image that may change at once, since the matching kernel is fitted on stars. Further ones that
change are added, as bright as stars of the image."""
_DEEPEST_FADE = 0.9
_MAX_TRAIL = 15.0  # pixels
_TRAIL_STEP = 0.5
_COMPANIONS = 0.1
_BESIDE = 2.5, 6.0
"""FWHM, of a companion from its neighbour."""
_VISIBLE = 0.02
"""Of a source's peak: pixels above it carry INJECTED."""


@dataclass(frozen=True)
class _Hosts:
    """Where injections go: stars (x, y, flux nJy) and galaxies (x, y, half-light radius in pixels), each (n, 3)."""

    stars: _Float
    galaxies: _Float


def plan_injections(
    science: Exposure,
    template: Exposure,
    count: int,
    rng: np.random.Generator,
    snr_range: tuple[float, float] = (4.0, 100.0),
) -> _Rows:
    """Return up to `count` sources to inject, rows of INJECTION_DTYPE ordered by (y, x).

    Both exposures in nJy on one pixel grid. S/N, log-uniform in `snr_range`, is that of a PSF fit on the difference:
    flux over sqrt(noise area * (science + template variance)). Sources lie on usable pixels and at least one PSF
    stamp apart, but for one in ten that is put beside another; on a crowded or small image there are fewer than asked
    for.
    """
    usable = _usable(science) & _usable(template)
    if not usable.any():
        return np.zeros(0, INJECTION_DTYPE)
    hosts = _find_hosts(science, usable)
    candidates = np.concatenate(
        [_candidates(name, round(2 * share * count) + 1, hosts, usable, rng) for name, share in STRATA.items()]
    )
    fill = _candidates("sky", 2 * count, hosts, usable, rng)
    kept = _apart(np.concatenate([candidates, fill]), usable, science.need_psf().size)
    plan = _with_companions(_with_quotas(kept, count), usable, science, rng)
    plan = _with_fluxes(plan, science, template, rng, snr_range)
    return plan[np.lexsort((plan["x"], plan["y"]))]


def inject_pair(
    science: Exposure, template: Exposure, plan: _Rows, rng: np.random.Generator
) -> tuple[Exposure, Exposure]:
    """Return both exposures with the sources of `plan` put where they belong: rising ones and changes of stars into
    the science image, sources that have faded and added stars into the template (without photon noise: a coadd's is
    small).
    """
    before, after = plan[plan["inTemplate"] | plan["addStar"]].copy(), plan[~plan["inTemplate"]].copy()
    before["flux"] = np.where(before["inTemplate"], -before["flux"], before["starFlux"])
    after["flux"] += np.where(after["addStar"], after["starFlux"], 0.0)
    return inject_sources(science, after, rng), inject_sources(template, before, None)


def inject_sources(exposure: Exposure, sources: _Rows, rng: np.random.Generator | None) -> Exposure:
    """Return `exposure` (nJy) with `sources` (INJECTION_DTYPE) added and INJECTED set where they are visible.

    With `rng` the added light gets Poisson noise by the exposure's own scale and the variance grows by light *
    nJyPerElectron; light taken away changes neither, since what is left has no less noise than the pixels show.
    Without `rng` the light is added as it is. Raises DataError where the exposure has no PSF, or noise is asked for and
    there is no photometric scale.
    """
    psf = exposure.need_psf()
    added = np.zeros(exposure.shape)
    mask = exposure.mask.copy()
    if len(sources):
        _paint(added, mask, psf, sources)
    image, variance = exposure.image + added.astype(np.float32), exposure.variance
    if rng is not None:
        if exposure.photo is None:
            raise DataError(
                f"exposure {exposure.info.label} has no photometric calibration, so the photon noise of injected "
                "sources is unknown; run `skydelta isr` on the raw file first"
            )
        scale = exposure.photo.nJyPerElectron
        light = np.flatnonzero(added > 0.0)
        expected = added.ravel()[light]
        image.ravel()[light] += (rng.poisson(expected / scale) * scale - expected).astype(np.float32)
        variance = variance + np.float32(scale) * np.maximum(added, 0.0).astype(np.float32)
    return exposure.replaced(image=image, variance=variance, mask=mask, snaps=exposure.snaps)


def _paint(added: _Float, mask: NDArray[np.int32], psf: PsfModel, sources: _Rows) -> None:
    """Add PSFs to `added`, trails as rows of them, and set INJECTED in `mask`; both in place."""
    pieces = np.maximum(np.ceil(sources["trailLength"] / _TRAIL_STEP).astype(int), 1)
    owner = np.repeat(np.arange(len(sources)), pieces)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    along = ((rank + 0.5) / pieces[owner] - 0.5) * sources["trailLength"][owner]
    x = sources["x"][owner] + along * np.cos(sources["trailAngle"][owner])
    y = sources["y"][owner] + along * np.sin(sources["trailAngle"][owner])
    stamps = psf.stamps_at(x, y)
    reach = np.arange(psf.size) - psf.size // 2
    rows = np.broadcast_to((np.round(y).astype(int)[:, None] + reach)[:, :, None], stamps.shape)
    columns = np.broadcast_to((np.round(x).astype(int)[:, None] + reach)[:, None, :], stamps.shape)
    inside = (rows >= 0) & (rows < added.shape[0]) & (columns >= 0) & (columns < added.shape[1])
    light = stamps * (sources["flux"] / pieces)[owner][:, None, None]
    np.add.at(added, (rows[inside], columns[inside]), light[inside])
    visible = inside & (stamps > _VISIBLE * stamps.max(axis=(1, 2), keepdims=True))
    mask[rows[visible], columns[visible]] |= int(MaskPlane.INJECTED)


def _usable(exposure: Exposure) -> _Bool:
    return usable_pixels(exposure.image, exposure.variance, exposure.mask)


def _find_hosts(science: Exposure, usable: _Bool) -> _Hosts:
    """Return the stars and galaxies of an image, told apart by how their light grows with the aperture."""
    noise = np.sqrt(np.where(usable, science.variance, np.median(science.variance[usable])))
    found = detect(science.image, noise, ~usable, threshold=_DETECT_SIGMA).rows
    psf = science.need_psf()
    fwhm = psf.fwhm(science.shape[1] / 2, science.shape[0] / 2)
    x, y = found["x"], found["y"]
    planes = science.image, science.variance, usable
    inner, _, flags = aperture_fluxes(*planes, x, y, 0.75 * fwhm)
    outer, error, _ = aperture_fluxes(*planes, x, y, 2.0 * fwhm)
    stamp = psf.stamps(x, y)
    axis = np.arange(psf.size) - psf.size // 2
    radius = np.hypot(axis[:, None], axis[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        own = stamp[:, radius <= 2.0 * fwhm].sum(axis=1) / stamp[:, radius <= 0.75 * fwhm].sum(axis=1)
        growth = outer / inner / own
        good = (outer > _HOST_SNR * error) & (flags == 0) & np.isfinite(growth)
    extended = growth > _EXTENDED
    galaxies = np.column_stack([x, y, 1.1774 * np.sqrt(found["a"] * found["b"])])[good & extended]
    centre = psf_centroids(*planes, psf, x[good & ~extended], y[good & ~extended])
    stars = np.column_stack([centre["x"], centre["y"], centre["flux"]])
    return _Hosts(stars[(centre["flags"] == 0) & (stars[:, 2] > 0.0)], galaxies)


def _candidates(stratum: str, count: int, hosts: _Hosts, usable: _Bool, rng: np.random.Generator) -> _Rows:
    """Return positions and trails for one stratum; the galaxy and star ones only as far as there are hosts."""
    height, width = usable.shape
    place = rng.uniform((-0.5, -0.5), (width - 0.5, height - 0.5), (count, 2))
    if stratum == "galaxy":
        host = hosts.galaxies[rng.permutation(len(hosts.galaxies))[:count]]
        angle, reach = rng.uniform(0.0, 2.0 * np.pi, len(host)), host[:, 2] * rng.uniform(0.0, 2.0, len(host))
        place = host[:, :2] + np.column_stack([reach * np.cos(angle), reach * np.sin(angle)])
    elif stratum == "star":
        own = hosts.stars[rng.permutation(len(hosts.stars))[: int(np.ceil(_STAR_SHARE * len(hosts.stars)))]]
        place = np.concatenate([own[:, :2], place[: count if len(own) else 0]])
    rows = np.zeros(len(place), INJECTION_DTYPE)
    rows["x"], rows["y"], rows["stratum"] = place[:, 0], place[:, 1], stratum
    if stratum == "star" and len(rows):
        rows["starFlux"] = np.concatenate([own[:, 2], rng.choice(hosts.stars[:, 2], len(rows) - len(own))])
        rows["addStar"][len(own) :] = True
    if stratum == "trail":
        rows["trailLength"] = rng.uniform(0.0, _MAX_TRAIL, len(rows))
        rows["trailAngle"] = rng.uniform(0.0, np.pi, len(rows))
    return rows


def _apart(rows: _Rows, usable: _Bool, separation: float) -> _Rows:
    """Return the rows on usable pixels, without those closer than `separation` pixels to an earlier one."""
    column, row = np.round(rows["x"]).astype(int), np.round(rows["y"]).astype(int)
    inside = (column >= 0) & (column < usable.shape[1]) & (row >= 0) & (row < usable.shape[0])
    inside[inside] = usable[row[inside], column[inside]]
    rows = rows[inside]
    # scarce places first; the sky that fills up comes last
    rows = rows[np.argsort(_rank(rows["stratum"], ("star", "galaxy", "trail", "sky")), kind="stable")]
    neighbours = cKDTree(np.column_stack([rows["x"], rows["y"]])).query_ball_point(
        np.column_stack([rows["x"], rows["y"]]), separation
    )
    kept = np.zeros(len(rows), bool)
    for index, near in enumerate(neighbours):
        kept[index] = not kept[near].any()
    return rows[kept]


def _with_companions(plan: _Rows, usable: _Bool, science: Exposure, rng: np.random.Generator) -> _Rows:
    """Return the plan with some of the sources on empty sky moved beside others: real changes are close at times."""
    movable = np.flatnonzero(plan["stratum"] == "sky")[: round(_COMPANIONS * len(plan))]
    others = np.setdiff1d(np.arange(len(plan)), movable)
    if len(movable) == 0 or len(others) == 0:
        return plan
    fwhm = science.need_psf().fwhm(0.5 * usable.shape[1], 0.5 * usable.shape[0])
    beside = rng.choice(others, len(movable), replace=len(movable) > len(others))
    distance, angle = fwhm * rng.uniform(*_BESIDE, len(movable)), rng.uniform(0.0, 2.0 * np.pi, len(movable))
    x, y = plan["x"][beside] + distance * np.cos(angle), plan["y"][beside] + distance * np.sin(angle)
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    good = (column >= 0) & (column < usable.shape[1]) & (row >= 0) & (row < usable.shape[0])
    good[good] = usable[row[good], column[good]]
    moved = plan.copy()
    moved["x"][movable[good]], moved["y"][movable[good]] = x[good], y[good]
    return moved


def _rank(names: NDArray[np.str_], order: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each name in `order`."""
    return np.select([names == name for name in order], list(range(len(order)))).astype(np.int64)


def _with_quotas(rows: _Rows, count: int) -> _Rows:
    """Return at most `count` rows, each stratum within its share and the sky filling up."""
    parts = [rows[rows["stratum"] == name][: round(share * count)] for name, share in STRATA.items() if name != "sky"]
    others = np.concatenate(parts)[:count]
    sky = rows[rows["stratum"] == "sky"][: count - len(others)]
    return np.concatenate([others, sky])


def _with_fluxes(
    plan: _Rows,
    science: Exposure,
    template: Exposure,
    rng: np.random.Generator,
    snr_range: tuple[float, float],
) -> _Rows:
    """Fill snr, flux and inTemplate of a copy of `plan`."""
    plan = plan.copy()
    x, y = plan["x"], plan["y"]
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    variance = science.variance[row, column] + template.variance[row, column]
    area = np.maximum(science.need_psf().noise_area(x, y), template.need_psf().noise_area(x, y))
    fwhm = science.need_psf().fwhm(science.shape[1] / 2, science.shape[0] / 2)
    sigma = np.sqrt(variance * area * (1.0 + plan["trailLength"] / fwhm) + _photon_variance(plan, science))
    plan["snr"] = np.exp(rng.uniform(np.log(snr_range[0]), np.log(snr_range[1]), len(plan)))
    star, trail = plan["stratum"] == "star", plan["stratum"] == "trail"
    fades = rng.random(len(plan)) < np.where(star, 0.5, np.where(trail, 0.0, _NEGATIVE))
    plan["flux"] = np.where(fades, -1.0, 1.0) * plan["snr"] * sigma
    plan["inTemplate"] = fades & ~star
    factor = np.where(star & fades, np.minimum(1.0, _DEEPEST_FADE * plan["starFlux"] / np.abs(plan["flux"])), 1.0)
    plan["flux"] *= factor
    plan["snr"] *= factor
    return plan


def _photon_variance(plan: _Rows, science: Exposure) -> _Float:
    """Return the variance of a PSF flux, nJy², that the photons of the star to be added cause."""
    if science.photo is None:
        return np.zeros(len(plan))
    stamps = science.need_psf().stamps(plan["x"], plan["y"])
    gain = (stamps**3).sum(axis=(1, 2)) / np.square(np.square(stamps).sum(axis=(1, 2)))
    return np.where(plan["addStar"], science.photo.nJyPerElectron * plan["starFlux"] * gain, 0.0)
