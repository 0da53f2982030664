"""How the subtraction bench judges a difference against the truth of its pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtr

from tests.bench.subtract_scene import NJY, READ_NOISE, SKY
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.subtract.matched_filter import score_image

THRESHOLD = 5.0
BINS = ((4, 6), (6, 8), (8, 1e9))


@dataclass
class Result:
    """What one code made of a pair; pixels in nJy."""

    name: str
    image: np.ndarray
    variance: np.ndarray
    excluded: np.ndarray
    psf: object
    sources: np.ndarray | None
    """Rows x, y, snr, isNegative; None: the peaks of its score."""
    seconds: float
    metrics: dict


class Truth:
    """Maps and trees of a pair that all results are judged with."""

    def __init__(self, pair):
        self.pair = pair
        bits = int(MaskPlane.SATURATED | MaskPlane.BLEED)
        full = ((pair.science.mask | pair.template.mask) & bits) != 0
        away = ndimage.distance_transform_edt(~full) if full.any() else np.full(full.shape, 1e9)
        self.masked = away <= 18
        light = pair.template.variance * np.float32(pair.depth / NJY**2) - np.float32(SKY + READ_NOISE**2)
        light = ndimage.uniform_filter(light, 5)
        self.empty = (light < 1.5) & ~self.masked
        self.empty[:30] = self.empty[-30:] = self.empty[:, :30] = self.empty[:, -30:] = False
        for row in pair.transients:
            x, y = round(row["x"]), round(row["y"])
            self.empty[y - 15 : y + 16, x - 15 : x + 16] = False
        stars = pair.stars
        self.bright = stars[stars["template"] > 3e5]
        self.variable = stars[stars["variable"]]


def places(rows):
    return np.column_stack([rows["x"], rows["y"]]).reshape(-1, 2)


def nearest(rows, x, y):
    """Return distance to and index of the nearest of `rows`."""
    if len(rows) == 0:
        return np.full(len(x), np.inf), np.zeros(len(x), int)
    return cKDTree(places(rows)).query(np.column_stack([x, y]).reshape(-1, 2))


def robust(values):
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def peaks_of(score, threshold):
    """Return the peaks of both signs as rows x, y, score: maxima over 8 neighbours, one within 5 pixels."""
    found = []
    for sign in (1.0, -1.0):
        y, x = np.nonzero(sign * score > threshold)
        inner = (np.minimum(x, y) > 0) & (x < score.shape[1] - 1) & (y < score.shape[0] - 1)
        x, y = x[inner], y[inner]
        around = [sign * score[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        top = sign * score[y, x] >= np.max(around, axis=0)
        found.append(np.column_stack([x[top], y[top], score[y[top], x[top]]]))
    rows = np.concatenate(found)
    rows = rows[np.argsort(-np.abs(rows[:, 2]), kind="stable")]
    keep = np.ones(len(rows), bool)
    for i, j in sorted(cKDTree(rows[:, :2]).query_pairs(5.0)) if len(rows) else ():
        if keep[i]:
            keep[j] = False
    return rows[keep]


def judge(truth, result):
    """Print all rows of the table for one result."""
    pair = truth.pair
    score = score_image(result.image, result.variance, result.excluded, result.psf)
    empty = truth.empty & ~result.excluded
    noise = robust(score[empty])
    print(f"== {result.name}: {result.seconds:.2f} s CPU; empty sky {empty.mean():.0%} of the frame")
    print("   " + " ".join(f"{key}={value:.4g}" for key, value in result.metrics.items()))
    print(f"score noise ratio        {noise:.4f}" + told(result))
    background(result, empty)
    bright_stars(truth, result)
    transient_fluxes(truth, result)
    peaks = peaks_of(score / noise, THRESHOLD)
    if result.sources is not None:
        sign = np.where(result.sources["isNegative"], -1.0, 1.0)
        rows = np.column_stack([result.sources["x"], result.sources["y"], sign * result.sources["snr"]])
        completeness(pair, "sources", rows)
        dipoles(pair, result.sources)
        false_positives(truth, result, "sources", rows)
    completeness(pair, "peaks of the plain score", peaks)
    false_positives(truth, result, "peaks of the plain score", peaks)


def told(result):
    told = result.metrics.get("scoreNoise")
    return "" if told is None else f" after scaling; the pipeline's own figure {told:.4f}"


def background(result, empty):
    """Mean of the empty sky and its change over the field, in sigma per pixel."""
    values = result.image[empty]
    sigma = robust(values)
    print(f"pixel noise ratio        {robust(values / np.sqrt(result.variance[empty])):.4f}")
    near = empty & (np.abs(result.image) < 4 * sigma)
    n = len(empty) // 16
    cells = near[: 16 * n, : 16 * n].reshape(16, n, 16, n)
    count = cells.sum(axis=(1, 3))
    total = np.where(near, result.image, 0)[: 16 * n, : 16 * n].reshape(16, n, 16, n).sum(axis=(1, 3), dtype=float)
    good = count > 0.2 * n * n
    mean = total[good] / count[good] / sigma
    expected = np.sqrt(np.mean(1 / count[good]))
    print(
        f"residual background      {result.image[near].mean(dtype=float) / sigma:+.4f} sigma per pixel; {good.sum()} "
        f"cells of {n} pixels: rms {mean.std():.4f} (white noise {expected:.4f}), "
        f"worst {mean[np.abs(mean).argmax()]:+.4f}"
    )


def bright_stars(truth, result):
    """chi² per pixel within 5 pixels of constant unsaturated stars of 3e4 to 1.2e6 electrons."""
    stars = truth.pair.stars
    size = len(result.image)
    use = (stars["template"] > 3e4) & (stars["template"] < 1.2e6) & ~stars["variable"] & ~stars["saturated"]
    x, y = stars["x"], stars["y"]
    use &= (np.minimum(x, y) > 30) & (np.maximum(x, y) < size - 31)
    use &= (nearest(truth.variable, x, y)[0] > 25) & (nearest(truth.pair.transients, x, y)[0] > 15)
    disk = np.argwhere(np.hypot(*np.mgrid[-5:6, -5:6]) < 5) - 5
    chosen = stars[use]
    rows, columns = (np.round(chosen[k]).astype(int)[:, None] + disk[:, i] for k, i in (("y", 0), ("x", 1)))
    whole = ~(result.excluded[rows, columns] | truth.masked[rows, columns]).any(axis=1)
    chi2 = (np.square(result.image[rows, columns]) / result.variance[rows, columns]).mean(axis=1)[whole]
    flux = chosen["template"][whole]
    if len(chi2) == 0:
        return
    print(
        f"bright stars chi²/pixel  median {np.median(chi2):.3f}  90 % {np.percentile(chi2, 90):.3f}  "
        f"({len(chi2)} stars); above 3e5 e: {np.median(chi2[flux > 3e5]):.3f} {np.percentile(chi2[flux > 3e5], 90):.3f}"
    )


def transient_fluxes(truth, result):
    """Forced PSF photometry at the true places: transients, empty sky and galaxies without any."""
    pair = truth.pair
    usable = ~result.excluded & (result.variance > 0)
    t = pair.transients

    def forced(x, y):
        rows = psf_fluxes(result.image, result.variance, usable, result.psf, x, y)
        return rows["flux"], rows["fluxErr"]

    def width(pull):
        pull = pull[np.isfinite(pull)]
        return f"mean {pull.mean():+.3f} std {pull.std():.3f} robust {robust(pull):.3f} ({len(pull)})"

    if len(t):
        flux, error = forced(t["x"], t["y"])
        good = np.isfinite(flux) & (t["snr"] > 20)
        ratio, weight = flux[good] / t["flux"][good] - 1, np.square(t["flux"][good] / error[good])
        print(
            f"transient flux bias      {100 * np.average(ratio, weights=weight):+.3f} % weighted, "
            f"{100 * np.median(ratio):+.3f} % median "
            f"(S/N > 20, {good.sum()}; error {100 / np.sqrt(weight.sum()):.3f} %)"
        )
        pull = (flux - t["flux"]) / error
        print(f"pulls in the field       {width(pull[~t['hosted']])}")
        print(f"pulls on hosts           {width(pull[t['hosted']])}")
        for i in np.argsort(-np.abs(np.nan_to_num(pull)))[:3]:
            where = np.array([t["x"][i], t["y"][i], pull[i]])
            print(
                f"     pull {pull[i]:+.1f} of S/N {t['snr'][i]:.1f} at "
                + neighbourhood(truth, pair.stars, where, False)
            )
    rng = np.random.default_rng(1)
    y, x = np.nonzero(truth.empty)
    if len(x):
        pick = rng.integers(0, len(x), 5000)
        flux, error = forced(x[pick] + rng.uniform(-0.5, 0.5, 5000), y[pick] + rng.uniform(-0.5, 0.5, 5000))
        print(f"pulls, empty sky         {width(flux / error)}")
    g = pair.galaxies
    if len(g):
        size = len(result.image)
        clear = np.all((places(g) > 40) & (places(g) < size - 40), axis=1)
        for rows, reach in ((t, 30), (truth.variable, 25), (truth.bright, 45)):
            clear &= nearest(rows, g["x"], g["y"])[0] > reach
        flux, error = forced(g["x"][clear], g["y"][clear])
        print(f"pulls, middles of galaxies {width(flux / error)}")


def dipoles(pair, sources):
    """Point sources of S/N 10 or more that are taken for dipoles."""
    strong = pair.transients[pair.transients["snr"] >= 10]
    if len(strong) and len(sources):
        distance, index = nearest(sources, strong["x"], strong["y"])
        flagged = sources["isDipole"][index[distance < 3]]
        print(f"transients S/N >= 10 flagged as dipoles: {flagged.sum()} of {len(flagged)}")


def completeness(pair, what, rows):
    t = pair.transients
    if len(t) == 0:
        return
    up = rows[rows[:, 2] > 0]
    near = cKDTree(up[:, :2]).query(places(t))[0] < 3 if len(up) else np.zeros(len(t), bool)
    parts = []
    for low, high in BINS:
        use = (t["snr"] >= low) & (t["snr"] < high)
        chance = ndtr(t["snr"][use] - THRESHOLD).sum()
        parts.append(f"S/N {low}-{high if high < 100 else ''} {near[use].sum()}/{use.sum()} (fair {chance:.1f})")
    print(f"completeness, {what}: " + ", ".join(parts))


def unexplained(truth, result, rows):
    """Tell which rows (x, y, score) beyond the threshold nothing in the sky explains, off the masks."""
    pair, size = truth.pair, len(result.image)
    x, y = rows[:, 0], rows[:, 1]
    ix, iy = (np.clip(np.round(v).astype(int), 0, size - 1) for v in (x, y))
    wrong = (np.abs(rows[:, 2]) > THRESHOLD) & ~truth.masked[iy, ix] & ~result.excluded[iy, ix]
    return wrong & (nearest(pair.transients, x, y)[0] > 5) & (nearest(truth.variable, x, y)[0] > 6)


def false_positives(truth, result, what, rows):
    """Count and list the peaks that nothing in the sky explains."""
    pair, (x, y) = truth.pair, rows[:, :2].T
    wrong = unexplained(truth, result, rows)
    wing = nearest(truth.bright, x, y)[0] < 45
    up = rows[:, 2] > 0
    counts = [int((wrong & part & sign).sum()) for part in (wing, ~wing) for sign in (up, ~up)]
    print(
        f"false positives, {what}: {wrong.sum()} = wing {counts[0]}+ {counts[1]}-, clean {counts[2]}+ {counts[3]}-  "
        f"({len(rows)} in all; {chance_peaks(result, THRESHOLD):.1f} of each sign by chance)"
    )
    if what != "sources" and result.sources is not None:
        return
    if wing.any():
        reach = nearest(truth.bright, x, y)[0][wrong & wing]
        table, edges = np.histogram(reach, [0, 5, 8, 10, 12, 14, 17, 20, 25, 30, 45])
        print("     from the bright star: " + ", ".join(f"{b:g} px {n}" for n, b in zip(table, edges[1:], strict=True)))
    order = np.flatnonzero(wrong)[np.argsort(-np.abs(rows[wrong, 2]))]
    stars = pair.stars[pair.stars["template"] > 1e3]
    for i in order[:15]:
        print("     " + neighbourhood(truth, stars, rows[i], bool(wing[i])))


def chance_peaks(result, threshold):
    """Return how many maxima of one sign white noise gives above the threshold (Adler 1981, of a smooth field)."""
    height, width = result.image.shape
    stamp = result.psf.stamps(width / 2, height / 2)[0]
    by_y, by_x = np.gradient(stamp)
    moments = [(a * b).sum() / np.square(stamp).sum() for a, b in ((by_x, by_x), (by_y, by_y), (by_x, by_y))]
    density = np.sqrt(moments[0] * moments[1] - moments[2] ** 2) * threshold / (2 * np.pi) ** 1.5
    return np.count_nonzero(~result.excluded) * density * np.exp(-0.5 * threshold**2)


def neighbourhood(truth, stars, row, wing):
    """Tell what lies near a false positive."""
    x, y = row[:1], row[1:2]
    star, index = nearest(stars, x, y)
    bright, which = nearest(truth.bright, x, y)
    galaxy, host = nearest(truth.pair.galaxies, x, y)
    words = f"({row[0]:7.1f}, {row[1]:7.1f}) S/N {row[2]:+6.2f} {'wing ' if wing else 'clean'}"
    if len(stars) and np.isfinite(star[0]):
        words += f"; star of {stars[index[0]]['template']:.2g} e at {star[0]:.1f}"
    if wing:
        kind = "saturated" if truth.bright[which[0]]["saturated"] else "whole"
        words += f"; {kind} star of {truth.bright[which[0]]['template']:.2g} e at {bright[0]:.1f}"
    if np.isfinite(galaxy[0]) and galaxy[0] < 15:
        g = truth.pair.galaxies[host[0]]
        words += f"; galaxy of {g['flux']:.2g} e, re {g['re']:.1f}, n {g['n']:.1f} at {galaxy[0]:.1f}"
    return words
