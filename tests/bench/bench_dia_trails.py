"""Trail fits and glint trains of difference images: errors against truth and CPU time, on simulated pixels.

Run: python tests/bench/bench_dia_trails.py fits 200     trails of many lengths and S/N, so many of each
     python tests/bench/bench_dia_trails.py points 2000  how many point sources are called trails
     python tests/bench/bench_dia_trails.py glints 200   trains found, and false ones on so many detectors
A second number is the first seed. The PSF is a Moffat profile of beta 3.5, the noise white, S/N that of the whole trail
with perfect weights; sources start anywhere on their trails. "limit" is the Cramer-Rao bound, by differences of the
drawn truth.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from schemas import table_dtype
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.photometry import PhotometryFlag, psf_centroids
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.subtract.glints import flag_glints
from workers.subtract.measure import blank_rows
from workers.subtract.trails import fit_trails, measure_trails

BETA, SIZE, TILE = 3.5, 25, 161
FAILED = int(PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)
CASES = [(30, 12, 3.2), (30, 12, 4.4), (30, 6, 3.2), (30, 30, 3.2), (30, 60, 3.2), (10, 12, 3.2), (10, 30, 3.2)]
CASES += [(100, 3, 3.2), (100, 6, 3.2), (300, 3, 3.2), (300, 12, 3.2), (300, 30, 3.2), (300, 60, 3.2)]


def light(n, fwhm, x, y, length, angle, over=3):
    """A Moffat profile along a line, averaged over `over` squared points a pixel; unit sum within SIZE at length 0."""
    axis = (np.arange(over * n) - (over - 1) / 2) / over - n // 2
    width = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    steps = max(int(4 * length), 1)
    out = np.zeros((over * n, over * n))
    for s in (np.arange(steps) + 0.5) / steps - 0.5:
        dx, dy = x + s * length * np.cos(angle), y + s * length * np.sin(angle)
        out += (1 + np.add.outer((axis - dy) ** 2, (axis - dx) ** 2) / width**2) ** -BETA
    return out.reshape(n, over, n, over).mean(axis=(1, 3)) / steps


def psf_model(fwhm, width, height):
    stamp = light(SIZE, fwhm, 0, 0, 0, 0)
    return PsfModel(stamp[None].astype(np.float32), 0, width, height), stamp.sum()


def limit(snr, length, fwhm):
    """Cramer-Rao errors of length and angle (degrees)."""
    n, start = int(length) + SIZE | 1, np.array([0.2, -0.1, length, 0.4])
    middle = light(n, fwhm, *start)
    slopes = [middle / np.sqrt(np.square(middle).sum())]
    for k in range(4):
        step = np.zeros(4)
        step[k] = 0.5 if k == 2 else 0.02  # half a pixel: the truth is drawn in quarters
        slopes.append((light(n, fwhm, *(start + step)) - light(n, fwhm, *(start - step))) / (2 * step[k]))
    flux = snr / np.sqrt(np.square(middle).sum())
    design = np.stack([slopes[0], *(flux * slope for slope in slopes[1:])]).reshape(5, -1)
    error = np.sqrt(np.diag(np.linalg.inv(design @ design.T)))
    return error[3], np.degrees(error[4])


def fits(count, seed):
    print("S/N  L px FWHM |  kept length: bias   rms  limit pull | angle: rms limit pull | flux bias pull | ms CPU")
    for snr, length, fwhm in CASES:
        rng = np.random.default_rng(seed)
        image = rng.normal(size=(count * TILE, TILE))
        psf, norm = psf_model(fwhm, *image.shape[::-1])
        truth, start = np.zeros((count, 4)), np.zeros((count, 2))
        side = (int(length) + SIZE + 12) | 1
        first = TILE // 2 - side // 2
        for k in range(count):
            (x, y), angle = rng.uniform(-0.5, 0.5, 2), rng.uniform(0, np.pi)
            drawn = light(side, fwhm, x, y, length, angle) / norm
            flux = snr / np.sqrt(np.square(drawn).sum())
            image[k * TILE + first : k * TILE + first + side, first : first + side] += flux * drawn
            truth[k] = flux, TILE // 2 + x, k * TILE + TILE // 2 + y, np.degrees(angle)
            place = rng.uniform(-0.35, 0.35) * length * np.array([np.cos(angle), np.sin(angle)])
            start[k] = np.round(truth[k, 1:3] + place)
        planes = image, np.ones_like(image), np.ones(image.shape, bool)
        fit_trails(*planes, psf, *start[:1].T)
        begin = time.process_time()
        rows = fit_trails(*planes, psf, *start.T)
        spent = 1e3 * (time.process_time() - begin) / count
        good = (rows["flags"] & FAILED) == 0
        rows, truth = rows[good], truth[good]
        off, turn = rows["length"] - length, (rows["angle"] - truth[:, 3] + 90) % 180 - 90
        pull = (rows["flux"] - truth[:, 0]) / rows["fluxErr"]
        bound = limit(snr, length, fwhm)
        print(
            f"{snr:3} {length:5} {fwhm:4} | {good.mean():5.3f} {off.mean() / length:+12.4f} "
            f"{np.sqrt(np.mean(off**2)) / length:6.4f} {bound[0] / length:6.4f} "
            f"{(off / rows['lengthErr']).std():4.2f} | "
            f"{np.sqrt(np.mean(turn**2)):10.3f} {bound[1]:5.2f} {(turn / rows['angleErr']).std():4.2f} | "
            f"{(rows['flux'] / truth[:, 0]).mean() - 1:+9.4f} {pull.std():4.2f} | {spent:6.2f}"
        )


def points(count, seed):
    fwhm, tile = 3.2, 51
    for snr in (8, 30, 100, 300, 1000):
        rng = np.random.default_rng(seed)
        image = rng.normal(size=(count * tile, tile))
        psf, norm = psf_model(fwhm, *image.shape[::-1])
        flux = snr * np.sqrt(psf.noise_area(0, 0)[0])
        for k in range(count):
            image[k * tile : (k + 1) * tile] += flux * light(tile, fwhm, *rng.uniform(-0.5, 0.5, 2), 0, 0) / norm
        exposure = Exposure(
            info=ExposureInfo("sim", 1, 1, "r", 6e4, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits"),
            image=image.astype(np.float32),
            mask=np.zeros(image.shape, np.int32),
            variance=np.ones(image.shape, np.float32),
            unit="nJy",
            wcs=SkyWcs.tangent(150.0, -30.0, (tile / 2, 1000.0), 0.25),
            psf=psf,
        )
        usable = np.ones(image.shape, bool)
        middle = np.full(count, tile // 2), tile * np.arange(count) + tile // 2
        at = psf_centroids(exposure.image, exposure.variance, usable, psf, *middle)
        rows = blank_rows(table_dtype("alert", "diaSource"), count)
        rows["x"], rows["y"], rows["snr"] = at["x"], at["y"], snr
        begin = time.process_time()
        measure_trails(rows, exposure, usable)
        spent = 1e3 * (time.process_time() - begin) / count
        called, failed = np.isfinite(rows["trailLength"]).sum(), rows["trail_flag"].sum()
        print(f"points S/N {snr:4}: {called} of {count} called trails, {failed} fits failed, {spent:.3f} ms CPU each")


def glints(count, seed):
    rng, size = np.random.default_rng(seed), 4096

    def field(sources, members=0, uneven=0.0):
        rows = blank_rows(table_dtype("alert", "diaSource"), sources)
        rows["x"], rows["y"] = rng.uniform(0, size, (2, sources))
        rows["snr"] = rng.uniform(5, 50, sources)
        if members:
            place = np.linspace(-0.5, 0.5, members) + uneven * rng.uniform(-1, 1, members) / members
            angle, length = rng.uniform(0, np.pi), rng.uniform(400, 900)
            for name, way in (("x", np.cos(angle)), ("y", np.sin(angle))):
                middle = rng.uniform(600, size - 600)
                rows[name][:members] = middle + place * length * way + rng.normal(0, 0.3, members)
        return rows

    for sources in (50, 200, 500, 1000):
        detectors = max(min(count, 100_000 // sources**2 * 20), 3)
        fields = [field(sources) for _ in range(detectors)]
        begin = time.process_time()
        false = sum(flag_glints(rows, (size, size)).any() for rows in fields)
        spent = 1e3 * (time.process_time() - begin) / detectors
        print(f"{sources} sources: {false} of {detectors} detectors with a false train, {spent:.1f} ms CPU each")
        for members, uneven in ((4, 0.1), (5, 0.1), (6, 0.1), (6, 1.0), (8, 0.1), (8, 1.0), (10, 1.0)):
            trials = max(detectors // 5, 3)
            flags = np.array([flag_glints(field(sources, members, uneven), (size, size)) for _ in range(trials)])
            found, others = flags[:, :members].mean(), flags[:, members:].sum() / trials
            print(
                f"   {members} glints, uneven by {uneven}: {found:.2f} of them flagged, {others:.2f} others a detector"
            )


if __name__ == "__main__":
    mode, number = sys.argv[1], int(sys.argv[2])
    {"fits": fits, "points": points, "glints": glints}[mode](number, int(sys.argv[3]) if len(sys.argv) > 3 else 1)
