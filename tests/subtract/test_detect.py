import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from workers.subtract import detect
from workers.subtract.detect import local_maxima, one_per_region
from workers.subtract.dipole import pair_lobes
from workers.subtract.runs import find_runs

N = 25


def detect_peaks(score, threshold, psf, radius):
    return detect.detect_peaks(
        score, (find_runs(score, threshold), find_runs(score, threshold, -1.0)), threshold, psf, radius
    )


def gaussian(dx: float = 0.0, dy: float = 0.0, sigma: float = 1.5) -> np.ndarray:
    axis = np.arange(N) - N // 2
    return np.exp(-0.5 * np.add.outer((axis - dy) ** 2, (axis - dx) ** 2) / sigma**2)


def score_of(*sources: tuple[int, int, float], psf: np.ndarray) -> np.ndarray:
    """The noiseless score image of point sources of given S/N."""
    image = np.zeros((120, 120))
    for x, y, height in sources:
        image[y, x] = height
    response = signal.fftconvolve(psf, psf[::-1, ::-1]) / np.square(psf).sum()
    return signal.fftconvolve(image, response, "same").astype(np.float32)


def test_both_signs_strongest_first_with_footprints() -> None:
    peaks = detect_peaks(score_of((30, 40, 20.0), (80, 90, -40.0), (60, 60, 4.0), psf=gaussian()), 5.0, gaussian(), 3.5)
    assert peaks["x"].tolist() == [80, 30]
    assert np.sign(peaks["score"]).tolist() == [-1.0, 1.0]
    assert peaks["bboxSize"][0] > peaks["bboxSize"][1] > 2


def test_ringing_of_a_whitened_psf_is_not_a_source() -> None:
    psf = gaussian() - 0.35 * gaussian(sigma=2.6)
    score = score_of((60, 60, 150.0), psf=psf)
    assert score.min() < -5.0
    assert len(detect_peaks(score, 5.0, psf, 3.5)) == 1
    both = detect_peaks(score_of((60, 60, 150.0), (66, 60, -40.0), psf=psf), 5.0, psf, 3.5)
    assert np.abs(both["x"] - 60).max() >= 5  # a real neighbour of the other sign stays


def test_close_peaks_of_one_sign_merge_and_plateaus_count_once() -> None:
    score = np.zeros((50, 50), np.float32)
    score[20, 20:22] = 9.0
    score[20, 30], score[20, 32] = 8.0, 7.0
    assert local_maxima(score, find_runs(score, 5.0))[0].tolist() == [20, 30, 32]
    delta = np.zeros((5, 5))
    delta[2, 2] = 1.0
    assert detect_peaks(score, 5.0, delta, 3.5)["x"].tolist() == [20, 30]
    assert len(detect_peaks(np.zeros((50, 50), np.float32), 5.0, delta, 3.5)) == 0


def test_one_source_per_saturated_region() -> None:
    peaks = detect_peaks(score_of((30, 30, 30.0), (45, 30, 20.0), (80, 80, 10.0), psf=gaussian()), 5.0, gaussian(), 3.5)
    region = np.zeros((120, 120), bool)
    region[25:36, 25:50] = True
    kept = peaks[one_per_region(peaks, region)]
    assert kept["x"].tolist() == [30, 80]


def test_dipole_lobes_pair() -> None:
    score = score_of((40, 40, 30.0), (44, 40, -25.0), (90, 90, 12.0), psf=gaussian())
    peaks = detect_peaks(score, 5.0, gaussian(), 3.5)
    stronger, weaker = pair_lobes(peaks, 6.0)
    assert len(stronger) == 1
    assert peaks["score"][stronger[0]] > 0 > peaks["score"][weaker[0]]
    assert pair_lobes(peaks[:1], 6.0)[0].size == 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 0.9), st.sampled_from([1.0, -1.0])
)
def test_runs_are_the_connected_parts(seed: int, height: int, width: int, share: float, sign: float) -> None:
    rng = np.random.default_rng(seed)
    image = (sign * (rng.random((height, width)) < share)).astype(np.float32)
    labels, count = ndimage.label(sign * image > 0.5, structure=np.ones((3, 3), int))
    runs = find_runs(image, 0.5, sign)
    assert len(runs.boxes) == count
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    group = runs.group_at(x, y).reshape(image.shape)
    np.testing.assert_array_equal(group < 0, labels == 0)
    for first in range(count):
        members = labels[group == first]
        assert (members == members[0]).all()
        rows, columns = ndimage.find_objects(labels)[members[0] - 1]
        assert runs.boxes[first].tolist() == [rows.start, rows.stop - 1, columns.start, columns.stop - 1]
