"""The survey folder of the bench from raw frame to sources: the subtraction bench's pair, seen through a camera.

The science image becomes a raw frame (flat, dark, cosmic rays, 16 amplifiers with their levels, tile compression) with
a header a few arcseconds off; masters are made of simulated frames; the template is a calibrated exposure on pixels of
its own, characterized as any other, and cut into cells. Kept under the temporary directory by what it was made from.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from tests.bench.subtract_light import Moffat, bleed, moved, paint, paint_galaxy
from tests.bench.subtract_scene import FLUX_SCALE, FULL_WELL, NJY, READ_NOISE, SKY, Pair, make_pair
from workers.calibrate.worker import make_masters
from workers.characterize.pipeline import Options, characterize
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import write_exposure
from workers.imaging.reference import load_reference
from workers.imaging.wcs import SkyWcs
from workers.simulate.cadence import Visit, plan_visits
from workers.simulate.camera import camera_toml
from workers.simulate.charge import bleed as bled
from workers.simulate.charge import cosmic_rays
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.exposure import frame_header, make_frame, to_fits
from workers.simulate.optics import header_wcs, true_wcs
from workers.simulate.pipeline import survey_toml
from workers.simulate.readout import read_out
from workers.simulate.settings import (
    CadenceSettings,
    DetectorSettings,
    OpticsSettings,
    SimulatedSurvey,
    SkySettings,
)
from workers.simulate.streams import stream
from workers.survey.config import Survey, load_survey
from workers.templates.pipeline import build
from workers.templates.store import TemplateStore

__all__ = ["RawScene", "Wish", "make_scene"]

_VERSION = 2
_FAINTEST_REFERENCE = 3000.0
"""Electrons of the template: about 2000 stars of 10,000."""


@dataclass(frozen=True)
class Wish:
    """What makes one scene."""

    seed: int
    size: int
    depth: float = 9.0
    registration: float = 0.0
    """Pixels: the catalogue on which the template's WCS is fitted waves by this over the field."""
    true: str = ""
    """``psf``, ``wcs`` or both, joined by +: the template's are the true ones."""


@dataclass(frozen=True)
class RawScene:
    """Where everything lies, and the truth."""

    survey: Survey
    raw: Path
    pair: Pair
    """Stars, galaxies and transients in science pixels; fluxes of transients are nJy of the whole light."""
    wcs: SkyWcs
    """The true one of the science image."""
    template_wcs: SkyWcs
    template: Path
    """Calibrated exposure on its own pixels."""
    hits: np.ndarray
    """(n, 2): x, y of pixels that cosmic rays hit or that are defects, of the science image."""


def make_scene(wish: Wish) -> RawScene:
    """Return the scene, made where it is not there yet."""
    config, pair = _settings(wish), _pair(wish)
    base = Path(tempfile.gettempdir()) / "raw-bench" / _key("survey", wish.seed, wish.size, config)
    science, archive = (next(v for v in plan_visits(config) if v.role == role) for role in ("live", "archive"))
    wcs, template_wcs = true_wcs(config, science, 0), true_wcs(config, archive, 0)
    if not (base / "done").exists():
        _write_survey(base, config, pair, wcs)
        (base / "done").touch()
    raw, hits = base / f"raw-{wish.depth:g}.fits", base / f"hits-{wish.depth:g}.npy"
    if not hits.exists():  # the transients' fluxes are those that the template's depth lets be seen
        data, where = _raw(config, pair, science)
        raw.write_bytes(data)
        np.save(hits, where)
    root = base / _key("template", *astuple(wish))
    if not (root / "done").exists():
        _write_template(root, base, config, wish, pair, archive, (wcs, template_wcs))
        (root / "done").touch()
    calexp = root / "archive" / "calexps" / "template.fits"
    return RawScene(load_survey(root), raw, pair, wcs, template_wcs, calexp, np.load(hits))


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((_VERSION, parts)).encode()).hexdigest()[:12]


def _settings(wish: Wish) -> SimulatedSurvey:
    """One detector of 8 x 2 amplifiers; one archive visit for the template, one live visit."""
    return SimulatedSurvey(
        seed=wish.seed,
        name="bench",
        sky=SkySettings(ra=150.1, dec=-29.7),
        optics=OpticsSettings(pixel_scale=0.25, distortion=1.0e-10, rotation_error=0.08),
        detectors=DetectorSettings(
            width=wish.size,
            height=wish.size,
            count=1,
            amplifiers=(8, 2),
            overscan=64,
            hdu_per_amplifier=True,
            read_noise=READ_NOISE,
            full_well=FULL_WELL[0],
            bad_columns=6,
            cosmic_rays=60.0,
            vignetting=0.03,
            dust_rings=20,
        ),
        cadence=CadenceSettings(
            archive=1, recent=0, live=1, dither=2.0, exposure_time=30.0, biases=8, darks=4, dark_time=300.0, flats=10
        ),
    )


