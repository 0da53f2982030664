"""Alerts packed per second on one core: three cutouts, histories of 30 and of 100 sources, with 300 upper limits.

Run: OMP_NUM_THREADS=1 python tests/bench/bench_packing.py
"""

from __future__ import annotations

import time

import numpy as np

import schemas
from schemas import RowGroups
from workers.alert.cutout import wcs_cards
from workers.alert.packing import encode_alerts
from workers.alert.pipeline import AlertContext
from workers.alert.rows import AlertRows
from workers.imaging.stamps import Stamps

STAMP, PSF = 31, 25
BANDS = ("g", "i", "r")
CONTEXT = AlertContext(
    "camera", 20250101, "0.1.0", target="field 4", modelVersion="m1", calibrations={"bias": "b-1", "flat": "f-1"}
)


def sources(random, count):
    """Rows as the subtract and score stages leave them: most fits are there, some are not."""
    rows = np.zeros(count, schemas.table_dtype("alert", "diaSource"))
    for name in rows.dtype.names:
        kind = rows.dtype[name].kind
        if kind == "f":
            rows[name] = random.normal(0, 1e3, count)
        elif kind == "b":
            rows[name] = random.random(count) < 0.05
    for name in ("trailFlux", "trailFluxErr", "trailLength", "timeProcessedMjdTai", "timeWithdrawnMjdTai"):
        rows[name] = np.nan
    rows["dipoleLength"][random.random(count) < 0.7] = np.nan
    for name in ("diaSourceId", "diaObjectId"):
        rows[name] = random.integers(2**58, 2**59, count)
    rows["visit"] = random.integers(2**30, 2**31, count)
    rows["psfNdata"] = random.integers(0, 1000, count)
    rows["band"], rows["reliabilityVersion"] = random.choice(BANDS, count), "lightgbm-1"
    return rows


def stamps(random, count):
    """Noise: what a cutout's pixels are to a packer."""

    def plane():
        image = random.normal(0, 100, (count, STAMP, STAMP)).astype(np.float32)
        mask = (random.random((count, STAMP, STAMP)) < 0.01).astype(np.int32)
        return image, np.square(image), mask, random.random((count, PSF, PSF)).astype(np.float32)

    return Stamps(*plane(), *plane(), *plane())


def exposure(count, history, limits, seed=1):
    """Return `count` alerts with their histories and their stamps."""
    random = np.random.default_rng(seed)
    objects = np.zeros(count, schemas.table_dtype("alert", "diaObject"))
    objects["diaObjectId"], objects["nDiaSources"] = random.integers(2**58, 2**59, count), history + 1
    bands = np.zeros(count * len(BANDS), schemas.table_dtype("alert", "diaObjectBand"))
    for name in bands.dtype.names[1:]:
        bands[name] = random.integers(1, 1000, len(bands))
    bands["band"] = BANDS * count
    exposures = np.zeros(limits, schemas.table_dtype("alert", "diaNondetectionLimit"))
    exposures["visit"], exposures["band"] = random.integers(2**30, 2**31, limits), random.choice(BANDS, limits)
    alerts = AlertRows(
        np.arange(count),
        sources(random, count),
        objects,
        RowGroups(bands, np.full(count, len(BANDS))),
        RowGroups(sources(random, count * history), np.full(count, history)),
        exposures,
        RowGroups(np.tile(np.arange(limits), count), np.full(count, limits)),
        np.zeros(count, np.bool_),
    )
    return alerts, stamps(random, count)


def pack(alerts, cutouts):
    """Return the packets, with the WCS of each stamp."""
    cards = [wcs_cards(10.0, 20.0, 5.2, 7.9, np.eye(2) / 3600, STAMP) for _ in range(len(alerts))]
    return encode_alerts(alerts, cutouts, cards, CONTEXT)


def main():
    pack(*exposure(2, 2, 2))
    for count, history, limits in ((1000, 30, 0), (1000, 100, 300), (1000, 0, 0), (100, 30, 30), (10, 30, 30)):
        inputs = exposure(count, history, limits)
        fastest = np.inf
        for _ in range(5):
            begin = time.process_time()
            packets = pack(*inputs)
            fastest = min(fastest, time.process_time() - begin)
        size = sum(map(len, packets)) / count
        print(
            f"{count:5d} alerts, {history:3d} sources and {limits:3d} limits each: {count / fastest:6.0f} alerts/s, "
            f"{1e6 * fastest / count:4.0f} us and {size / 1e3:.1f} kB each"
        )


if __name__ == "__main__":
    main()
