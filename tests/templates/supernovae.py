"""Type Ia supernovae in fields with seasons, and how much of their light the product's selection puts in templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.imaging.wcs import SkyWcs
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry, CalexpQuality
from workers.templates.season import last_conjunction
from workers.templates.selection import input_weight, select_inputs
from workers.templates.window import inside_window

START, YEAR = 60000.0, 365.2564
DEEP = 24.3
"""AB magnitude at 5 sigma of a median visit."""
RISE = 18.5
"""Days from explosion to peak: 17.4 (Hayden et al. 2010, ApJ 712, 350) to 19.5 (Riess et al. 1999, AJ 118, 2675)."""
DECLINE = np.array(
    [
        (0, 0.0), (5, 0.06), (10, 0.30), (15, 0.62), (20, 0.80), (25, 0.92), (30, 1.10), (35, 1.40), (40, 1.70),
        (50, 2.15), (60, 2.55), (80, 3.25), (100, 3.90), (150, 5.00), (300, 7.20), (1300, 21.7),
    ]
)  # fmt: skip
"""Rest-frame days after peak and magnitudes below it, r band: the shoulder at 25 days, 0.034 mag a day until 100 days
(rounded from Contardo, Leibundgut & Vacca 2000, A&A 359, 876), 0.0145 mag a day as 56Co decays in the end. The bluer
light that r shows at z > 0.2 fades sooner: this errs to the long side."""
WCS = SkyWcs.tangent(10.0, 0.0, (50.0, 50.0), 1.0)


@dataclass(frozen=True)
class Field:
    """One band of one cell: its visits and their noise."""

    ra: float
    conjunctions: np.ndarray
    entries: tuple
    mjd: np.ndarray
    sigma: np.ndarray
    """Of a point source's flux, nJy."""


@dataclass(frozen=True)
class Supernovae:
    """What happens in a field."""

    redshift: np.ndarray
    peak: np.ndarray
    """MJD."""
    stretch: np.ndarray
    flux: np.ndarray
    """At peak, nJy."""

    def light(self, mjd):
        """Return the flux at each time in units of the peak's, (supernovae, times)."""
        return shape((mjd[None, :] - self.peak[:, None]) / ((1 + self.redshift) * self.stretch)[:, None])


def shape(days):
    """Return flux over peak flux, `days` (rest frame, stretch 1) after peak: t² at first, a parabola at peak."""
    rise = np.where(days < -10.0, 0.4 * (np.clip(days + RISE, 0.0, None) / (RISE - 10.0)) ** 2, 1.0 - 0.006 * days**2)
    return np.where(days < 0.0, rise, 10.0 ** (-0.4 * np.interp(days, DECLINE[:, 0], DECLINE[:, 1])))


def make_field(rng, *, years=6, visits=12, season=182.6):
    """Return a field with `visits` a year in `season` days round opposition; one visit in ten through clouds."""
    ra = rng.uniform(0.0, 360.0)
    conjunctions = last_conjunction(ra, START) + YEAR * np.arange(years + 1)
    mjd = np.concatenate([rng.uniform(-0.5, 0.5, visits) * season + c + YEAR / 2 for c in conjunctions[:-1]])
    mjd = np.sort(mjd)
    fwhm = 0.85 * np.exp(rng.normal(0.0, 0.2, len(mjd)))
    clear = np.where(rng.random(len(mjd)) < 0.1, rng.uniform(0.4, 0.75, len(mjd)), 1.0)
    noise = 10 ** (0.4 * (31.4 - DEEP)) / 5 / 0.85 * np.exp(rng.normal(0.0, 0.15, len(mjd))) / clear
    rows = zip(mjd, fwhm, noise, clear, strict=True)
    entries = tuple(
        CalexpEntry(Path("x"), k, 0, "r", t, "0", "0", WCS, (9, 9), f, n * n, 1.0, CalexpQuality(transparency=c))
        for k, (t, f, n, c) in enumerate(tuple(map(float, row)) for row in rows)
    )
    return Field(ra, conjunctions, entries, mjd, noise * fwhm)