def _pair(wish: Wish) -> Pair:
    """Return the pair with fluxes of transients as the zero point gives them: the whole light, nJy of the template."""
    share = (wish.size / 4096) ** 2
    counts = [round(share * count) for count in (10_000, 2000, 200)]
    pair = make_pair(wish.seed, wish.size, *counts, depth=wish.depth)
    rows = pair.transients.copy()
    u, v = (2 * rows[axis] / wish.size - 1 for axis in ("x", "y"))
    rows["flux"] = rows["electrons"] * NJY / (FLUX_SCALE * (1 + 0.0075 * u - 0.004 * v))
    return replace(pair, transients=rows)


def _write_survey(base: Path, config: SimulatedSurvey, pair: Pair, wcs: SkyWcs) -> None:
    """Write configuration, reference catalogue and masters."""
    base.mkdir(parents=True, exist_ok=True)
    (base / "survey.toml").write_text(survey_toml(config), encoding="utf-8")
    (base / "camera.toml").write_text(camera_toml(config), encoding="utf-8")
    x, y = pair.stars["x"], pair.stars["y"]
    _reference(config.seed, pair, *wcs.pixel_to_sky(x, y)).write(base / "reference.fits", overwrite=True)
    frames: dict[str, list[Path]] = {}
    for one in plan_visits(config):
        if one.kind != "science":
            path = base / f"{one.role}-{one.number}.fits"
            path.write_bytes(to_fits(make_frame(config, one, 0)))
            frames.setdefault(one.role, []).append(path)
    survey = load_survey(base)
    for kind in ("bias", "dark", "flat", "defects"):
        made = make_masters(kind, frames.get(kind, ()), survey)
        if not all(one.verdict.certified for one in made):
            raise SystemExit(f"the bench's own {kind} was not certified: {made[0].verdict}")
    for path in (path for paths in frames.values() for path in paths):
        path.unlink()


def _reference(seed: int, pair: Pair, ra: np.ndarray, dec: np.ndarray) -> Table:
    """Return the stars of more than 3000 electrons as a space mission lists them: 0.05 to 1 mas, 0.3 % of the flux."""
    stars, rng = pair.stars, np.random.default_rng([seed, 77])
    flux = stars["template"]
    error = np.hypot(0.05, np.sqrt(_FAINTEST_REFERENCE / flux)) / 3.6e6
    off, noise, present = rng.standard_normal((2, len(stars))), rng.standard_normal(len(stars)), rng.random(len(stars))
    keep = (flux > _FAINTEST_REFERENCE) & (present > 0.02)
    flux_error = np.hypot(0.003 * flux, 0.01 * _FAINTEST_REFERENCE)
    table = Table()
    table["id"] = np.arange(len(stars))[keep]
    table["ra"] = (ra + off[0] * error / np.cos(np.radians(dec)))[keep]
    table["dec"] = (dec + off[1] * error)[keep]
    table["flux_r"], table["flux_r_err"] = (NJY * (flux + flux_error * noise))[keep], (NJY * flux_error)[keep]
    return table


def _raw(config: SimulatedSurvey, pair: Pair, visit: Visit) -> tuple[bytes, np.ndarray]:
    """Return the raw frame's bytes, and where cosmic rays and defects are."""
    light = pair.science.variance / np.float64(NJY**2) - READ_NOISE**2  # the pair's variance is the true one
    pattern, design = detector_pattern(config, 0), config.detectors
    expected = light * flat_field(config, 0, visit.band) + pattern.dark * visit.exposure_time
    electrons = stream(config.seed, "photons", visit.number).poisson(expected).astype(float)
    rays = design.cosmic_rays * 1.0e-6 * electrons.size * visit.exposure_time / 60.0
    cosmics = cosmic_rays(stream(config.seed, "cosmic rays", visit.number), electrons.shape, rays)
    electrons = bled(np.where(pair.science.mask != 0, design.full_well, electrons + cosmics), design.full_well)
    y, x = np.nonzero((cosmics > 0) | pattern.defects)
    primary = fits.PrimaryHDU()
    for key, value in frame_header(config, visit, 0).items():
        primary.header[key] = value
    hdus = [primary]
    for index, array in read_out(config, visit.number, 0, electrons).items():
        hdus.append(fits.CompImageHDU(array, name=f"A{index - 1}", compression_type="RICE_1"))
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue(), np.column_stack([x, y])


