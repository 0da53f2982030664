"""Change points and jump days of families of nightly series.

A family is a set of series that share their nights: the columns of an amplifier, say. Offsets (steps, excursions of up
to some nights, single nights) are taken one at a time, the best of all first, and each time all series are scanned
again with those projected out: binary segmentation with exact likelihood ratios (Scott & Knott 1974, Biometrics 30,
507; circular: Olshen et al. 2004, Biostatistics 5, 557). An offset counts where one series shows it beyond a threshold
that is Bonferroni's over series, nights and lengths, or where many series show it a little, together. Its date is where
the likelihood of all series that show it is highest. Excursions of one or two nights are jump days: outliers, and no
two change points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from schemas.errors import DataError
from workers.calibrate.step_scan import Scan, filled, freedom, night_noise, offsets, projected, projection

__all__ = ["STANDARD", "Change", "Evidence", "FamilyChanges", "Jump", "ScanSettings", "find_changes"]

_Float = NDArray[np.float64]
_Span = tuple[int, int]

_FEWEST_NIGHTS = 5
_JUMP_NIGHTS = 2
"""An excursion of so many nights at most is made of jump days."""
_COLOUR = ((7, 1.2), (14, 1.3))
"""Nights over which means are taken, and what their scatter may be above that of white noise."""
_COLOUR_NIGHTS = 60
_REFINE = 4
_TWO_DATES = 16.0
"""What an excursion needs more in z² than a step: the logarithm of its dates, twice."""
_DATE_EVIDENCE = 16.0
"""Nights at which a change is no less likely than by this much in z² may be its date: four sigma."""
_OF_INTEREST = 0.65
_MANY = 8
"""Series that are enough to tell a common noise."""


@dataclass(frozen=True)
class ScanSettings:
    """What counts as a change, and what as drift."""

    false_alarms: float = 1.0e-3
    """Expected false changes of one family in all its nights, under Gaussian noise."""
    drift_days: float = 60.0
    """Time scale of drift: a season (365 days) is drift, a change within days is not.

    Wander of ten days passes for white noise up to half a night's noise; above that its largest swings look like steps.
    """
    drift_ratio: float = 4.0
    """Standard deviation of the drift over the noise of a typical night."""
    longest_excursion: int = 20
    """Nights; what goes and comes back later than that is found as two steps."""
    most: int = 40
    """Offsets per family."""


STANDARD = ScanSettings()


@dataclass(frozen=True)
class Evidence:
    """What one series says of an offset."""

    series: int
    """Its row; -1 stands for all series of the family together, with the rms of their sizes."""
    size: float
    """In the unit of the series, after minus before."""
    error: float
    z: float
    """Size over error; for all together the Gaussian equivalent of their sum of squares."""


@dataclass(frozen=True)
class Change:
    """A step: nights from `first` on (index) differ from those before."""

    first: int
    earliest: int
    """`first` may be as early as this by the likelihood (4 sigma)."""
    latest: int
    evidence: tuple[Evidence, ...]
    """Strongest first."""


@dataclass(frozen=True)
class Jump:
    """A night that is off and the next one or two are not."""

    night: int
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class FamilyChanges:
    """Everything found in one family, in order of time."""

    changes: tuple[Change, ...] = ()
    jumps: tuple[Jump, ...] = ()
    noise: tuple[float, ...] = field(default=(), repr=False)
    """Of a typical night, per series."""


def find_changes(
    times: NDArray[np.floating],
    values: _Float,
    errors: _Float,
    settings: ScanSettings = STANDARD,
    *,
    together: bool = False,
) -> FamilyChanges:
    """Return the change points and jump days of series `values` (s, n) on nights `times` (n,), days in order.

    `errors` (s, n) are one sigma per value, in the unit of the values: their course over the nights gives the weights,
    their median is the least noise that a series can have; the noise itself is the scatter from night to night. NaN
    values are left out. `together` also tests the sum of squares over all series. Raises DataError where shapes differ,
    times are not in order, or an error is not positive.
    """
    values = np.asarray(values, np.float64)
    errors = np.asarray(errors, np.float64)
    _check(times, values, errors)
    if values.shape[1] < _FEWEST_NIGHTS or len(values) == 0:
        return FamilyChanges(noise=tuple(np.zeros(len(values))))
    errors = _known(errors)
    relative = np.median(errors / np.median(errors, axis=1, keepdims=True), axis=0)
    complete = filled(values)
    noise = _noise(complete, errors, relative)
    matrix = projection(np.asarray(times, float), relative, settings.drift_days, settings.drift_ratio)
    scaled, threshold = complete / noise[:, None], _threshold(values.shape, settings)
    search = _Search(matrix, scaled, noise, threshold, settings, together, freedom(scaled, relative))
    rows = search.rows_of_interest()
    if len(rows) == 0:
        return FamilyChanges(noise=tuple(float(value) for value in noise))
    some = replace(search, values=scaled[rows], noise=noise[rows])
    changes, jumps = some.told(some.kept(some.refined(some.chosen())), rows)
    return FamilyChanges(changes, jumps, tuple(float(value) for value in noise))


def _check(times: NDArray[np.floating], values: _Float, errors: _Float) -> None:
    if values.ndim != 2 or values.shape != errors.shape or values.shape[1] != len(times):
        raise DataError(
            f"nightly series need one value and error per night: {len(times)} nights, values {values.shape}, "
            f"errors {errors.shape}"
        )
    if np.any(np.diff(times) <= 0):
        raise DataError("the nights of a series must be in order of time, each once")
    if np.any(~(errors[np.isfinite(values)] > 0)):
        raise DataError("the error of every nightly value must be positive and finite")


def _known(errors: _Float) -> _Float:
    """Return the errors with those that are not known (of missing values) set to the series' median; 1 without any."""
    good = errors > 0
    typical = [float(np.median(row[there])) if there.any() else 1.0 for row, there in zip(errors, good, strict=True)]
    return np.where(good, errors, np.array(typical)[:, None])


