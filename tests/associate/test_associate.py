"""Association: one-to-one, whatever the order; summaries against plain numpy; as of the visit, also when it is late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import RowGroups
from workers.associate.limits import inside, non_detections
from workers.associate.match import match, offsets
from workers.associate.objects import band_summaries, summarise
from workers.associate.pipeline import associate
from workers.database import OBJECT_DTYPE
from workers.database.conformance import make_exposure, make_object, make_sources

ARCSEC = 1.0 / 3600.0
NOW = (61100.0, 7)
"""When the night's sources were seen: (midpointMjdTai, visit)."""


def field(random, count, ra, dec, spread):
    return (ra + random.uniform(-spread, spread, count) / np.cos(np.radians(dec))) % 360.0, dec + random.uniform(
        -spread, spread, count
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), centre=st.sampled_from([(10.0, 0.0), (0.0, 45.0), (180.0, 89.99), (0.0, -60.0)]))
def test_matching_is_one_to_one_and_blind_to_order(seed, centre):
    random = np.random.default_rng(seed)
    sources = field(random, 40, *centre, 8 * ARCSEC)
    objects = field(random, 30, *centre, 8 * ARCSEC)
    source_error, object_error = random.uniform(0, 0.3, (40, 2)), random.uniform(0, 0.3, (30, 2))
    found = match(sources, source_error, objects, object_error, 1.0)
    used = found[found >= 0]
    assert len(set(used.tolist())) == len(used)
    p, q = random.permutation(40), random.permutation(30)
    again = match(tuple(a[p] for a in sources), source_error[p], tuple(a[q] for a in objects), object_error[q], 1.0)
    assert np.array_equal(np.where(again >= 0, q[again], -1), found[p])
    x, y = offsets(sources[0][found >= 0], sources[1][found >= 0], objects[0][used], objects[1][used])
    assert np.all(np.hypot(x, y) <= 1.0 + 1e-6)


def test_as_many_pairs_as_possible_then_the_nearest():
    sources = np.array([10.0, 10.0]), np.array([0.0, 0.9 * ARCSEC])
    objects = np.array([10.0, 10.0]), np.array([0.8 * ARCSEC, 1.7 * ARCSEC])
    zero = np.zeros((2, 2))
    assert match(sources, zero, objects, zero, 1.0).tolist() == [0, 1]
    assert match(sources, zero, (objects[0][:1], objects[1][:1]), zero[:1], 1.0).tolist() == [-1, 0]


def test_offsets_carry_cos_dec():
    x, y = offsets(np.array([10.0 + ARCSEC]), np.array([60.0]), np.array([10.0]), np.array([60.0]))
    assert x[0] == pytest.approx(0.5, abs=1e-6)
    assert y[0] == pytest.approx(0.0, abs=1e-5)


def test_errors_decide_between_two_candidates():
    source = np.array([10.0]), np.array([0.0])
    objects = np.array([10.0, 10.0]), np.array([0.5 * ARCSEC, -0.6 * ARCSEC])
    error = np.array([[0.05, 0.05], [2.0, 2.0]])
    assert match(source, np.zeros((1, 2)), objects, error, 1.0).tolist() == [1]


def test_summary_is_the_weighted_mean():
    random = np.random.default_rng(1)
    rows = make_sources(3, [61000.0 + i for i in range(50)], ra=359.99999, dec=70.0)
    sigma = random.uniform(0.05, 0.4, 50)
    rows["ra"] = (rows["ra"] + random.normal(0, sigma) * ARCSEC / np.cos(np.radians(70.0))) % 360.0
    rows["dec"] += random.normal(0, sigma) * ARCSEC
    rows["raErr"] = rows["decErr"] = sigma * ARCSEC
    row = summarise(np.array([3]), RowGroups(rows, np.array([50])))
    weight = 1.0 / (sigma**2 + 0.05**2)
    expected = 70.0 + np.average(rows["dec"] - 70.0, weights=weight)
    assert row["dec"][0] == pytest.approx(expected, abs=1e-9)
    assert min(row["ra"][0], 360.0 - row["ra"][0]) < 0.5 * ARCSEC / np.cos(np.radians(70.0))
    assert row["decErr"][0] == pytest.approx(weight.sum() ** -0.5 * ARCSEC, rel=1e-5)
    assert row["nDiaSources"][0] == 50
    assert row["validityStartMjdTai"][0] == 61049.0


