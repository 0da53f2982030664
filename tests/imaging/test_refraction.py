"""Refraction and its colours: beside SOFA's, beside Ciddor's air, beside sums over wavelength."""

import erfa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from workers.imaging.refraction import (
    ARCSEC,
    BANDS,
    Air,
    Band,
    ColorRefraction,
    band_refractivity,
    blackbody_color,
    chromatic_shift,
    effective_wavelength,
    known_band,
    lever,
    lever_vectors,
    mean_vector,
    refraction,
    refraction_vector,
    refractivity,
)

SITE = {"longitude": -70.74, "latitude": -30.24, "height": 2663.0}
AIR = Air.at_height(2663.0)
TEMPERATURES = np.array([2500.0, 4000.0, 6000.0, 9000.0, 15000.0])


@pytest.mark.parametrize("height", [0.0, 2663.0, 4200.0])
@pytest.mark.parametrize("zenith", [10.0, 45.0, 65.0, 75.0])
def test_refraction_is_that_of_sofa(height, zenith):
    air = Air.at_height(height)
    for wavelength in (370.0, 500.0, 900.0):
        a, b = erfa.refco(air.pressure, air.temperature, air.humidity, wavelength / 1000.0)
        tangent = np.tan(np.radians(zenith))
        assert refraction(wavelength, zenith, air) == pytest.approx(ARCSEC * (a * tangent + b * tangent**3), rel=1.5e-3)


def test_the_difference_between_wavelengths_is_that_of_sofa():
    for zenith in (20.0, 50.0, 65.0):
        tangent = np.tan(np.radians(zenith))
        (a, b), (c, d) = (erfa.refco(AIR.pressure, AIR.temperature, AIR.humidity, wave) for wave in (0.4, 0.8))
        expected = ARCSEC * ((a - c) * tangent + (b - d) * tangent**3)
        assert chromatic_shift(400.0, 800.0, zenith, AIR) == pytest.approx(expected, rel=0.01)


def test_the_air_is_ciddors():
    wavelength = np.linspace(320.0, 1050.0, 50)
    wave2 = np.square(1000.0 / wavelength)
    ciddor = 1e-8 * (5792105.0 / (238.0185 - wave2) + 167917.0 / (57.362 - wave2))  # 1996, equation 1: dry, 15 C
    ours = refractivity(wavelength, Air(1013.25, 15.0, 0.0))
    np.testing.assert_allclose(ours, ciddor, atol=2e-8)
    np.testing.assert_allclose(np.diff(ours), np.diff(ciddor), rtol=3e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(330, 400, 1.04), (410, 550, 0.88), (550, 690, 0.39), (690, 820, 0.20), (820, 920, 0.10)],
)
def test_the_spread_over_a_band_at_50_degrees_and_600_mmhg(low, high, expected):
    air = Air(600.0 * 1.33322, 7.0, 1.0)  # Filippenko's 8 mmHg of vapour
    assert chromatic_shift(low, high, 50.0, air) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("zenith", [0.0, 30.0, 60.0, 75.0])
def test_the_lever_is_the_derivative_of_refraction(zenith):
    step = 1e-3
    thicker = Air(AIR.pressure * (1.0 + step), AIR.temperature, AIR.humidity)
    true = zenith + float(refraction(500.0, zenith, AIR)) / 3600.0
    change = refraction(500.0, zenith, thicker) - refraction(500.0, zenith, AIR)
    index = refractivity(500.0, thicker) - refractivity(500.0, AIR)
    assert ARCSEC * lever(true, AIR) * index == pytest.approx(change, rel=2e-3, abs=1e-12)


def test_nobody_observes_the_horizon():
    assert np.isnan(lever(np.array([86.0, 90.0, 120.0]), AIR)).all()


