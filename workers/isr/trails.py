"""Trails of satellites and aeroplanes: found on the binned image by the fast Radon transform, measured on the pixels.

The steps: bin and flatten the sky (trail_binning), block its sources but for long thin ones (trail_sources), sum along
all lines and pieces of lines (trail_radon), grow each candidate to a shallow arc and find its ends (trail_path), fit
path and profile at full resolution (trail_profile), refuse what the instrument or the stars make (trail_checks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState
from workers.isr.trail_binning import Box, FlatSky, flatten
from workers.isr.trail_checks import (
    ends_inside,
    fades,
    is_column,
    is_even,
    is_near_axis,
    is_sharp,
    is_spike,
    runs_along_axis,
)
from workers.isr.trail_path import Arc, Bars, cut, grow, inside, stretched, sums_along
from workers.isr.trail_planes import SearchPlanes, cover
from workers.isr.trail_profile import Profile, measure
from workers.isr.trail_radon import find_lines
from workers.isr.trail_sources import Sources, block_sources
from workers.survey.isr_config import TrailsConfig

__all__ = ["Trail", "apply", "find_trails", "trail_mask"]

_ROUNDS = 3
_HIDING = 50.0  # signal to noise of a trail that may hide another beside it: then all lines are looked at again
_BORDER = 40.0  # bins: an end so near to the border is taken to lie beyond it
Lines = Callable[[FloatImage, FloatImage, float, float], NDArray[np.float64]]
_FAINT = 0.35  # sigma of a pixel below which a wide trail along an axis is doubted
_STRONG = 70.0  # unless its signal to noise is larger
_LEAST = 0.55  # signal to noise over the root of the length of what is short
_WIDE = 10.0  # pixels of FWHM from which the background makes faint trails
_SHOULDER = 0.25  # mean level beside a wide one over its peak, above which it is a ridge of the background
_WIDEST = 50.0  # pixels of FWHM; what is wider belongs to the background
_BRIGHT_WIDTH = 4  # double bins: haloes are wider
_CLEARER = (2.0, 2.5, 2.5)  # times the threshold on the pixels, by the ends inside the image
_ASPECT = 15.0  # least length over width
_SHORT = 0.5  # of the detector's side: what is shorter may be a galaxy or a spike


@dataclass(frozen=True)
class Trail:
    """One trail: the parabola between its ends, and its light. Pixels are 0-based, centres at whole numbers."""

    x0: float
    y0: float
    x1: float
    y1: float
    sagitta: float
    """Pixels by which the middle is off the chord, positive towards (-dy, dx) of the chord (dx, dy)."""
    fwhm: float
    """Across, pixels."""
    peak: float
    """Brightness on the path, in the image's unit."""
    snr: float
    """Of the whole trail."""
    half_width: float
    """Pixels across from the path to where the trail is lost in the noise: what the mask covers."""


def find_trails(
    image: FloatImage,
    variance: FloatImage,
    mask: MaskImage,
    options: TrailsConfig,
    boxes: Sequence[Box] = (),
) -> tuple[Trail, ...]:
    """Return the trails, brightest first.

    `image` float32 (height, width), any unit, sky included; `variance` in its square (pixels where it is not positive
    and finite are left out; the noise itself is measured on the image); `mask` int32 MaskPlane bits; `boxes` the
    amplifiers (y0, y1, x0, x1). Raises DataError where the shapes differ.
    """
    if image.shape != mask.shape or image.shape != variance.shape:
        raise DataError(
            f"trails: image {image.shape}, variance {variance.shape} and mask {mask.shape} differ in shape; "
            "give the three planes of one detector"
        )
    sky = flatten(image, mask, options.binning, boxes)
    return _Search(image, mask, sky, block_sources(sky), options, boxes).run()


def apply(state: IsrState) -> None:
    """Set STREAK along every trail; the values stay. The number of trails and the share of pixels become metrics."""
    trails = find_trails(state.image, state.variance, state.mask, state.config.trails, state.detector.boxes)
    share = 0.0
    if trails:
        covered = trail_mask(trails, (state.image.shape[0], state.image.shape[1]))
        state.flag(covered, MaskPlane.STREAK)
        share = float(covered.mean())
    state.metrics["trailCount"] = float(len(trails))
    state.metrics["trailFraction"] = share