def test_band_summaries_against_numpy():
    rows = make_sources(3, [1.0, 2.0, 4.0, 5.0])
    rows["band"] = ["g", "r", "r", "r"]
    rows["psfFlux"] = [5.0, 10.0, 40.0, 20.0]
    rows["psfFluxErr"] = [1.0, 1.0, 2.0, 4.0]
    bands = band_summaries(RowGroups(rows, np.array([4])))
    assert bands.counts.tolist() == [2]
    green, red = bands.rows
    assert green["psfFluxNdata"] == 1
    assert np.isnan([green["psfFluxSigma"], green["psfFluxMaxSlope"], green["fpFluxMean"]]).all()
    weight = np.array([1.0, 0.25, 0.0625])
    assert red["psfFluxMean"] == pytest.approx(np.average([10.0, 40.0, 20.0], weights=weight))
    assert red["psfFluxMeanErr"] == pytest.approx(weight.sum() ** -0.5)
    assert red["psfFluxSigma"] == pytest.approx(np.std([10.0, 40.0, 20.0], ddof=1))
    assert red["psfFluxMaxSlope"] == pytest.approx(15.0)
    assert (red["psfFluxMin"], red["psfFluxMax"]) == (10.0, 40.0)


def test_limits_name_the_exposures_that_saw_nothing():
    exposures = np.concatenate([make_exposure(visit, 61000.0 + visit) for visit in (1, 2, 3)])
    far = make_exposure(4, 61004.0, ra=12.0)
    seen = make_sources(1, [61000.0])
    seen["visit"] = 2
    everything = np.concatenate([exposures, far])
    found = non_detections(
        np.array([10.0, 12.0]), np.array([-5.0, -5.0]), everything, RowGroups(seen, np.array([1, 0]))
    )
    assert found.counts.tolist() == [2, 1]
    assert everything["visit"][found.rows].tolist() == [1, 3, 4]


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.95, 40.0), (77.0, -80.0)])
def test_inside_a_footprint(ra, dec):
    exposures = make_exposure(1, 0.0, ra=ra, dec=dec)
    mirrored = exposures.copy()
    mirrored["cornersRa"], mirrored["cornersDec"] = exposures["cornersRa"][:, ::-1], exposures["cornersDec"][:, ::-1]
    there = np.array([ra, (ra + 0.101) % 360.0, (ra + 180.0) % 360.0]), np.array([dec, dec, -dec])
    found = inside(*there, np.concatenate([exposures, mirrored]))
    assert found.tolist() == [[True, True], [False, False], [False, False]]
    assert inside(*there, exposures[:0]).shape == (3, 0)


def night_sources(count=6):
    rows = np.concatenate([make_sources(0, [61100.0], ra=10.0 + i * 0.01) for i in range(count)])
    rows["diaSourceId"] = 1000 + np.arange(count)
    rows["visit"] = 7
    return rows


def test_new_objects_take_the_id_of_their_first_source_and_weak_sources_begin_none():
    sources = night_sources()
    sources["reliability"][2] = 0.1
    sources["pixelFlags_saturatedCenter"][3] = True
    none = make_object(1)[:0]
    result = associate(
        sources, none, sources[:0], make_exposure(1, 0.0)[:0], before=NOW, radius=1.0, min_reliability=0.5
    )
    assert result.sources["diaObjectId"].tolist() == [1000, 1001, 0, 0, 1004, 1005]
    assert result.alerts.index.tolist() == [0, 1, 4, 5]
    assert result.alerts.new.all()
    assert sources["diaObjectId"].tolist() == [0] * 6, "the input was changed"