def test_a_blackbodys_numbers_are_sums_over_its_photons():
    for name in ("u", "g", "BP"):
        band = BANDS[name]
        edges = np.linspace(band.low, band.high, 20001)
        wave = 0.5 * (edges[1:] + edges[:-1])
        for temperature in TEMPERATURES:
            photons = wave**-4.0 / np.expm1(1.438776877e7 / (wave * temperature))
            share = photons / photons.sum()
            assert effective_wavelength(temperature, band) == pytest.approx(share @ wave, rel=1e-5)
            assert band_refractivity(temperature, band, AIR) == pytest.approx(share @ refractivity(wave, AIR), rel=1e-6)


def test_a_hotter_star_is_bluer_down_to_the_rayleigh_jeans_color():
    color = blackbody_color(TEMPERATURES, BANDS["g"], BANDS["r"])
    assert (np.diff(color) < 0.0).all()
    # Rayleigh-Jeans: photons per nm go as wavelength^-3
    blue, red = (
        (band.low**-2 - band.high**-2) / (2.0 * np.log(band.high / band.low)) for band in (BANDS["g"], BANDS["r"])
    )
    assert blackbody_color(1e8, BANDS["g"], BANDS["r"]) == pytest.approx(-2.5 * np.log10(blue / red), abs=1e-3)


@given(st.sampled_from(["u", "g", "r"]), st.floats(1800.0, 40000.0), st.floats(3000.0, 9000.0))
@settings(max_examples=40, deadline=None)
def test_what_a_color_adds_is_what_its_temperature_adds(name, temperature, pivot):
    response = ColorRefraction(BANDS[name], BANDS["g"], BANDS["r"], AIR)
    colors = blackbody_color(np.array([temperature, pivot]), response.blue, response.red)
    expected = np.diff(band_refractivity(np.array([pivot, temperature]), response.band, AIR))[0]
    assert response.excess(colors[0], colors[1]) == pytest.approx(expected, abs=3e-11)


def test_a_bluer_star_stands_nearer_to_the_zenith_and_most_in_blue_bands():
    slopes = [ColorRefraction(BANDS[b], BANDS["g"], BANDS["r"], AIR).slope(0.6, 50.0) for b in "ugriz"]
    assert (np.array(slopes) < 0.0).all()
    assert (np.diff(np.abs(slopes)) < 0.0).all()
    assert 0.05 < -slopes[0] < 0.2  # arcsec per magnitude
    response = ColorRefraction(BANDS["u"], BANDS["g"], BANDS["r"], AIR)
    assert np.isnan(response.excess(np.array([np.nan]), 0.6)).all()


def test_a_direction_has_a_vector_towards_the_zenith():
    ra, dec, time = 120.0, 10.0, 60050.1
    vector = refraction_vector(ra, dec, time, AIR, **SITE)
    # the zenith is the direction in which refraction vanishes: a step along the vector makes it shorter
    step = 0.5 * vector / np.hypot(*vector)
    nearer = refraction_vector(ra + step[0] / np.cos(np.radians(dec)), dec + step[1], time, AIR, **SITE)
    assert np.hypot(*nearer) < np.hypot(*vector)
    np.testing.assert_allclose(
        lever_vectors(40.0, [0.0, 90.0, 180.0], AIR), lever(40.0, AIR) * np.array([[0, 1], [1, 0], [0, -1]]), atol=1e-12
    )


def test_the_mean_of_inputs_is_weighted_and_unknown_where_one_is():
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [np.nan, np.nan]])
    np.testing.assert_allclose(mean_vector(vectors, [3.0, 1.0, 0.0]), [0.75, 0.5])
    assert np.isnan(mean_vector(vectors, [3.0, 1.0, 1.0])).all()
    assert np.isnan(mean_vector(vectors, [0.0, 0.0, 0.0])).all()


def test_bands_have_a_range_and_a_cameras_own_goes_first():
    assert known_band("g") == BANDS["g"]
    assert known_band("g", {"g": Band(480.0, 550.0)}) == Band(480.0, 550.0)
    assert known_band("Halpha") is None
    with pytest.raises(ConfigurationError, match="wavelength_nm"):
        Band(0.4, 0.55)
