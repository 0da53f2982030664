"""A year of visits of one field at random hour angles, placed on the sky by spherical trigonometry."""

from __future__ import annotations

import numpy as np

from workers.imaging.refraction import ARCSEC, BANDS, Air, ColorRefraction, blackbody_color, lever_vectors, mean_vector
from workers.templates.airmass import BinRules, bin_for, split_inputs

AIR = Air.at_height(2663.0)
LATITUDE = -30.24
PIVOT = float(blackbody_color(5200.0, BANDS["g"], BANDS["r"]))


def excess(band, temperature):
    """Return the excess of n - 1 of a blackbody over one of 5,200 K."""
    response = ColorRefraction(BANDS[band], BANDS["g"], BANDS["r"], AIR)
    return float(response.excess(blackbody_color(temperature, BANDS["g"], BANDS["r"]), PIVOT))


def sky(dec, hour):
    """Return zenith distance and parallactic angle, degrees, of a declination (degrees) at hour angles (hours)."""
    lat, dec, turn = np.radians(LATITUDE), np.radians(dec), np.radians(15.0 * np.asarray(hour))
    cosine = np.sin(lat) * np.sin(dec) + np.cos(lat) * np.cos(dec) * np.cos(turn)
    angle = np.arctan2(np.sin(turn), np.tan(lat) * np.cos(dec) - np.sin(dec) * np.cos(turn))
    return np.degrees(np.arccos(cosine)), np.degrees(angle)


def visits(rng, count, dec, airmass=2.0):
    """Return the vectors of `count` visits, uniform in hour angle below `airmass`."""
    zenith, angle = sky(dec, rng.uniform(-6.0, 6.0, 20 * count))
    low = np.flatnonzero(zenith < np.degrees(np.arccos(1.0 / airmass)))[:count]
    return lever_vectors(zenith[low], angle[low], AIR)


def season(rng, band, dec, inputs=40, nights=60, temperature=12000.0, spread=0.05):
    """Return what is left (arcsec) of a star in a year against one template and against bins, and inputs per template.

    `temperature` (K) is the star's and the one that the bins are made for.
    """
    rules = BinRules(contrast=excess(band, temperature), max_spread=spread)
    before, after = visits(rng, inputs, dec), visits(rng, nights, dec)
    weights = rng.uniform(0.5, 1.5, inputs)
    whole = mean_vector(before, weights)
    bins = split_inputs(before, weights, np.arange(inputs), rules)
    taken = [bin_for(vector, bins, whole, rules) for vector in after]
    centres = np.array([whole if one is None else one.vector for one in taken])
    used = np.array([inputs if one is None else len(one.rows) for one in taken])
    left = [ARCSEC * abs(rules.contrast) * np.hypot(*(after - centre).T) for centre in (whole, centres)]
    return left[0], left[1], used, bins