def _noise(values: _Float, errors: _Float, relative: _Float) -> _Float:
    """Return the noise of a typical night per series (s,): scatter, but not below what the errors or the family say."""
    given = np.median(errors, axis=1)
    scatter = night_noise(values, relative)
    least = float(np.median(scatter / given)) if len(values) >= _MANY else 1.0
    return np.asarray(given * np.maximum(scatter / given, max(least, 1.0)))


def _threshold(shape: tuple[int, int], settings: ScanSettings) -> float:
    """Return the |z| that as many tries reach by chance with the wanted probability."""
    tries = shape[0] * shape[1] * (settings.longest_excursion + 1)
    return float(-ndtri(0.5 * settings.false_alarms / tries))


@dataclass(frozen=True)
class _Search:
    """The search in one family. A span (first, end) with end == n is a step."""

    matrix: _Float
    values: _Float
    """(s, n) in units of each series' noise."""
    noise: _Float
    threshold: float
    settings: ScanSettings
    together: bool
    freedom: float
    """Degrees of freedom of a sum of squares over the series."""

    @property
    def nights(self) -> int:
        return int(self.values.shape[1])

    def rows_of_interest(self) -> NDArray[np.intp]:
        """Return the series that can add to any evidence; of thousands those are few, and the search is for them."""
        if self.together or len(self.values) <= _MANY:
            return np.arange(len(self.values))
        strongest = np.zeros(len(self.values))
        for _, z in self.without([]).scores(self.settings.longest_excursion):
            strongest = np.maximum(strongest, np.abs(z).max(axis=1))
        return np.flatnonzero(strongest > _OF_INTEREST * self.threshold)

    def without(self, spans: list[_Span]) -> Scan:
        """Return the scan with the offsets `spans` projected out."""
        return Scan(projected(self.matrix, offsets(spans, self.nights)), self.values)

    def chosen(self) -> list[_Span]:
        """Take the offset with the most evidence, one after the other, until none is significant."""
        spans: list[_Span] = []
        while len(spans) < self.settings.most:
            scan = self.without(spans)
            best, span = self._best(scan, self._colour(scan))
            if best <= 0.0:
                best, span = self._best_of_coloured(spans, scan)
            if best > 0.0:
                span = self._consistent(spans, scan, span)
            if best <= 0.0 or span in spans:
                break
            spans.append(span)
        return spans

    def _best_of_coloured(self, spans: list[_Span], scan: Scan) -> tuple[float, _Span]:
        """Return the best offset where it is significant with the colour that is left without it.

        In a short series a large step makes much of the colour that would hide it.
        """
        best, span = self._best(scan, np.ones(len(self.values)))
        if best > 0.0 and self._strength(scan, span, self._colour(self.without([*spans, span]))) <= self.threshold:
            return 0.0, span
        return best, span

    def _consistent(self, spans: list[_Span], scan: Scan, span: _Span) -> _Span:
        """Return the span, or the strongest single night of a short one that only one or two bad nights make up.

        The other nights must show half a threshold of it without those two: two outliers near each other are no period.
        """
        first, end = span
        edges = [0, self.nights, *(edge for other in spans for edge in other)]
        if end == self.nights:  # a step: the shorter of its sides
            before = first - max(edge for edge in edges if edge < first)
            after = min(edge for edge in edges if edge > first) - first
            first, end = (first - before, first) if before < after else (first, first + after)
        if not 1 < end - first <= self.settings.longest_excursion:
            return span
        singles = [(night, night + 1) for night in range(first, end)]
        evidence = np.square(scan.span_scores(singles)).max(axis=0)
        strongest = np.argsort(-evidence, kind="stable")[: min(_JUMP_NIGHTS, end - first - 1)]
        bad = [singles[int(index)] for index in strongest]
        z = self.without(spans + bad).span_scores([span])
        left = float(np.abs(z).max())
        if self.together:
            left = max(left, float(self._joint(z)[0]))
        return span if left > 0.5 * self.threshold or bad[0] in spans else bad[0]

    def _best(self, scan: Scan, colour: _Float) -> tuple[float, _Span]:
        best, span = 0.0, (0, self.nights)
        for length, z in scan.scores(self.settings.longest_excursion):
            handicap = _TWO_DATES if length > _JUMP_NIGHTS else 0.0
            evidence = self._evidence(z / colour[:, None], handicap=handicap)
            first = int(np.argmax(evidence))
            if evidence[first] > best:
                best = float(evidence[first])
                span = (first, self.nights if length == 0 else first + length)
        return best, span

    def _evidence(self, z: _Float, *, floor: float = 1.0, handicap: float = 0.0) -> _Float:
        """Return the pooled evidence (n,) of offsets with scores z (s, n); 0 where none passes `floor` thresholds.

        `handicap` is taken off z²: an excursion asserts two dates where a step asserts one.
        """
        least = 0.5 * self.threshold**2
        square = np.square(z)
        strongest = square.max(axis=0)
        pooled = np.maximum(square - least, 0.0).sum(axis=0)
        if self.together:
            joint = np.maximum(self._joint(z), 0.0)
            strongest = np.maximum(strongest, joint**2)
            pooled += np.maximum(joint**2 - least, 0.0)
        pooled = np.maximum(pooled - handicap, 0.0)
        return np.where(strongest > (floor * self.threshold) ** 2 + handicap, pooled, 0.0)

    def _joint(self, z: _Float) -> _Float:
        """Return the Gaussian equivalent (n,) of the sum of squares over the series.

        The sum is a scaled chi-square with `freedom` degrees; Wilson & Hilferty (1931, PNAS 17, 684) make it Gaussian.
        """
        count = len(self.values)
        third = np.cbrt(np.square(z).sum(axis=0) / count)
        spread = 2.0 / (9.0 * self.freedom)
        return np.asarray((third - (1.0 - spread)) / np.sqrt(spread))

    def _colour(self, scan: Scan) -> _Float:
        """Return per series by how much means of a week or two scatter more than noise and drift allow, 1 at least.

        The margins are the scatter of this measure itself; short series keep 1.
        """
        colour = np.ones(len(self.values))
        if self.nights < _COLOUR_NIGHTS:
            return colour
        for length, margin in _COLOUR:
            spans = [(first, first + length) for first in range(1, self.nights - length)]
            width = 1.4826 * np.median(np.abs(scan.span_scores(spans)), axis=1)
            if len(self.values) >= _MANY:
                width = np.maximum(width, np.median(width))
            colour = np.maximum(colour, width / margin)
        return colour

    def refined(self, spans: list[_Span]) -> list[_Span]:
        """Move the ends of each offset to where the evidence is highest, the others held."""
        for _ in range(2):
            for place, span in enumerate(spans):
                scan = self.without(spans[:place] + spans[place + 1 :])
                near = [other for other in self._near(span) if other not in spans or other == span]
                evidence = self._evidence(scan.span_scores(near), floor=0.0)
                spans[place] = near[int(np.argmax(evidence))]
        return spans

    def _near(self, span: _Span) -> list[_Span]:
        """Return the spans whose ends differ from these by few nights, of the same sort (step, excursion, jump)."""
        first, end = span
        if end - first <= _JUMP_NIGHTS and end - first < self.nights - first + (end - first == 1):
            return [span]
        firsts = range(max(first - _REFINE, 2), min(first + _REFINE, self.nights - 2) + 1)
        if end == self.nights:
            return [(begin, end) for begin in firsts]
        ends = range(max(end - _REFINE, 2), min(end + _REFINE, self.nights - 2) + 1)
        return [(begin, stop) for begin in firsts for stop in ends if stop - begin > _JUMP_NIGHTS] or [span]

    def kept(self, spans: list[_Span]) -> list[_Span]:
        """Leave out, weakest first, what is not significant beside the others."""
        while spans:
            colour = self._colour(self.without(spans))
            strengths = []
            for place, span in enumerate(spans):
                scan = self.without(spans[:place] + spans[place + 1 :])
                strengths.append(self._strength(scan, span, colour))
            weakest = int(np.argmin(strengths))
            if strengths[weakest] > self.threshold:
                break
            spans = spans[:weakest] + spans[weakest + 1 :]
        return sorted(spans)

    def _strength(self, scan: Scan, span: _Span, colour: _Float) -> float:
        z = scan.span_scores([span])
        strength = float(np.abs(z[:, 0] / colour).max())
        strength = max(strength, float(self._joint(z)[0])) if self.together else strength
        long = span[1] < self.nights and span[1] - span[0] > _JUMP_NIGHTS
        return float(np.sqrt(max(strength**2 - (_TWO_DATES if long else 0.0), 0.0)))

    def told(self, spans: list[_Span], rows: NDArray[np.intp]) -> tuple[tuple[Change, ...], tuple[Jump, ...]]:
        """Return what the offsets mean: steps and both ends of long excursions are changes, short ones jump days.

        `rows` are the numbers of this search's series in the family.
        """
        changes: dict[int, Change] = {}
        jumps: dict[int, Jump] = {}
        for place, span in enumerate(spans):
            others = spans[:place] + spans[place + 1 :]
            evidence = self._told_evidence(others, span, rows)
            first, end = span
            if end - first <= _JUMP_NIGHTS and (end < self.nights or end - first == 1):
                jumps.update({night: Jump(night, evidence) for night in range(first, end)})
                continue
            for edge in {first, end} - {self.nights}:
                back = tuple(Evidence(e.series, -e.size, e.error, -e.z) for e in evidence)
                change = Change(edge, *self._dates(others, span, edge), evidence if edge == first else back)
                if edge not in changes or abs(changes[edge].evidence[0].z) < abs(change.evidence[0].z):
                    changes[edge] = change
        return tuple(changes[edge] for edge in sorted(changes)), tuple(jumps[night] for night in sorted(jumps))

    def _told_evidence(self, others: list[_Span], span: _Span, rows: NDArray[np.intp]) -> tuple[Evidence, ...]:
        """Return the significant series of an offset, strongest first, or the strongest one."""
        scan = self.without(others)
        column = offsets([span], self.nights)
        square = float(column[:, 0] @ scan.matrix @ column[:, 0])
        z = scan.span_scores([span])[:, 0]
        error = self.noise / np.sqrt(max(square, 1e-12))
        order = np.argsort(-np.abs(z), kind="stable")
        named = [int(s) for s in order if abs(z[s]) > self.threshold] or [int(order[0])]
        told = [Evidence(int(rows[s]), float(z[s] * error[s]), float(error[s]), float(z[s])) for s in named]
        if self.together:
            joint = float(self._joint(z[:, None])[0])
            if joint > self.threshold:
                size, width = np.sqrt(np.mean(np.square(z * error))), np.sqrt(np.mean(np.square(error)))
                told.append(Evidence(-1, float(size), float(width), joint))
        return tuple(sorted(told, key=lambda e: -abs(e.z)))

    def _dates(self, others: list[_Span], span: _Span, edge: int) -> tuple[int, int]:
        """Return the earliest and the latest night at which this edge may be."""
        first, end = span
        dates = list(range(max(edge - 30, 1), min(edge + 30, self.nights - 1) + 1))
        moved = [(date, end) if edge == first else (first, date) for date in dates]
        usable = [(date, other) for date, other in zip(dates, moved, strict=True) if other[1] > other[0]]
        z = self.without(others).span_scores([other for _, other in usable])
        evidence = self._evidence(z, floor=0.0)
        at = evidence[[date for date, _ in usable].index(edge)]
        good = [date for (date, _), value in zip(usable, evidence, strict=True) if value > at - _DATE_EVIDENCE]
        return min(good), max(good)
