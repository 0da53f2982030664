"""The sharded reference catalogue: CPU seconds of building and of cones, on simulated stars.

Run: python tests/bench/bench_reference.py cones 1000000     write a store of so many stars, then cones of 0.3 degrees:
                                                             over the whole sky and at 7000 stars per square degree
     python tests/bench/bench_reference.py build 300000      a Gaia CSV and a PS1 FITS table of so many stars, joined
Cold: the store is new and every shard is read from its file (the page cache may have it). Warm: the same cone again.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

from workers.imaging.reference import MOTION, ReferenceCatalogue
from workers.imaging.reference_store import ReferenceStore
from workers.imaging.reference_writing import write_store
from workers.reference_build.build import BuildOptions, build_reference

BANDS = ("BP", "G", "RP", "g", "i", "r", "y", "z")


def places(n, size, rng):
    """n places all over the sky, or in a strip of `size` degrees round (156, 0)."""
    if size is None:
        return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return 156 + size * rng.uniform(-0.5, 0.5, n), size * rng.uniform(-0.5, 0.5, n)


def cones(n, folder):
    rng = np.random.default_rng(1)
    for name, size in (("7000 per square degree", np.sqrt(n / 7000)), ("whole sky", None)):
        ra, dec = places(n, size, rng)
        flux = {band: rng.uniform(1e3, 1e6, n) for band in BANDS}
        motion = {key: rng.normal(0, 10, n) for key in MOTION} | {"epoch": np.full(n, 57388.5)}
        start = time.process_time()
        path = folder / name
        index = write_store(path, ReferenceCatalogue(ra, dec, flux, flux, **motion)).index
        print(f"{name}: {n} stars written in {time.process_time() - start:.1f} s CPU", flush=True)
        seconds = {"cold": [], "warm": [], "at": []}
        reads, stars = [], []
        for row in rng.integers(0, n, 60):
            store = ReferenceStore(path, index)
            for kind, times in (("cold", 1), ("warm", 10)):
                start = time.process_time()
                for _ in range(times):
                    near = store.within(ra[row], dec[row], 0.3)
                seconds[kind].append((time.process_time() - start) / times)
            start = time.process_time()
            near.at(61000.0)
            seconds["at"].append(time.process_time() - start)
            reads.append(store.reads)
            stars.append(len(near))
        for kind, values in seconds.items():
            middle, high, most = 1e3 * np.percentile(values, [50, 95, 100])
            print(f"  {kind}: median {middle:.2f}, 95 % {high:.2f}, most {most:.2f} ms CPU")
        print(f"  stars {np.mean(stars):.0f}, shards read {np.mean(reads):.2f}, most {max(reads)}", flush=True)


def build(n, folder):
    rng = np.random.default_rng(2)
    ra, dec = places(n, np.sqrt(n / 7000), rng)
    gaia = Table({"ra": ra, "dec": dec, "ref_epoch": np.full(n, 2016.0)})
    for name in ("pmra", "pmdec", "pmra_error", "pmdec_error", "parallax", "ra_error", "dec_error"):
        gaia[name] = rng.normal(0, 10, n) if name in ("pmra", "pmdec") else rng.uniform(0.1, 1, n)
    for stem in ("g", "bp", "rp"):
        gaia[f"phot_{stem}_mean_flux"] = rng.uniform(100, 1e5, n)
        gaia[f"phot_{stem}_mean_flux_error"] = rng.uniform(1, 10, n)
    ps1 = Table(
        {
            "raMean": ra + rng.normal(0, 1e-5, n),
            "decMean": dec + rng.normal(0, 1e-5, n),
            "epochMean": np.full(n, 56200.0),
        }
    )
    for band in "grizy":
        ps1[f"{band}MeanPSFMag"], ps1[f"{band}MeanPSFMagErr"] = rng.uniform(14, 22, n), rng.uniform(0.01, 0.1, n)
    gaia.write(folder / "gaia.csv")
    ps1.write(folder / "ps1.fits")
    start = time.process_time()
    _, report = build_reference(folder / "store", [folder / "gaia.csv", folder / "ps1.fits"], BuildOptions())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = os.path.getsize(folder / "gaia.csv") / 1e6
    print(f"{n} + {n} stars (CSV of {size:.0f} MB): {time.process_time() - start:.1f} s CPU, at most {peak:.0f} MiB")
    print(f"joined {report.joined}, ambiguous {report.ambiguous}, stars {report.stars}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        {"cones": cones, "build": build}[sys.argv[1]](int(sys.argv[2]), Path(work))