def test_an_object_seen_before_keeps_its_history_and_a_weak_source_does_not_take_it_away():
    sources = night_sources(2)
    sources["ra"] = 10.0 + np.array([0.3, 0.1]) * ARCSEC
    sources["reliability"] = [0.9, 0.1]
    known = make_object(55)
    history = make_sources(55, [60500.0, 61000.0])
    result = associate(
        sources, known, history, make_exposure(3, 61050.0), before=NOW, radius=1.0, min_reliability=0.5, since=60735.0
    )
    assert result.sources["diaObjectId"].tolist() == [55, 0]
    alerts = result.alerts
    assert alerts.new.tolist() == [False]
    assert alerts.previous.rows["midpointMjdTai"].tolist() == [61000.0]
    assert alerts.objects["nDiaSources"].tolist() == [3]
    assert alerts.exposures["visit"][alerts.limits.rows].tolist() == [3]
    assert alerts.exposures["psfLimit"].tolist() == [200.0]


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)))
def test_association_does_not_depend_on_the_order_of_rows(order):
    sources = night_sources()
    known = np.concatenate([make_object(55 + i, ra=10.0 + i * 0.01) for i in (0, 1, 4)])
    history = np.concatenate([make_sources(55 + i, [61000.0], ra=10.0 + i * 0.01) for i in (0, 1, 4)])
    exposures = make_exposure(3, 61050.0)
    reference = associate(sources, known, history, exposures, before=NOW, radius=1.0, min_reliability=0.5)
    shuffled = associate(
        sources[list(order)], known[::-1], history[::-1], exposures, before=NOW, radius=1.0, min_reliability=0.5
    )
    one = np.sort(reference.sources, order="diaSourceId")
    two = np.sort(shuffled.sources, order="diaSourceId")
    assert one.tobytes() == two.tobytes()
    assert np.sort(reference.objects).tobytes() == np.sort(shuffled.objects).tobytes()


def test_nothing_gives_nothing():
    sources = night_sources()[:0]
    result = associate(
        sources,
        np.zeros(0, OBJECT_DTYPE),
        sources,
        make_exposure(1, 0.0)[:0],
        before=NOW,
        radius=1.0,
        min_reliability=0.5,
    )
    assert len(result.sources) == len(result.objects) == len(result.alerts) == 0


def test_the_wall_clock_is_not_in_the_rows():
    sources = night_sources(2)
    sources["timeProcessedMjdTai"] = [0.0, 61100.1]
    result = associate(
        sources, make_object(1)[:0], sources[:0], make_exposure(1, 0.0)[:0], before=NOW, radius=1.0, min_reliability=0.5
    )
    assert np.isnan(result.sources["timeProcessedMjdTai"]).all()
    assert np.isnan(result.alerts.sources["timeProcessedMjdTai"]).all()


class Sky:
    """A database of three tables, fed by associating exposures."""

    def __init__(self):
        self.objects, self.sources, self.exposures = (
            np.zeros(0, OBJECT_DTYPE),
            night_sources()[:0],
            make_exposure(1, 0.0)[:0],
        )

    def add(self, sources, exposure):
        """Associate one exposure with everything there is."""
        result = associate(
            sources,
            self.objects,
            self.sources,
            self.exposures,
            before=(float(exposure["midpointMjdTai"][0]), int(exposure["visit"][0])),
            radius=1.0,
            min_reliability=0.5,
        )
        old = self.objects[~np.isin(self.objects["diaObjectId"], result.objects["diaObjectId"])]
        self.objects = np.sort(np.concatenate([old, result.objects]), order="diaObjectId")
        self.sources = np.concatenate([self.sources, result.sources])
        self.exposures = np.sort(np.concatenate([self.exposures, exposure]), order="visit")
        return result.alerts