def trail_mask(trails: Sequence[Trail], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the bool mask of all pixels within each trail's half width of its path."""
    covered = np.zeros(shape, bool)
    for trail in trails:
        cover(covered, Arc(trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta), trail.half_width)
    return covered


class _Search:
    """Candidates one after another: each is accepted or refused and its bins leave the sums."""

    def __init__(
        self,
        image: FloatImage,
        mask: MaskImage,
        sky: FlatSky,
        sources: Sources,
        options: TrailsConfig,
        boxes: Sequence[Box],
    ) -> None:
        self.image, self.mask, self.sky, self.sources, self.options = image, mask, sky, sources, options
        self.boxes = boxes
        self.planes = SearchPlanes(sky, sources)
        self.shortest = options.shortest / sky.bin
        self.trails: list[Trail] = []

    def run(self) -> tuple[Trail, ...]:
        """Bright trails first, which may be tied up with stars; then those among the gaps between sources."""
        self.planes.start(self.sky.weight)
        self._pass(_halved, 2.0 * self.options.threshold)
        bright = list(self.trails)
        self.planes.start(self.planes.open)
        for trail in bright:
            self._close_trail(trail)
        for _ in range(_ROUNDS):
            known = len(self.trails)
            self._pass(_whole, self.options.threshold)
            new = self.trails[known:]
            if len(self.trails) == self.options.most or not any(trail.snr > _HIDING for trail in new):
                break
        return tuple(sorted(self.trails, key=lambda trail: -trail.snr))

    def _pass(self, lines_of: Lines, threshold: float) -> None:
        """Try all lines beyond `threshold`, brightest first, as long as they stand out."""
        lines = lines_of(self.planes.signal, self.planes.weight, threshold, self.shortest)
        while len(lines) and len(self.trails) < self.options.most:
            self._try(lines[0])
            lines = lines[1:]
            if len(lines):
                sums, weights = sums_along(self.planes.signal, self.planes.weight, lines)
                lines = lines[(weights >= 0.4 * self.shortest * lines[:, 4]) & (sums > threshold * np.sqrt(weights))]

    def _try(self, line: NDArray[np.float64]) -> None:
        """Follow one candidate; whatever it is, it is not looked at again."""
        width, seed, side = float(line[4]), Arc(*line[:4]), self.sky.bin
        if is_column(self.image, self.mask, self.sky, self.planes.weight, seed):
            self.planes.close_column(stretched(seed, -8.0, 9.0), width)
            return
        sagitta = self.options.sagitta / side
        arc, z = _followed(self.planes.signal, self.planes.weight, width, seed, sagitta, self.options.threshold)
        if z < self.options.threshold or self.planes.is_taken(arc):
            self._refuse(seed, arc, width)
            return
        brightness = self.planes.brightness(arc)
        weight = self.planes.opened(arc, brightness, width)
        if weight is not self.planes.open:
            arc, z = _followed(self.planes.clipped(weight), weight, width, arc, sagitta, 0.0)
        profile = measure(
            self.image, self.mask, self.sky, weight, arc.scaled(side), width * side, brightness, self.options.floor
        )
        taken = self.planes.is_taken(profile.arc.scaled(1.0 / side))
        if not taken and self._is_trail(profile, width, weight, brightness):
            trail = self._trail(profile)
            self.trails.append(trail)
            self._close_trail(trail)
        else:
            self._refuse(seed, arc, width)

    def _refuse(self, seed: Arc, arc: Arc, width: float) -> None:
        self.planes.close(seed, width + 1.0)
        self.planes.close(arc, width + 1.0)

    def _is_trail(self, profile: Profile, width: float, weight: FloatImage, brightness: float) -> bool:
        arc, shape, options = profile.arc, self.image.shape, self.options
        long = arc.length >= _SHORT * max(shape)
        if not self._is_clear(profile) or is_sharp(profile):
            return False
        if not is_even(profile, options.threshold, 0.25 if long else 0.65):
            return False
        if runs_along_axis(arc, profile.fwhm, profile.peak < _FAINT, self.boxes, shape):
            return False
        binned = arc.scaled(1.0 / self.sky.bin)
        if is_column(self.image, self.mask, self.sky, weight, binned):
            return False
        return not is_spike(self.sky, weight, self.sources.cores, binned, width, brightness, long)

    def _is_clear(self, profile: Profile) -> bool:
        """Whether it is as long, narrow, strong and steady as asked of its kind.

        What ends inside the detector, or is short, must be clearer: there spikes and galaxies abound.
        """
        arc, options = profile.arc, self.options
        if arc.length < max(options.shortest, _ASPECT * profile.fwhm) or profile.fwhm > _WIDEST:
            return False
        if abs(arc.sagitta) > options.sagitta * (arc.length / max(self.image.shape)) ** 2 + 2.0:
            return False
        wide = profile.fwhm > _WIDE
        faintest = (2.0 if wide else 1.0) * options.floor
        if wide and is_near_axis(arc) and profile.snr < _STRONG:
            faintest = _FAINT
        if profile.peak < faintest or (wide and sum(profile.sides) > 2.0 * _SHOULDER):
            return False
        inner = ends_inside(arc, self.image.shape, _BORDER * self.sky.bin)
        short = arc.length < _SHORT * max(self.image.shape)
        if profile.snr < _CLEARER[max(inner, 1) if short else inner] * options.threshold:
            return False
        if not short:
            return inner < 2 or not fades(profile, 0.6)
        if profile.snr < _LEAST * float(np.sqrt(arc.length)) or is_near_axis(arc):
            return False
        return not fades(profile, 0.5 if inner < 2 else 0.6)

    def _trail(self, profile: Profile) -> Trail:
        """Return the record; ends near the border are drawn out to it."""
        arc = profile.arc
        margin = _BORDER * self.sky.bin
        height, width = self.image.shape
        reach = margin / max(arc.length, 1.0)
        ends = []
        for x, y in ((arc.x0, arc.y0), (arc.x1, arc.y1)):
            ends.append(reach if min(x, y, width - 1 - x, height - 1 - y) < margin else 0.1 * reach)
        arc = inside(stretched(arc, -ends[0], 1.0 + ends[1]), self.image.shape)
        peak = profile.peak * profile.noise
        numbers = (profile.fwhm, peak, profile.snr, profile.half_width)
        return Trail(arc.x0, arc.y0, arc.x1, arc.y1, arc.sagitta, *numbers)

    def _close_trail(self, trail: Trail) -> None:
        arc = Arc(trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta).scaled(1.0 / self.sky.bin)
        self.planes.close_trail(arc, trail.half_width / self.sky.bin + 1.0)


def _followed(
    signal: FloatImage, weight: FloatImage, width: float, seed: Arc, sagitta: float, least: float
) -> tuple[Arc, float]:
    """Return the lit arc through `seed` and its signal to noise (0 where that is under `least`)."""
    bars = Bars.of(signal, weight, width, seed)
    arc = cut(bars, grow(bars, seed, sagitta), seed)
    arc = cut(bars, bars.searched(arc, (2.0, 1.0), sagitta), arc)
    if bars.z(arc) < least:
        return arc, 0.0
    again = cut(bars, grow(bars, arc, sagitta), arc)  # from a better bend it may reach farther
    again = cut(bars, bars.searched(again, (2.0, 1.0), sagitta), again)
    return max(((arc, bars.z(arc)), (again, bars.z(again))), key=lambda pair: pair[1])


def _whole(signal: FloatImage, weight: FloatImage, threshold: float, shortest: float) -> NDArray[np.float64]:
    return find_lines(signal, weight, threshold, shortest)


def _halved(signal: FloatImage, weight: FloatImage, threshold: float, shortest: float) -> NDArray[np.float64]:
    """Return the lines found on twice larger bins, four times as fast: enough for what is bright."""
    height, width = signal.shape[0] // 2, signal.shape[1] // 2
    sums = [p[: 2 * height, : 2 * width].reshape(height, 2, width, 2).sum(axis=(1, 3)) for p in (signal, weight)]
    lines = find_lines(0.5 * sums[0], 0.25 * sums[1], threshold, 0.5 * shortest)
    lines = lines[lines[:, 4] <= _BRIGHT_WIDTH]
    lines[:, :4] = 2.0 * lines[:, :4] + 0.5
    lines[:, 4] *= 2.0
    return lines
