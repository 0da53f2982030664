"""The reference catalogue: the brighter stars with the errors of a space astrometry mission."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from workers.imaging.bright_stars import AB_NJY
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.sky import make_sky
from workers.simulate.streams import stream

__all__ = ["reference_catalogue"]


def reference_catalogue(config: SimulatedSurvey) -> Table:
    """Return columns id, ra, dec (degrees ICRS), flux_<band> and flux_<band>_err (nJy), one row per star.

    Stars down to the limit in the first band; 2 % are missing, positions scatter by `reference_scatter_mas` per axis,
    fluxes by 0.5 % and a floor.
    """
    stars, sky = make_sky(config).stars, config.sky
    limit = 10.0 ** (-0.4 * (sky.reference_limit - AB_NJY))
    present = stream(config.seed, "reference.present").random(len(stars)) > 0.02
    shift = (
        stream(config.seed, "reference.position").standard_normal((len(stars), 2)) * sky.reference_scatter_mas / 3.6e6
    )
    keep = present & (stars["flux"][:, 0] > limit)
    table = Table()
    table["id"] = stars["id"][keep]
    table["ra"] = (stars["ra"] + shift[:, 0] / np.cos(np.radians(stars["dec"])))[keep]
    table["dec"] = (stars["dec"] + shift[:, 1])[keep]
    for index, band in enumerate(config.bands):
        flux = stars["flux"][:, index]
        error = np.hypot(0.005 * flux, 0.02 * limit)
        noise = stream(config.seed, f"reference.flux.{band}").standard_normal(len(stars))
        table[f"flux_{band}"], table[f"flux_{band}_err"] = (flux + error * noise)[keep], error[keep]
    return table
