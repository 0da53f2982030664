"""Two frames of ESO 085-030 taken a minute apart: nothing changed, and the difference says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from stream import codec
from tests.cli.command import skydelta
from tests.docs.page import edit
from tests.system.nights import REPOSITORY
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure
from workers.imaging.photometry import psf_fluxes
from workers.subtract.masking import blocked_pixels

FRAMES = REPOSITORY.parent / "shared" / "data" / "image-pair-eso085-properimage"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FRAMES.is_dir(), reason="real data not available: ../shared/data is absent"),
]
SURVEY = """
[isr]
steps = ["saturation", "gain", "variance", "cosmic_rays"]

[templates]
begin = 57383.0
end = 57383.2691
pixel_scale = 0.745
min_epochs = 1
"""


@dataclass(frozen=True)
class Pair:
    difference: Exposure
    science: Exposure
    sources: list[dict[str, Any]]
    metrics: dict[str, float]


def run(*arguments: object) -> Any:
    done = skydelta(*arguments)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Make the template from frame 004 and subtract it from 005, by the commands on files."""
    root = tmp_path_factory.mktemp("eso085") / "survey"
    run("init", root, "--camera", "eso085-apogee")
    edit(root / "survey.toml", SURVEY)
    first, second = sorted(FRAMES.glob("*.fit"))
    run("reference", "from-frame", first, "-s", root)
    run("isr", first, second, "-s", root)
    run("templates", "build", "-s", root)
    calexp = max((root / "archive" / "calexps").glob("*/*.fits"))
    files = [root / name for name in ("sources.avro", "difference.fits")]
    done = run("subtract", calexp, "-s", root, "-o", files[0], "--difference", files[1], "--json")
    (record,) = codec.read_container(Path(files[0]), "diasources")
    assert record["fileName"] == second.name
    assert record["template"]["nEpochs"] == 1
    return Pair(read_exposure(files[1]), read_exposure(calexp), record["sources"], done.json["metrics"])


def usable(exposure: Exposure) -> np.ndarray:
    """Return the pixels at least two from any that can't be used."""
    return ~ndimage.binary_dilation(blocked_pixels(exposure), iterations=2)


def test_the_fit_is_good(pair: Pair) -> None:
    assert pair.metrics["nKernelStars"] > 40
    assert pair.metrics["kernelSum"] == pytest.approx(1.0, abs=0.05)
    assert pair.metrics["residualChi2"] == pytest.approx(1.0, abs=0.35)
    assert pair.metrics["scoreNoise"] == pytest.approx(1.1, abs=0.15)  # aligned by others: neighbours are correlated
    assert pair.metrics["templateCoverage"] > 0.95


def test_nothing_changed(pair: Pair) -> None:
    """What is found are cosmic rays, dead columns and the image's edge; not one is an unflagged positive of 8 sigma."""
    assert len(pair.sources) <= 15
    names = ("pixelFlags_cr", "pixelFlags_bad", "pixelFlags_saturated", "psfFlux_flag_edge", "shape_flag")
    clean = [one for one in pair.sources if not any(one[name] for name in names)]
    print(f"{len(pair.sources)} sources, {len(clean)} without a flag")
    assert len([one for one in clean if not one["isNegative"] and one["snr"] > 8.0]) == 0


def test_fluxes_at_blank_places_scatter_as_they_say(pair: Pair) -> None:
    rng = np.random.default_rng(85)
    good = usable(pair.difference)
    stars = ndimage.binary_dilation(pair.science.image > 5.0 * np.sqrt(pair.science.variance), iterations=8)
    y, x = np.nonzero(good & ~stars)
    inside = (x > 30) & (x < good.shape[1] - 30) & (y > 30) & (y < good.shape[0] - 30)
    chosen = rng.choice(np.flatnonzero(inside), 2000, replace=False)
    found = psf_fluxes(
        pair.difference.image,
        pair.difference.variance,
        ~blocked_pixels(pair.difference),
        pair.difference.need_psf(),
        x[chosen] + rng.uniform(-0.5, 0.5, len(chosen)),
        y[chosen] + rng.uniform(-0.5, 0.5, len(chosen)),
    )
    pulls = found["flux"] / found["fluxErr"]
    pulls = pulls[np.isfinite(pulls) & (found["flags"] == 0)]
    print(f"{len(pulls)} pulls: mean {pulls.mean():+.3f}, width {pulls.std():.3f}")
    assert len(pulls) > 1000
    assert pulls.mean() == pytest.approx(0.0, abs=0.1)
    assert pulls.std() == pytest.approx(1.0, abs=0.1)
    assert np.mean(np.abs(pulls) > 3.0) < 0.015


def test_the_galaxy_is_gone(pair: Pair) -> None:
    """ESO 085-030 fills the middle of the frame, and leaves no more than noise in the difference."""
    box = (slice(290, 400), slice(460, 560))
    good = usable(pair.difference)[box]
    before = pair.science.image[box][good]
    after = pair.difference.image[box][good] / np.sqrt(pair.difference.variance[box][good])
    print(f"sum {before.sum():.3g} nJy before; mean {after.mean():+.3f}, width {after.std():.3f} after")
    assert good.mean() > 0.6
    assert abs(after.mean()) < 0.1
    assert after.std() == pytest.approx(1.0, abs=0.25)
    assert abs(pair.difference.image[box][good].sum()) < 0.02 * before.sum()
