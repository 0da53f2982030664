"""Which exposures go into a cell, with what weight, and why the others do not."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry
from workers.templates.window import cell_window

__all__ = [
    "Reason",
    "Rejection",
    "Selection",
    "choose_inputs",
    "input_weight",
    "relative_transparency",
    "select_inputs",
]

_Candidate = tuple[CalexpEntry, float]
_PEERS = 3
"""Visits of one detector that tell what is clear; where there are fewer, all detectors of the band do."""
_CLEAR = 0.75
"""Quantile of the peers' throughput that stands for a clear sky: half of them may be cloudy."""


class Reason(StrEnum):
    """Why an exposure is not in a cell; the values name the key of [templates] that says so."""

    COVERAGE = "covers nothing of the cell"
    WINDOW = "outside the window of the cell"
    SEEING = "FWHM above max_fwhm_arcsec"
    TRANSPARENCY = "transparency below min_transparency"
    PSF_STARS = "fewer PSF stars than min_psf_stars"
    PSF_ERROR = "PSF model error above max_psf_error"
    ELLIPTICITY = "ellipticity of the PSF above max_ellipticity"
    ASTROMETRY = "astrometric rms above max_astrometric_rms"
    WORSE_SEEING = "not of the best seeing (fwhm_fraction, min_selected)"
    LESS_WEIGHT = "beyond the max_epochs visits of most weight"
    TOO_FEW = "the cell has fewer visits than min_epochs"


@dataclass(frozen=True)
class Rejection:
    """An exposure that is left out of a cell."""

    label: str
    """``<visit>:<detector>``."""
    reason: Reason


@dataclass(frozen=True)
class Selection:
    """What goes into a cell; every candidate is in one of the two lists."""

    inputs: tuple[CalexpEntry, ...]
    """By time, visit and detector; none where they are too few."""
    rejections: tuple[Rejection, ...]
    """By label."""

    def counts(self) -> Counter[Reason]:
        """Return how many exposures were left out, by reason."""
        return Counter(rejection.reason for rejection in self.rejections)


def input_weight(entry: CalexpEntry) -> float:
    """Return the weight of an exposure: 1 / (background variance per square arcsec x FWHM²), nJy^-2.

    This is, up to a constant, the inverse variance of the flux of a faint star, so the weighted mean has the greatest
    depth for point sources that fixed weights give. Fluxes being calibrated, the variance holds the transparency and
    the exposure time: transparency T divides the variance in electrons by T², as in the weights T² / (sky FWHM²) of
    Annis et al. 2014 (ApJ 794, 120). One weight per exposure, never per pixel: the mean stays linear and unbiased.
    """
    return 1.0 / (entry.variance * entry.fwhm**2)


def select_inputs(
    candidates: Iterable[_Candidate], config: TemplatesConfig, ra: float | None = None
) -> tuple[CalexpEntry, ...]:
    """Return the exposures of one cell, by time, visit and detector; as `choose_inputs`, without the reasons."""
    return choose_inputs(candidates, config, ra).inputs


def choose_inputs(candidates: Iterable[_Candidate], config: TemplatesConfig, ra: float | None = None) -> Selection:
    """Return what goes into one cell, and why the other candidates don't.

    `candidates` are exposures of one band with the fraction of the cell that each covers, `ra` is that of the cell's
    centre (degrees ICRS), which season-aligned windows need. Exposures that fail a limit are left out. Of the rest
    the visits of the best seeing stay: `fwhm_fraction` of them, but `min_selected` at least (as Rubin's good-seeing
    quantile, pipe_tasks selectImages.py; visits count by the part of the cell that they cover), and of these the
    `max_epochs` with the most weight x covered fraction. Fewer visits than `min_epochs` make no template.
    """
    left: dict[str, Reason] = {}
    good = _present(candidates, cell_window(config, ra), left)
    clear = relative_transparency(entry for entry, _ in good)
    for entry, _ in good:
        fault = next((reason for reason, failed in _limits(entry, config, clear) if failed), None)
        if fault is not None:
            left[entry.label] = fault
    good = [(entry, part) for entry, part in good if entry.label not in left]
    for trim in (_best_seeing, _heaviest, _enough):
        good = _trimmed(good, trim, config, left)
    chosen = sorted((entry for entry, _ in good), key=lambda entry: (entry.midpointMjdTai, entry.visit, entry.detector))
    return Selection(tuple(chosen), tuple(Rejection(label, left[label]) for label in sorted(left)))


