"""`skydelta isr --snaps`: two raw files of one visit become one calibrated exposure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

from tests.cli.command import skydelta
from tests.system.nights import Prepared
from workers.imaging.fits import read_exposure


def second_snap(first: Path, path: Path) -> Path:
    """The same sky a minute later, with readout noise of its own and a streak that the first snap lacks."""
    with fits.open(first) as hdus:
        counts = hdus[0].data.astype(float)
        counts += np.random.default_rng(3).normal(0, 4, counts.shape)
        counts[100:104, 40:140] += 800.0
        hdus[0].data = np.clip(np.round(counts), 0, 65535).astype(np.uint16)
        begin = Time(hdus[0].header["DATE-OBS"], format="isot", scale="utc").mjd
        hdus[0].header["DATE-OBS"] = str(Time(begin + 75.0 / 86400.0, format="mjd", scale="utc").isot)
        hdus.writeto(path)
    return path


def test_what_one_snap_alone_has_is_gone(tiny_survey: Prepared, tmp_path: Path) -> None:
    root = tiny_survey.copy(tmp_path / "survey")
    first = root / tiny_survey.live[0]
    second = second_snap(first, tmp_path / "second.fits")
    single = skydelta("isr", first, "-s", root, "-o", tmp_path / "single.fits")
    both = skydelta("isr", "--snaps", second, first, "-s", root, "-o", tmp_path / "both.fits")
    assert (single.code, both.code) == (0, 0), both.err
    alone, together = read_exposure(tmp_path / "single.fits"), read_exposure(tmp_path / "both.fits")
    assert together.info.exposureTime == 2 * alone.info.exposureTime
    assert together.info.label == alone.info.label
    assert {"snap0", "snap1"} <= set(together.provenance)
    streak = np.s_[101:103, 50:130]
    excess = together.image[streak].mean() - alone.image[streak].mean()
    assert together.photo is not None
    assert together.snaps is not None
    assert abs(excess) < 0.02 * 800.0 * 1.5 * 2 * together.photo.nJyPerElectron  # of the streak, with the usual gain


def test_snaps_come_in_pairs(tiny_survey: Prepared, tmp_path: Path) -> None:
    root = tiny_survey.copy(tmp_path / "survey")
    done = skydelta("isr", "--snaps", *(root / path for path in tiny_survey.live[:2]), "-s", root)
    assert done.code == 5
    assert "has 1 of two snaps" in done.err
