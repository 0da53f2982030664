"""SCAMP beside our astrometry on the same simulated star fields: share solved, errors against the truth, CPU seconds.

Run: python tests/bench/bench_scamp.py 20 [seed]   20 fields each of 30, 100, 500 and 2000 reference stars
Needs `scamp` (Debian package) on the PATH. The fields are those of bench_astrometry.py: offsets of up to 250 pixels
along each axis, 1 degree and 0.2 % in scale, 20 % of the references missing, half of the sources spurious.

SCAMP gets the same sources, references and header (whose SIP is written as TPV of order 3, exactly), the ranges to
search in, a polynomial of order 3, and one thread. It has no test of acceptance: it always writes a solution, with two
contrasts of its match. `sure` counts the solutions of which both contrasts are 2 or more.
A solution is right where it is within 1 pixel of the truth everywhere on a grid over the detector, else wrong; lost is
a wrong one that is off by more than 20 pixels in the middle of that grid: the match, not the fit, went wrong.
Errors are of those right, pixels per coordinate: rms of WCS minus truth over the grid; and bright rms, of measured
stars of S/N above 100 minus the places that the WCS gives to their references, none clipped. Both are those of the same
fields, which both solved right, on the lines `both right`. Times are CPU seconds, for SCAMP those of the process,
reading and writing included; ours is the function alone, its files not included.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.spatial import KDTree

from schemas.errors import DataError
from tests.bench.bench_astrometry import field, solve
from workers.imaging.wcs import SkyWcs, pixel_to_focal

GROUPS = (30, 100, 500, 2000)
WRONG, LOST = 1.0, 20.0
SURE = 2.0
CROSSID = 3.0
"""Pixels, for SCAMP: what terms of order 2 and 3 leave after its match."""


def tpv_header(wcs, shape):
    """The header's WCS as SCAMP reads it: SIP of order 3 is a polynomial of order 3 in TPV's coordinates as well."""
    old = wcs.header()
    new = fits.Header()
    new["SIMPLE"], new["BITPIX"], new["NAXIS"] = True, -32, 2
    new["NAXIS1"], new["NAXIS2"] = shape[1], shape[0]
    new["FILTER"], new["EXPTIME"], new["MJD-OBS"], new["RADESYS"] = "r", 30.0, 60000.0, "ICRS"
    new["CTYPE1"], new["CTYPE2"], new["CUNIT1"], new["CUNIT2"] = "RA---TPV", "DEC--TPV", "deg", "deg"
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        new[key] = old[key]
    crpix = np.array([old["CRPIX1"], old["CRPIX2"]]) - 1
    matrix = np.array([[old["CD1_1"], old["CD1_2"]], [old["CD2_1"], old["CD2_2"]]])
    points = np.stack(grid(shape), axis=1)
    linear = (points - crpix) @ matrix.T
    bent = (pixel_to_focal(wcs, points) - crpix) @ matrix.T
    size = np.abs(linear).max()
    powers = [(i, order - i) for order in range(4) for i in range(order, -1, -1)]
    numbers = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]  # PVi_3 is the radius
    for axis in (0, 1):
        x, y = linear[:, axis] / size, linear[:, 1 - axis] / size
        terms = np.stack([x**i * y**j for i, j in powers], axis=1)
        values = np.linalg.lstsq(terms, bent[:, axis], rcond=None)[0]
        for number, value, (i, j) in zip(numbers, values, powers, strict=True):
            new[f"PV{axis + 1}_{number}"] = value / size ** (i + j)
    return new


def write_ldac(path, header, columns):
    """FITS_LDAC: the image's header as the one cell of a table, then the table of objects."""
    cards = np.frombuffer(header.tostring(padding=False).encode(), np.uint8)
    text = fits.Column("Field Header Card", f"{len(cards)}B", array=cards[None])
    first = fits.BinTableHDU.from_columns([text], name="LDAC_IMHEAD")
    first.header["TFORM1"] = f"{len(cards)}A"  # written as text, astropy would end it with zeros, which crash SCAMP
    first.header["TDIM1"] = f"(80, {len(cards) // 80})"
    columns = [fits.Column(name, "I" if name == "FLAGS" else "D", array=values) for name, values in columns.items()]
    objects = fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), first, objects]).writeto(path)


