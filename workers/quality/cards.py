"""From a decoded alert packet to the card that the page shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from workers.quality.page import AlertCard
from workers.quality.pictures import light_curve_svg, stamp_uri

__all__ = ["alert_card", "cutout_image", "light_curve"]

Packet = dict[str, Any]


def cutout_image(cutout: bytes) -> NDArray[np.float32]:
    """Return the image plane, float32 nJy, of one cutout's FITS bytes."""
    with fits.open(io.BytesIO(cutout)) as hdus:
        return np.array(hdus[0].data, np.float32)


def light_curve(packet: Packet) -> tuple[list[float], list[float], list[float], list[str]]:
    """Return times (MJD TAI), psfFlux and psfFluxErr (nJy) and bands of a packet's history with its own source."""
    rows = [*(packet["prvDiaSources"] or ()), packet["diaSource"]]
    rows = [row for row in rows if row["psfFlux"] is not None and row["psfFluxErr"] is not None]
    return (
        [row["midpointMjdTai"] for row in rows],
        [row["psfFlux"] for row in rows],
        [row["psfFluxErr"] for row in rows],
        [row["band"] or "" for row in rows],
    )


def alert_card(packet: Packet) -> AlertCard:
    """Return the card of one alert: triplet, light curve with upper limits, and what it says of itself."""
    source, template = packet["diaSource"], packet["template"]
    limits = [(limit["midpointMjdTai"], limit["psfLimit"]) for limit in packet["prvDiaNondetectionLimits"] or ()]
    stamps = {
        name: stamp_uri(cutout_image(packet[key]), symmetric=name == "difference")
        for name, key in (
            ("science", "cutoutScience"),
            ("template", "cutoutTemplate"),
            ("difference", "cutoutDifference"),
        )
        if packet[key]
    }
    facts = {
        "position": f"{source['ra']:.6f} {source['dec']:+.6f}",
        "flux": f"{_number(source['psfFlux'], 0)} ± {_number(source['psfFluxErr'], 0)} nJy ({source['band']})",
        "S/N": _number(source["snr"], 1),
        "reliability": _number(source["reliability"], 3),
        "history": f"{len(packet['prvDiaSources'] or ())} sources, {len(limits)} upper limits",
    }
    if template:
        facts["template"] = (
            f"{template['templateId']}, MJD {template['firstEpochMjdTai']:.1f}–{template['lastEpochMjdTai']:.1f}, "
            f"{template['nEpochs']} epochs"
        )
    times, fluxes, errors, bands = light_curve(packet)
    curve = light_curve_svg(times, fluxes, errors, bands, limits)
    return AlertCard(f"object {source['diaObjectId']} · alert {packet['diaSourceId']}", facts, stamps, curve)


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
