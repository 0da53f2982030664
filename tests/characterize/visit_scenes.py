"""A visit of a mosaic camera as catalogues: headers that are off together, sources, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.characterize.visit_astrometry import VisitDetector
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs

SOURCE = np.dtype([(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "fluxErr", "snr")] + [("clean", "?")])


@dataclass
class Visit:
    detectors: list[VisitDetector]
    truth: list[SkyWcs]
    reference: ReferenceCatalogue
    stars: list[int]
    """Reference stars on each detector that are among its sources."""


def mosaic_headers(rng, side, gap, grid, scale):
    """Detectors of one tangent plane, each with a cubic distortion of 2 pixels at its corner."""
    ra, dec, turn = rng.uniform(0, 360), rng.uniform(-70, 70), rng.uniform(0, 360)
    headers = []
    for row in range(grid):
        for column in range(grid):
            crpix = ((grid / 2 - column) * (side + gap), (grid / 2 - row) * (side + gap))
            header = SkyWcs.tangent(ra, dec, crpix, scale, turn).header()
            header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
            header["A_ORDER"] = header["B_ORDER"] = 3
            header["A_3_0"] = header["A_1_2"] = header["B_2_1"] = header["B_0_3"] = 2.0 / (grid * side / 2) ** 3
            headers.append(header)
    return headers


def true_header(header, shift, degrees, stretch, own):
    """`header` with the visit's shift (arcsec), rotation and stretch about the boresight, its detector `own` off."""
    true = header.copy()
    angle = np.radians(degrees)
    matrix = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = (np.eye(2) + stretch) @ turn @ matrix
    for i in (0, 1):
        for j in (0, 1):
            true[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    true["CRVAL1"] += shift[0] / 3600 / np.cos(np.radians(header["CRVAL2"]))
    true["CRVAL2"] += shift[1] / 3600
    true["CRPIX1"] += own[0]
    true["CRPIX2"] += own[1]
    return SkyWcs(true)


def visit(seed, per_detector, *, side=1024, gap=60, grid=3, scale=0.5, own=0.05, pixels=60.0, degrees=0.5):
    """A visit with `per_detector` reference stars on each detector, of which 20 % are not seen, and as many others."""
    rng = np.random.default_rng(seed)
    headers = mosaic_headers(rng, side, gap, grid, scale)
    shift = rng.uniform(-pixels, pixels, 2) * scale
    turn, stretch = rng.uniform(-degrees, degrees), rng.normal(0, 2e-4, (2, 2))
    truth = [true_header(one, shift, turn, stretch, rng.normal(0, own, 2)) for one in headers]
    detectors, skies, fluxes, numbers = [], [], [], []
    for header, true in zip(headers, truth, strict=True):
        counts = np.broadcast_to(per_detector, (len(headers),))[len(detectors)]
        x, y = rng.uniform(0, side, (2, counts))
        magnitude = 20 + np.log10(rng.uniform(10**-1.75, 1, counts)) / 0.35
        skies.append(np.stack(true.pixel_to_sky(x, y), axis=1))
        fluxes.append(10 ** (-0.4 * (magnitude - 31.4)))
        seen = rng.random(counts) > 0.2
        more = int(np.count_nonzero(seen))
        x, y = np.r_[x[seen], rng.uniform(0, side, more)], np.r_[y[seen], rng.uniform(0, side, more)]
        m = np.r_[magnitude[seen], rng.permutation(magnitude[seen])] + rng.normal(0, 0.15, len(x))
        rows = np.zeros(len(x), SOURCE)
        rows["snr"] = 20 * 10 ** (-0.4 * (m - 20))
        rows["xErr"] = rows["yErr"] = np.hypot(1.3 / rows["snr"], 0.004)
        rows["x"], rows["y"] = x + rng.normal(0, rows["xErr"]), y + rng.normal(0, rows["yErr"])
        rows["flux"], rows["clean"] = 10 ** (-0.4 * (m - 27)), True
        detectors.append(VisitDetector(SkyWcs(header), rows, (side, side)))
        numbers.append(more)
    sky, flux = np.concatenate(skies), np.concatenate(fluxes)
    reference = ReferenceCatalogue(sky[:, 0], sky[:, 1], {"r": flux}, {"r": 0.01 * flux})
    return Visit(detectors, truth, reference, numbers)


def off(found, truth, shape):
    """Distances, pixels, at the centre and the corners."""
    height, width = shape
    x = np.array([width / 2, 0, width - 1, 0, width - 1])
    y = np.array([height / 2, 0, 0, height - 1, height - 1])
    fx, fy = found.sky_to_pixel(*truth.pixel_to_sky(x, y))
    return np.hypot(fx - x, fy - y)