def relative_transparency(entries: Iterable[CalexpEntry]) -> dict[str, float]:
    """Return, by label, how transparent the sky was, 1 where it was clear; without those that nothing tells.

    The metric where exposures have it, which needs photometry.zero_point; else the throughput beside the upper
    quartile of the same detector's, or of all detectors' where it has fewer than three.
    """
    known: dict[str, float] = {}
    peers: dict[int, list[float]] = defaultdict(list)
    asked: list[tuple[CalexpEntry, float]] = []
    for entry in entries:
        quality = entry.quality
        if quality.transparency is not None:
            known[entry.label] = quality.transparency
        elif quality.throughput is not None:
            peers[entry.detector].append(quality.throughput)
            asked.append((entry, quality.throughput))
    everyone = [throughput for _, throughput in asked]
    for entry, throughput in asked:
        mine = peers[entry.detector]
        known[entry.label] = throughput / _clear(mine if len(mine) >= _PEERS else everyone)
    return known


def _clear(throughputs: list[float]) -> float:
    return sorted(throughputs)[math.ceil(_CLEAR * (len(throughputs) - 1))]


def _present(
    candidates: Iterable[_Candidate], window: tuple[float, float], left: dict[str, Reason]
) -> list[_Candidate]:
    """Return the candidates that lie in the window and on the cell; the others go to `left`."""
    good = []
    for entry, part in candidates:
        if not window[0] <= entry.midpointMjdTai <= window[1]:
            left[entry.label] = Reason.WINDOW
        elif part <= 0:
            left[entry.label] = Reason.COVERAGE
        else:
            good.append((entry, part))
    return good


def _limits(entry: CalexpEntry, config: TemplatesConfig, clear: dict[str, float]) -> Iterator[tuple[Reason, bool]]:
    """Yield each limit and whether the exposure fails it; a metric that it lacks fails none.

    Transparency: effTimeZeroPointScale of Rubin's prompt templates (ap_pipe). PSF: PsfWcsSelectImagesConfig of
    pipe_tasks has an ellipticity (a² - b²) / (a² + b²) of 0.4, which is 0.21 here, 0.019 for the scatter of the size,
    which is 0.04 of the PSF's peak, and 6 stars, which is more than small cameras always have. Position: ours.
    """
    quality, inf = entry.quality, math.inf
    yield Reason.SEEING, entry.fwhm > config.max_fwhm_arcsec
    yield Reason.TRANSPARENCY, clear.get(entry.label, inf) < config.min_transparency
    yield Reason.PSF_STARS, _or(quality.psfStars, inf) < config.min_psf_stars
    yield Reason.PSF_ERROR, _or(quality.psfError, 0.0) > config.max_psf_error
    yield Reason.ELLIPTICITY, _or(quality.ellipticity, 0.0) > config.max_ellipticity
    yield Reason.ASTROMETRY, _or(quality.astrometricRms, 0.0) > config.max_astrometric_rms * entry.fwhm


def _or(number: float | None, otherwise: float) -> float:
    return otherwise if number is None else number


_Trim = Callable[[list[_Candidate], TemplatesConfig], tuple[set[int], Reason]]


def _trimmed(good: list[_Candidate], trim: _Trim, config: TemplatesConfig, left: dict[str, Reason]) -> list[_Candidate]:
    """Return the candidates of the visits that `trim` keeps; the others go to `left`."""
    visits, reason = trim(good, config)
    left.update({entry.label: reason for entry, _ in good if entry.visit not in visits})
    return [(entry, part) for entry, part in good if entry.visit in visits]


def _best_seeing(good: list[_Candidate], config: TemplatesConfig) -> tuple[set[int], Reason]:
    """Return the visits of the best seeing; of equal seeing all or none."""
    covered: dict[int, float] = defaultdict(float)
    blurred: dict[int, float] = defaultdict(float)
    for entry, part in good:
        covered[entry.visit] += part
        blurred[entry.visit] += part * entry.fwhm
    seeing = {visit: blurred[visit] / part for visit, part in covered.items()}
    wanted = max(config.fwhm_fraction * sum(covered.values()), float(config.min_selected))
    kept: set[int] = set()
    have, last = 0.0, math.inf
    for visit in sorted(seeing, key=lambda visit: (seeing[visit], visit)):
        if have >= wanted and seeing[visit] > last:
            break
        kept.add(visit)
        have, last = have + covered[visit], seeing[visit]
    return kept, Reason.WORSE_SEEING


def _heaviest(good: list[_Candidate], config: TemplatesConfig) -> tuple[set[int], Reason]:
    """Return the visits that make the cell deepest."""
    worth: dict[int, float] = defaultdict(float)
    for entry, part in good:
        worth[entry.visit] += input_weight(entry) * part
    return set(sorted(worth, key=lambda visit: (-worth[visit], visit))[: config.max_epochs]), Reason.LESS_WEIGHT


def _enough(good: list[_Candidate], config: TemplatesConfig) -> tuple[set[int], Reason]:
    """Return all visits, or none where they are too few."""
    visits = {entry.visit for entry, _ in good}
    return visits if len(visits) >= config.min_epochs else set(), Reason.TOO_FEW
