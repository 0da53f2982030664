"""Association of all sources at once against the plain way, one object after another: the same to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import RowGroups, records_to_rows, table_dtype
from workers.associate.limits import inside, non_detections
from workers.associate.match import SIGMA_FLOOR, offsets
from workers.associate.objects import band_summaries, summarise
from workers.associate.pipeline import associate, worthy
from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE

ARCSEC = 1.0 / 3600.0
BAND = table_dtype("alert", "diaObjectBand")


def plain_summary(number, sources):
    row = np.zeros(1, OBJECT_DTYPE)
    ra0, dec0 = float(sources["ra"][0]), float(sources["dec"][0])
    dx, dy = offsets(sources["ra"], sources["dec"], ra0, dec0)
    floor = SIGMA_FLOOR / 3600.0
    weight_x = 1.0 / (np.nan_to_num(sources["raErr"].astype(float)) ** 2 + floor**2)
    weight_y = 1.0 / (np.nan_to_num(sources["decErr"].astype(float)) ** 2 + floor**2)
    xi, eta = (np.radians(np.average(d, weights=w) / 3600.0) for d, w in ((dx, weight_x), (dy, weight_y)))
    cos0, sin0 = np.cos(np.radians(dec0)), np.sin(np.radians(dec0))
    depth = cos0 - eta * sin0
    row["diaObjectId"], row["nDiaSources"] = number, len(sources)
    row["ra"] = (ra0 + np.degrees(np.arctan2(xi, depth))) % 360.0
    row["dec"] = np.degrees(np.arctan2(sin0 + eta * cos0, np.hypot(depth, xi)))
    row["raErr"], row["decErr"] = weight_x.sum() ** -0.5, weight_y.sum() ** -0.5
    row["firstDiaSourceMjdTai"] = sources["midpointMjdTai"].min()
    row["lastDiaSourceMjdTai"] = row["validityStartMjdTai"] = sources["midpointMjdTai"].max()
    return row


def plain_mean(rows, name):
    if len(rows) == 0:
        return {f"{name}Mean": None, f"{name}MeanErr": None}
    weight = rows[f"{name}Err"].astype(float) ** -2
    mean = float(np.average(rows[name].astype(float), weights=weight))
    return {f"{name}Mean": mean, f"{name}MeanErr": float(weight.sum() ** -0.5)}


def plain_bands(sources):
    found = []
    for band in sorted(set(sources["band"].tolist())):
        rows = sources[sources["band"] == band]
        rows = rows[np.isfinite(rows["psfFlux"]) & (rows["psfFluxErr"] > 0)]
        values, step = rows["psfFlux"].astype(float), np.diff(rows["midpointMjdTai"])
        slopes = np.diff(values)[step > 0] / step[step > 0]
        science = rows[np.isfinite(rows["scienceFlux"]) & (rows["scienceFluxErr"] > 0)]
        found.append(
            {
                "band": band,
                "psfFluxNdata": len(rows),
                **plain_mean(rows, "psfFlux"),
                **plain_mean(science, "scienceFlux"),
                "fpFluxMean": None,
                "fpFluxMeanErr": None,
                "psfFluxSigma": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "psfFluxMin": float(values.min()) if len(values) else None,
                "psfFluxMax": float(values.max()) if len(values) else None,
                "psfFluxMaxSlope": float(slopes.max()) if len(slopes) else None,
                "psfFluxErrMean": float(rows["psfFluxErr"].astype(float).mean()) if len(values) else None,
            }
        )
    return records_to_rows(found, BAND)


def plain_inside(ra, dec, exposures):
    """In the tangent plane of the position: on one side of all edges."""
    x, y = offsets(exposures["cornersRa"], exposures["cornersDec"], ra, dec)
    cross = x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y
    return np.all(cross > 0, axis=1) | np.all(cross < 0, axis=1)


def plain_limits(ra, dec, exposures, detected):
    seen = set(zip(detected["visit"].tolist(), detected["detector"].tolist(), strict=True))
    covered = np.flatnonzero(plain_inside(ra, dec, exposures))
    return [k for k in covered if (exposures["visit"][k], exposures["detector"][k]) not in seen]


def make_history(random, counts, *, ra=10.0, dec=-5.0):
    """Rows of objects 1 to n in a square of some arcsec, in order of time; some without flux, some times twice."""
    owner = np.repeat(np.arange(len(counts)), counts)
    rows = np.zeros(len(owner), table_dtype("alert", "diaSource"))
    rows["diaObjectId"], rows["diaSourceId"] = owner + 1, random.permutation(len(owner)) + 1
    for name, centre, step in (("ra", ra, np.cos(np.radians(dec))), ("dec", dec, 1.0)):
        rows[name] = centre + (owner * 5.0 + random.normal(0, 0.1, len(owner))) * ARCSEC / step
        rows[f"{name}Err"] = np.where(
            random.random(len(owner)) < 0.1, np.nan, random.uniform(0, 0.3, len(owner)) * ARCSEC
        )
    rows["ra"] %= 360.0
    rows["midpointMjdTai"] = 61000.0 + random.integers(0, 50, len(owner)) / 4
    rows["visit"], rows["detector"] = rows["midpointMjdTai"] * 4 - 243990, random.integers(0, 3, len(owner))
    for name in ("psfFlux", "scienceFlux"):
        rows[name] = np.where(random.random(len(owner)) < 0.1, np.nan, random.normal(0, 1e3, len(owner)))
        rows[f"{name}Err"] = np.where(random.random(len(owner)) < 0.1, 0.0, random.uniform(1, 90, len(owner)))
    rows["band"] = random.choice(["g", "VR", "r", ""], len(owner))
    return rows.take(np.lexsort((rows["diaSourceId"], rows["visit"], rows["midpointMjdTai"], owner)))


def make_exposures(random, count, *, ra=10.0, dec=-5.0):
    """Squares of a quarter of a degree round (ra, dec), turned either way round."""
    rows = np.zeros(count, EXPOSURE_DTYPE)
    rows["visit"], rows["detector"], rows["band"] = np.arange(count), random.integers(0, 3, count), "r"
    rows["midpointMjdTai"] = (rows["visit"] + 243990) / 4
    rows["psfLimit"] = np.where(random.random(count) < 0.1, np.nan, 200.0)
    shift = random.uniform(-0.12, 0.12, (2, count, 1))
    turn = random.choice([-1.0, 1.0], count)[:, None]
    rows["cornersDec"] = dec + shift[1] + 0.12 * np.array([-1, -1, 1, 1])
    rows["cornersRa"] = (ra + (shift[0] + 0.12 * turn * np.array([-1, 1, 1, -1])) / np.cos(np.radians(dec))) % 360.0
    return rows


SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
CENTRES = st.sampled_from([(10.0, -5.0), (0.0, 70.0), (359.9999, -89.0), (180.0, 0.0)])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, counts=COUNTS, centre=CENTRES)
def test_summaries_are_those_of_each_object_alone(seed, counts, centre):
    rows = make_history(np.random.default_rng(seed), counts, ra=centre[0], dec=centre[1])
    groups = RowGroups(rows, np.array(counts))
    numbers = np.arange(len(counts)) + 1
    plain = [plain_summary(number, group) for number, group in zip(numbers, groups.split(), strict=True)]
    assert summarise(numbers, groups).tobytes() == np.concatenate(plain).tobytes()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, counts=st.lists(st.integers(0, 200), max_size=8))
def test_band_summaries_are_those_of_each_object_alone(seed, counts):
    groups = RowGroups(make_history(np.random.default_rng(seed), counts), np.array(counts, np.int64))
    plain = [plain_bands(group) for group in groups.split()]
    found = band_summaries(groups)
    assert found.counts.tolist() == [len(part) for part in plain]
    for ours, theirs in zip(found.split(), plain, strict=True):
        assert ours.tobytes() == theirs.tobytes()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=st.integers(0, 100), centre=CENTRES)
def test_limits_are_those_of_each_position_alone(seed, count, centre):
    random = np.random.default_rng(seed)
    exposures = make_exposures(random, 40, ra=centre[0], dec=centre[1])
    ra = (centre[0] + random.uniform(-0.3, 0.3, count) / np.cos(np.radians(centre[1]))) % 360.0
    dec = np.clip(centre[1] + random.uniform(-0.3, 0.3, count), -90.0, 90.0)
    counts = random.integers(0, 4, count)
    detected = np.zeros(counts.sum(), [("visit", "i8"), ("detector", "i4")])
    detected["visit"], detected["detector"] = random.integers(0, 50, (2, len(detected))) // [[1], [17]]
    groups = RowGroups(detected, counts)
    for flags, *position in zip(inside(ra, dec, exposures), ra, dec, strict=True):
        assert flags.tolist() == plain_inside(*position, exposures).tolist()
    found = non_detections(ra, dec, exposures, groups)
    plain = [plain_limits(*place, exposures, rows) for *place, rows in zip(ra, dec, groups.split(), strict=True)]
    assert [part.tolist() for part in found.split()] == plain


def plain_association(sources, known, history, exposures, before, since):
    """What `associate` says of sources that are all near objects 1 to n, in their order."""
    rows, alerts = [], []
    exposures = exposures[np.isfinite(exposures["psfLimit"])]
    exposures = exposures[
        [(t, v) < before for t, v in zip(exposures["midpointMjdTai"], exposures["visit"], strict=True)]
    ]
    for source, good in zip(sources, worthy(sources, 0.5), strict=True):
        own = np.array([source], sources.dtype)
        past = history[history["diaObjectId"] == source["diaObjectId"]]
        everything = np.concatenate([past, own])
        everything = everything[np.argsort(everything, order=["midpointMjdTai", "visit", "diaSourceId"])]
        rows.append(plain_summary(source["diaObjectId"], everything))
        if good:
            times = zip(past["midpointMjdTai"], past["visit"], strict=True)
            past = past[np.array([pair < before for pair in times], bool)]
            view = plain_summary(source["diaObjectId"], np.concatenate([past, own]))
            recent = past[past["midpointMjdTai"] >= since]
            limits = plain_limits(view["ra"][0], view["dec"][0], exposures, recent)
            bands = plain_bands(np.concatenate([past, own]))
            alerts.append((view, bands, recent, exposures["visit"][limits].tolist()))
    return np.concatenate(rows), alerts


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, counts=COUNTS, before=st.sampled_from([61100.0, 61006.0, 60990.0]))
def test_association_is_that_of_each_source_alone(seed, counts, before):
    random = np.random.default_rng(seed)
    history, exposures = make_history(random, counts), make_exposures(random, 30)
    sources = make_history(random, [1] * len(counts))
    sources["diaSourceId"] += 10**6
    sources["midpointMjdTai"], sources["visit"], sources["timeProcessedMjdTai"] = before, 5, np.nan
    sources["reliability"] = random.choice([0.2, 0.9], len(sources))
    sources["centroid_flag"] = random.random(len(sources)) < 0.2
    known = np.zeros(len(counts), OBJECT_DTYPE)
    known["diaObjectId"] = np.arange(len(counts)) + 1
    known["ra"], known["dec"] = sources["ra"], sources["dec"]
    since = before - 10.0
    stored, alerts = plain_association(sources, known, history, exposures, (before, 5), since)
    unlinked = sources.copy()
    unlinked["diaObjectId"] = 0
    mixed = history[random.permutation(len(history))]
    result = associate(
        unlinked, known, mixed, exposures, before=(before, 5), radius=1.0, min_reliability=0.5, since=since
    )
    assert result.sources.tobytes() == sources.tobytes()
    assert result.objects.tobytes() == stored.tobytes()
    found = result.alerts
    assert len(found) == len(alerts)
    for k, (view, bands, recent, visits) in enumerate(alerts):
        assert found.objects[k : k + 1].tobytes() == view.tobytes()
        assert found.bands.split()[k].tobytes() == bands.tobytes()
        assert found.previous.split()[k].tobytes() == recent.tobytes()
        assert found.exposures["visit"][found.limits.split()[k]].tolist() == visits


def test_an_object_without_sources_has_no_bands_but_is_counted():
    found = band_summaries(RowGroups(make_history(np.random.default_rng(1), [0, 0]), np.zeros(2, np.int64)))
    assert found.counts.tolist() == [0, 0]
    assert len(found.rows) == 0


@pytest.mark.slow
def test_ten_thousand_alerts_of_one_exposure_take_seconds():
    import time

    random = np.random.default_rng(3)
    history = make_history(random, [30] * 10_000, dec=0.0)
    sources = make_history(random, [1] * 10_000, dec=0.0)
    sources["reliability"], sources["diaSourceId"] = 0.9, np.arange(10_000) + 10**6
    known = np.zeros(10_000, OBJECT_DTYPE)
    known["diaObjectId"], known["ra"], known["dec"] = np.arange(10_000) + 1, sources["ra"], sources["dec"]
    exposures = make_exposures(random, 300, dec=0.0)
    begin = time.process_time()
    result = associate(sources, known, history, exposures, before=(61100.0, 5), radius=1.0, min_reliability=0.5)
    assert len(result.alerts) == 10_000
    assert time.process_time() - begin < 10.0