def write_field(folder, one):
    header = tpv_header(one.header, one.shape)
    s, r = one.sources, one.reference
    none = np.zeros(len(s))
    sources = {"X_IMAGE": s["x"] + 1, "Y_IMAGE": s["y"] + 1, "ERRA_IMAGE": s["xErr"], "ERRB_IMAGE": s["yErr"]}
    sources |= {"ERRTHETA_IMAGE": none, "FLUX_AUTO": s["flux"], "FLUXERR_AUTO": s["flux"] / s["snr"], "FLAGS": none}
    write_ldac(folder / "field.cat", header, sources)
    tiny = np.full(len(r.ra), 1e-4 / 3600)
    stars = {"X_WORLD": r.ra, "Y_WORLD": r.dec, "ERRA_WORLD": tiny, "ERRB_WORLD": tiny, "ERRTHETA_WORLD": 0 * tiny}
    stars |= {"MAG": 31.4 - 2.5 * np.log10(r.flux["r"]), "MAGERR": np.full(len(r.ra), 0.01)}
    stars |= {"OBSDATE": np.full(len(r.ra), 2023.15), "FLAGS": np.zeros(len(r.ra))}
    write_ldac(folder / "reference.cat", header, stars)


def options(one):
    """SCAMP's command line: the bench's ranges with a little room, and its errors, which have their own floor."""
    reach = 1.05 * 250 * np.sqrt(2) * one.scale / 60  # along RA and declination, which the pixels' axes are not
    values = {
        "ASTREF_CATALOG": "FILE",
        "ASTREFCAT_NAME": "reference.cat",
        "CENTROID_KEYS": "X_IMAGE,Y_IMAGE",
        "CENTROIDERR_KEYS": "ERRA_IMAGE,ERRB_IMAGE,ERRTHETA_IMAGE",
        "DISTORT_KEYS": "X_IMAGE,Y_IMAGE",
        "DISTORT_DEGREES": 3,
        "PROJECTION_TYPE": "TPV",
        "MATCH": "Y",
        "MATCH_FLIPPED": "N",
        "POSITION_MAXERR": f"{reach:.4f}",
        "POSANGLE_MAXERR": 1.1,
        "PIXSCALE_MAXERR": 1.01,
        "CROSSID_RADIUS": f"{CROSSID * one.scale:.4f}",
        "ASTRACCURACY_TYPE": "SIGMA-PIXEL",
        "ASTR_ACCURACY": 0.001,
        "SOLVE_PHOTOM": "N",
        "CHECKPLOT_DEV": "NULL",
        "CHECKPLOT_TYPE": "NONE",
        "CHECKPLOT_ANTIALIAS": "N",
        "XML_NAME": "scamp.xml",
        "NTHREADS": 1,
        "VERBOSE_TYPE": "QUIET",
    }
    return [text for key, value in values.items() for text in (f"-{key}", str(value))]