def _write_template(
    root: Path,
    base: Path,
    config: SimulatedSurvey,
    wish: Wish,
    pair: Pair,
    visit: Visit,
    wcs: tuple[SkyWcs, SkyWcs],
) -> None:
    """Write a survey folder of its own beside the shared masters: template exposure, cells."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("survey.toml", "camera.toml", "reference.fits"):
        (root / name).write_bytes((base / name).read_bytes())
    if not (root / "calibrations").exists():
        (root / "calibrations").symlink_to(base / "calibrations")
    x, y = wcs[1].sky_to_pixel(*wcs[0].pixel_to_sky(pair.stars["x"], pair.stars["y"]))
    optics = pair.template_optics
    seen = _template_electrons(config, wish, pair, visit, wcs)
    waved = moved(x, y, (0.0, 0.0, wish.registration))
    path = root / "template-reference.fits"
    _reference(config.seed + 1, pair, *wcs[1].pixel_to_sky(*waved)).write(path, overwrite=True)
    survey = load_survey(root)
    options = survey.config.characterize
    done = characterize(seen, load_reference(path), Options(options, survey.camera.detector(0).boxes))
    if "psf" in wish.true:
        done = done.replaced(psf=optics.model())
    if "wcs" in wish.true:
        done = done.replaced(wcs=wcs[1])
    calexps = survey.archive / "calexps"
    write_exposure(calexps / "template.fits", done)
    build(calexps, TemplateStore(survey.templates), survey.config.templates)


def _template_electrons(
    config: SimulatedSurvey, wish: Wish, pair: Pair, visit: Visit, wcs: tuple[SkyWcs, SkyWcs]
) -> Exposure:
    """Return the template in electrons, sky included, with the variance that an observer derives from the pixels."""
    light = _template_light(wish, pair, pair.template_optics, wcs)
    mask = bleed(light, FULL_WELL[1] - SKY)
    rng = np.random.default_rng([wish.seed, 78])
    depth = np.float32(wish.depth)
    image, variance = np.empty_like(light), np.empty_like(light)
    for top in range(0, wish.size, 256):
        rows = slice(top, top + 256)
        seen = rng.poisson((light[rows] + SKY) * float(depth)) / depth
        seen += rng.standard_normal(seen.shape, np.float32) * (READ_NOISE / np.sqrt(depth))
        image[rows] = np.where(mask[rows] != 0, FULL_WELL[1], seen)
        variance[rows] = (np.maximum(image[rows], 0) + READ_NOISE**2) / depth
    names = asdict(pair.science.info)
    changed = {"instrument": "bench", "visit": visit.number, "detector": 0, "midpointMjdTai": visit.midpoint}
    info = ExposureInfo(**{**names, **changed, "fileName": "template.fits"})
    return Exposure(info, image, mask, variance, wcs=SkyWcs.from_cards(header_wcs(config, visit, 0)))


def _template_light(wish: Wish, pair: Pair, optics: Moffat, wcs: tuple[SkyWcs, SkyWcs]) -> np.ndarray:
    """Return the noiseless light of the template on its own pixels, electrons, moved by the wave."""
    path = Path(tempfile.gettempdir()) / "raw-bench" / f"light-{_key(wish.seed, wish.size, wish.registration)}.npy"
    if path.exists():
        return np.load(path)
    wave = 0.0, 0.0, wish.registration
    light, scratch = (np.zeros((wish.size, wish.size), np.float32) for _ in range(2))

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return moved(*wcs[1].sky_to_pixel(*wcs[0].pixel_to_sky(x, y)), wave)

    stars = pair.stars
    paint(light, *place(stars["x"], stars["y"]), stars["template"], optics)
    galaxies = pair.galaxies.copy()
    x, y = place(galaxies["x"], galaxies["y"])
    beside = place(galaxies["x"] + 1.0, galaxies["y"])
    galaxies["angle"] += np.arctan2(beside[1] - y, beside[0] - x)
    galaxies["x"], galaxies["y"] = x, y
    inside = (np.minimum(x, y) > -30) & (np.maximum(x, y) < wish.size + 30)
    for row in galaxies[inside]:
        paint_galaxy([light, scratch], row, (optics, optics), (0.0, 0.0, 0.0))
    np.save(path, light)
    return light