def visit_sources(visit, seed):
    """Five objects, ten arcsec apart, as seen in one visit: scattered by noise, one of them flagged."""
    random = np.random.default_rng([seed, visit])
    rows = np.concatenate([make_sources(0, [61000.0 + visit], ra=10.0 + k * 10 * ARCSEC) for k in range(5)])
    rows["ra"] += random.normal(0, 0.05, 5) * ARCSEC
    rows["dec"] += random.normal(0, 0.05, 5) * ARCSEC
    rows["raErr"] = rows["decErr"] = random.uniform(0.02, 0.2, 5) * ARCSEC
    rows["psfFlux"], rows["band"] = random.normal(1000, 50, 5), "gr"[visit % 2]
    rows["visit"], rows["diaSourceId"] = visit, visit * 1000 + np.arange(5)
    if visit > 1:
        rows["pixelFlags_saturatedCenter"][visit % 5] = True
        rows["reliability"][(visit + 1) % 5] = 0.1
    return rows


def packets(alerts):
    """What the alerts say, by source."""
    return [
        (row.tobytes(), source.tobytes(), bands.tobytes(), previous.tobytes(), alerts.exposures[limits].tobytes())
        for row, source, bands, previous, limits in zip(
            alerts.objects,
            alerts.sources,
            alerts.bands.split(),
            alerts.previous.split(),
            alerts.limits.split(),
            strict=True,
        )
    ]


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(2, 7)), seed=st.integers(0, 1000))
def test_late_exposures_give_the_same_objects_and_what_was_known_at_their_visit(order, seed):
    in_order, late = Sky(), Sky()
    for sky, visits in ((in_order, [1, *sorted(order)]), (late, [1, *order])):
        done = []
        for visit in visits:
            alerts = sky.add(visit_sources(visit, seed), make_exposure(visit, 61000.0 + visit))
            done.append(visit)
            earlier = sorted(number for number in done if number < visit)
            assert set(alerts.previous.rows["visit"].tolist()) <= set(earlier)
            assert alerts.exposures["visit"].tolist() == earlier
            assert alerts.objects["nDiaSources"].tolist() == (alerts.previous.counts + 1).tolist()
            assert (alerts.objects["validityStartMjdTai"] == 61000.0 + visit).all()
    assert in_order.objects.tobytes() == late.objects.tobytes()
    assert (in_order.objects["nDiaSources"] == 6).all()
    last = visit_sources(7, seed), make_exposure(7, 61007.0)
    before = [np.sort(sky.sources, order="diaSourceId").tobytes() for sky in (in_order, late)]
    assert before[0] == before[1]
    assert packets(in_order.add(*last)) == packets(late.add(*last))


def test_a_late_exposure_sees_only_what_came_before_it():
    sky, plain = Sky(), Sky()
    for visit in (1, 3, 4):
        sky.add(visit_sources(visit, 5), make_exposure(visit, 61000.0 + visit))
    plain.add(visit_sources(1, 5), make_exposure(1, 61001.0))
    second = visit_sources(2, 5), make_exposure(2, 61002.0)
    assert packets(sky.add(*second)) == packets(plain.add(*second))


def test_the_other_detectors_of_a_visit_count_for_the_object_but_are_not_shown():
    sky = Sky()
    sky.add(visit_sources(1, 0)[:1], make_exposure(1, 61001.0))
    for detector in (1, 0):
        rows, exposure = visit_sources(2, 0)[:1], make_exposure(2, 61002.0)
        rows["detector"] = exposure["detector"] = detector
        rows["diaSourceId"] += detector * 100
        alerts = sky.add(rows, exposure)
        assert alerts.objects["nDiaSources"].tolist() == [2]
        assert alerts.exposures["visit"].tolist() == [1]
    assert sky.objects["nDiaSources"].tolist() == [3]


def test_an_exposure_associated_again_replaces_its_sources():
    sky = Sky()
    for visit in (1, 2, 2):
        sky.add(visit_sources(visit, 0), make_exposure(visit, 61000.0 + visit))
    assert (sky.objects["nDiaSources"] == 2).all()