def run_scamp(one):
    """Return (CPU seconds, WCS or None, the lesser contrast of its match)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_field(folder, one)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["scamp", "field.cat", "-c", "/dev/null", *options(one)]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode or not (folder / "field.head").exists():
            print("  scamp:", done.stderr.decode(errors="replace").strip()[-200:])
            return seconds, None, 0.0
        return seconds, read_head(folder / "field.head"), contrast(folder / "scamp.xml")


def read_head(path):
    cards = [line for line in path.read_text("latin-1").splitlines() if line[8:9] == "=" and "'" not in line[30:]]
    return SkyWcs(fits.Header.fromstring("\n".join(cards), sep="\n"))


def contrast(path):
    """The lesser of the contrasts of angle and scale, and of position."""
    tree = ElementTree.parse(path)  # noqa: S314 - written by the program we ran
    table = next(item for item in tree.iterfind(".//{*}TABLE") if item.get("ID") == "Fields")
    names = [item.get("name") for item in table.iterfind("{*}FIELD")]
    row = [item.text for item in table.iterfind(".//{*}TD")]
    return min(float(row[names.index(key)]) for key in ("AS_Contrast", "XY_Contrast"))


def grid(shape, side=9):
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, side), np.linspace(0, shape[0] - 1, side))
    return x.ravel(), y.ravel()


def judged(found, one):
    """Return pixels: the largest distance from the truth, that in the middle, rms over the grid, bright rms."""
    x, y = grid(one.shape)
    fx, fy = found.sky_to_pixel(*one.truth.pixel_to_sky(x, y))
    distance = np.nan_to_num(np.hypot(fx - x, fy - y), nan=np.inf)
    bright = one.sources[one.sources["snr"] > 100]
    places = np.stack([bright["x"], bright["y"]], axis=1)
    true = np.stack(one.truth.sky_to_pixel(one.reference.ra, one.reference.dec), axis=1)
    near, star = KDTree(true).query(places)
    own = near < 6 * bright["xErr"]  # by the truth: the same pairs for every solution
    mx, my = found.sky_to_pixel(one.reference.ra[star[own]], one.reference.dec[star[own]])
    square = np.square(mx - places[own, 0]) + np.square(my - places[own, 1])
    rms = np.sqrt(0.5 * square.mean()) if np.count_nonzero(own) >= 8 else np.nan
    return distance.max(), np.median(distance), np.sqrt(0.5 * np.mean(np.square(distance))), rms


def shares(values):
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return " ".join(f"{value:.4f}" for value in np.percentile(values, [50, 90])) if len(values) else "-"


def report(name, rows, sure=None):
    """`rows`: (CPU seconds, None where refused, else what `judged` returns) a field."""
    found = [row[1] for row in rows if row[1] is not None]
    right = [one for one in found if one[0] <= WRONG]
    wrong, lost = len(found) - len(right), sum(one[1] > LOST for one in found)
    print(f"  {name:5s} right {len(right)}, WRONG {wrong} (lost {lost}), refused {len(rows) - len(found)}", end="")
    if sure is not None:
        kept = [row[1] for row, good in zip(rows, sure, strict=True) if good and row[1] is not None]
        print(f"; sure {len(kept)}, of which WRONG {sum(one[0] > WRONG for one in kept)}", end="")
    seconds = [row[0] for row in rows]
    print(f"; CPU s median, p90: {np.median(seconds):.3f} {np.percentile(seconds, 90):.3f}")
    errors(name, right)


def errors(name, judgements):
    print(f"    {name}: WCS - truth {shares([one[2] for one in judgements])}", end="")
    print(f"; bright rms {shares([one[3] for one in judgements])} (median, p90; pixels)", flush=True)


def group(stars, number, seed):
    ours, theirs, sure = [], [], []
    for index in range(seed, seed + number):
        one = field(index, stars=stars)
        seconds, found = solve(one)
        ours.append((seconds, None if isinstance(found, DataError) else judged(found.wcs, one)))
        seconds, wcs, certain = run_scamp(one)
        theirs.append((seconds, None if wcs is None else judged(wcs, one)))
        sure.append(certain >= SURE)
    print(f"{stars} references: {number} fields, seeds {seed} to {seed + number - 1}")
    report("ours", ours)
    report("SCAMP", theirs, sure)
    pairs = [(a[1], b[1]) for a, b in zip(ours, theirs, strict=True) if a[1] is not None and b[1] is not None]
    pairs = [(a, b) for a, b in pairs if a[0] <= WRONG and b[0] <= WRONG]
    print(f"  both right: {len(pairs)}")
    if pairs:
        errors("ours", [a for a, _ in pairs])
        errors("SCAMP", [b for _, b in pairs])


def main():
    if shutil.which("scamp") is None:
        print("scamp is not installed (Debian: apt install scamp): nothing to compare with")
        return
    number, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    solve(field(0))  # compiles
    for stars in GROUPS:
        group(stars, number, seed)


if __name__ == "__main__":
    main()