def make_supernovae(rng, field, count, low=0.1, high=0.8):
    """Return supernovae at all times of the field's years but the first, to (1 + z)^1.5 per volume (Dilday+ 2008)."""
    z = np.linspace(0.0, high, 801)
    rate = 1.0 / np.sqrt(0.3 * (1 + z) ** 3 + 0.7)
    distance = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(z))])
    seen = np.where(z >= low, distance**2 * rate * (1 + z) ** 0.5, 0.0)
    redshift = np.interp(rng.random(count), np.cumsum(seen) / seen.sum(), z)
    modulus = 5 * np.log10(np.interp(redshift, z, distance) * (1 + redshift) * 299792.458 / 70.0) + 25.0
    magnitude = -19.1 + modulus - 2.5 * np.log10(1 + redshift) + rng.normal(0.0, 0.15, count)
    return Supernovae(
        redshift,
        rng.uniform(field.conjunctions[1], field.conjunctions[-1], count),
        np.clip(rng.normal(1.0, 0.1, count), 0.7, 1.3),
        10 ** (0.4 * (31.4 - magnitude)),
    )


def template_weights(field, config):
    """Return the share of each visit (column) in the template that each visit (row) is compared with.

    The product's own choice, for a job of the visit's day; rows without a template are zero.
    """
    shares = np.zeros((len(field.mjd),) * 2)
    for row, mjd in enumerate(field.mjd):
        today = config.at(float(mjd))
        for entry in select_inputs([(one, 1.0) for one in inside_window(field.entries, today)], today, field.ra):
            shares[row, entry.visit] = input_weight(entry)
    total = shares.sum(axis=1, keepdims=True)
    return shares / np.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class Contamination:
    """Template flux over peak flux of the supernovae that were detected where there was a template."""

    first: np.ndarray
    """In the template of the night of the first detection."""
    season: np.ndarray
    """The most at any visit that detects it, from the first on, in the season of the first."""
    ever: np.ndarray
    """The most at any visit that detects it."""
    bare: np.ndarray
    """Whether a visit of its season is left without a template (by a veto)."""


def contamination(field, sne, shares, *, veto=None):
    """Return what the templates hold of each supernova.

    With `veto`, in days of the rest frame, inputs later than that before the first detection are left out of an
    object's templates once it is there, as the survey's veto of known objects does.
    """
    light = sne.light(field.mjd)
    seen = (light * sne.flux[:, None] > 5.0 * field.sigma) & (shares.sum(axis=1) > 0)
    found = seen.any(axis=1)
    light, seen, redshift = light[found], seen[found], sne.redshift[found]
    first = seen.argmax(axis=1)
    keep = np.ones(light.shape)
    if veto is not None:
        keep = (field.mjd <= (field.mjd[first] - veto * (1 + redshift))[:, None]).astype(float)
    weight = keep @ shares.T
    template = (light * keep) @ shares.T / np.where(weight > 0, weight, 1.0)
    following = field.conjunctions[np.searchsorted(field.conjunctions, field.mjd[first], side="right")]
    season = seen & (field.mjd < following[:, None])
    rows = np.arange(len(first))
    return Contamination(
        ((light @ shares.T) if veto is None else template)[rows, first],
        np.where(season, template, 0.0).max(axis=1, initial=0.0),
        np.where(seen, template, 0.0).max(axis=1, initial=0.0),
        (season & (weight <= 0)).any(axis=1),
    )


def run(recipes, *, fields, count, seed=1, **cadence):
    """Return, by recipe, the contamination of `count` supernovae in each of `fields`; a recipe is (config, veto)."""
    rng = np.random.default_rng(seed)
    found = {name: [] for name in recipes}
    for _ in range(fields):
        field = make_field(rng, **cadence)
        sne = make_supernovae(rng, field, count)
        weights: dict[TemplatesConfig, np.ndarray] = {}
        for name, (config, veto) in recipes.items():
            if config not in weights:
                weights[config] = template_weights(field, config)
            found[name].append(contamination(field, sne, weights[config], veto=veto))
    return {
        name: Contamination(*(np.concatenate([getattr(part, key) for part in parts]) for key in vars(parts[0])))
        for name, parts in found.items()
    }
