"""Sources against truth, on rows made by hand where every count is known."""

from __future__ import annotations

import numpy as np
import pytest

import schemas
from workers.quality.evaluation import MARGIN, MATCH_RADIUS, Matched, evaluate, match_truth

SHAPE = (300, 400)
TRUTH = np.dtype(
    [(name, "f8") for name in ("x", "y", "snr", "fluxChange", "fluxErr", "templateFlux", "neighbourDistance")]
    + [("nearSaturated", "?"), ("onDefect", "?"), ("kind", "U10")]
)


def truth(*rows: dict) -> np.ndarray:
    table = np.zeros(len(rows), TRUTH)
    for record, row in zip(table, rows, strict=True):
        base = {"kind": "transient", "snr": 10.0, "neighbourDistance": 99.0, "fluxErr": 100.0}
        for name, value in {**base, **row}.items():
            record[name] = value
        record["fluxChange"] = record["snr"] * record["fluxErr"]
    return table


def sources(*places: tuple[float, float], flux: float = 1000.0, snr: float = 10.0) -> np.ndarray:
    rows = np.zeros(len(places), schemas.table_dtype("alert", "diaSource"))
    for row, (x, y) in zip(rows, places, strict=True):
        row["x"], row["y"], row["psfFlux"], row["psfFluxErr"], row["snr"] = x, y, flux, 100.0, snr
    return rows


def matched(true: np.ndarray, found: np.ndarray, alerted: list[bool] | None = None) -> Matched:
    told = np.ones(len(found), bool) if alerted is None else np.array(alerted, bool)
    return match_truth(true, SHAPE, found, told)


def test_matches_are_nearest_and_one_to_one() -> None:
    true = truth({"x": 100, "y": 100}, {"x": 103, "y": 100}, {"x": 200, "y": 50})
    found = sources((101.2, 100), (102.9, 100), (200, 50 + MATCH_RADIUS + 0.1))
    assert matched(true, found).link.tolist() == [0, 1, -1]


def test_who_loses_the_nearest_takes_the_next() -> None:
    true = truth({"x": 100, "y": 100}, {"x": 101, "y": 100})
    found = sources((100.4, 100), (102.5, 100))  # the second is nearer to the first source, 0.6 against 1.5
    assert matched(true, found).link.tolist() == [0, 1]


def test_a_faint_change_makes_a_source_real_an_invisible_one_does_not() -> None:
    true = truth({"x": 100, "y": 100, "snr": -3.0}, {"x": 200, "y": 100, "snr": 0.5})
    found = sources((100, 101), (200, 100), (300, 200))
    assert matched(true, found).real.tolist() == [True, False, False]


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_match(count: int) -> None:
    found = sources(*[(50.0, 60.0 + i) for i in range(count)])
    one = matched(truth(), found)
    assert (len(one.link), one.real.tolist()) == (0, [False] * count)
    assert matched(truth({"x": 1, "y": 1}), sources()).link.tolist() == [-1]
    invisible = matched(truth({"x": 50, "y": 60, "snr": 0.0}), found)
    assert not invisible.real.any()


def test_what_could_not_be_found_is_not_asked_for() -> None:
    true = truth(
        {"x": 100, "y": 100},
        {"x": 150, "y": 100, "nearSaturated": True},
        {"x": 200, "y": 100, "onDefect": True},
        {"x": 250, "y": 100, "neighbourDistance": 5.0},
        {"x": MARGIN - 1, "y": 100},
        {"x": 100, "y": SHAPE[0] - MARGIN + 1},
        {"x": 300, "y": 100, "kind": "variable"},
    )
    result = evaluate([matched(true, sources())])
    assert (result.above8, result.completeness8) == (1, 0.0)
    assert [sum(part.true for part in result.bins[kind]) for kind in ("transient", "asteroid", "variable")] == [1, 0, 1]


def test_counts_by_bin_and_over_exposures() -> None:
    first = matched(
        truth({"x": 100, "y": 100, "snr": 9.0}, {"x": 200, "y": 100, "snr": -30.0}, {"x": 300, "y": 100, "snr": 5.5}),
        sources((100, 100), (200, 100), (50, 200)),
        [False, True, True],
    )
    second = matched(truth({"x": 100, "y": 100, "snr": 60.0}), sources((100.5, 100), snr=70.0))
    result = evaluate([first, second])
    rows = {part.low: part for part in result.bins["transient"]}
    assert {low: (part.true, part.detected, part.alerted) for low, part in rows.items()} == {
        5.0: (1, 0, 0), 6.0: (0, 0, 0), 8.0: (1, 1, 0), 12.0: (0, 0, 0), 20.0: (1, 1, 1), 50.0: (1, 1, 1),
    }  # fmt: skip
    assert (rows[8.0].alerts, rows[8.0].pure) == (2, 1)  # both alerts of the first, by their measured S/N of 10
    assert rows[50.0].purity == 1.0
    assert np.isnan(rows[6.0].completeness)
    assert (result.above8, result.completeness8, result.alerted8) == (3, 1.0, pytest.approx(2 / 3))
    assert result.purity == pytest.approx(2 / 3)


def test_positions_and_pulls() -> None:
    rng = np.random.default_rng(3)
    true = truth(*[{"x": 30.0 + 15 * (i % 20), "y": 30.0 + 15 * (i // 20)} for i in range(300)])
    found = sources(*np.stack([true["x"], true["y"]], axis=1) + rng.normal(0, 0.1, (300, 2)))
    found["psfFlux"] = true["fluxChange"] + 100.0 * rng.normal(0.2, 1.1, 300)
    result = evaluate([matched(true, found)])
    assert result.positionRms == pytest.approx(0.1, rel=0.1)
    assert result.pullMean == pytest.approx(0.2, abs=0.2)
    assert result.pullWidth == pytest.approx(1.1, abs=0.15)


def test_pulls_leave_out_what_the_template_holds() -> None:
    true = truth({"x": 100, "y": 100}, {"x": 200, "y": 100, "templateFlux": 80.0})
    found = sources((100, 100), (200, 100))
    assert evaluate([matched(true, found)]).nPulls == 1
    found["psfFlux_flag"][0] = True
    result = evaluate([matched(true, found)])
    assert result.nPulls == 0
    assert np.isnan(result.pullMean)
    assert np.isnan(result.pullWidth)
