"""What goes wrong is said on stderr, in a sentence that names what to do, with the exit code of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import skydelta
from tests.system.nights import Prepared

THRESHOLD = "threshold = 5.0  # in sigma of the matched"
"""Of the detection: other steps have thresholds too."""


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A survey folder as `init` makes it."""
    assert skydelta("init", tmp_path / "survey").code == 0
    return tmp_path / "survey"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["init"],
        ["demo", "--no-such-option"],
        ["calibrate", "sharpness"],
        ["calibrate", "periods", "ptc"],
        ["ingest"],
        ["isr"],
        ["dead", "retry"],
        ["alerts", "show", "not-a-number"],
        ["replay", "20260228", "--into", "x.", "--speed", "fast"],
        ["replay", "20260228", "--into", "x.", "--speed", "-1"],
        ["reference", "from-frame", "absent.fits"],
    ],
    ids=" ".join,
)
def test_usage_is_2(arguments: list[str], survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(survey)
    done = skydelta(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ('name = "survey"', "nme = 1", ["survey.toml", "did you mean 'name'"]),
        (f"# {THRESHOLD}", THRESHOLD.replace("thr", "tr"), ["subtract.treshold", "did you mean 'threshold'"]),
        (f"# {THRESHOLD}", THRESHOLD.replace("5.0", "-4.0"), ["subtract.threshold", "greater than 0"]),
        ("pixel_scale = 1.0", "pixel_scale = 1.0\nbegin = 99999.0\nend = 60676.0", ["templates", "before"]),
        ("[bus]", "[bus", ["not valid TOML", "survey.toml"]),
        ('# camera = "camera.toml"', 'camera = "other.toml"', ["other.toml", "skydelta init"]),
        ('# kind = "embedded"', 'kind = "rabbit"', ["bus.kind", "'embedded' or 'kafka'"]),
        ('# kind = "embedded"', 'kind = "kafka"', ["bootstrap", "host:port"]),
    ],
)
def test_configuration_is_3(old: str, new: str, texts: list[str], survey: Path) -> None:
    path = survey / "survey.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = skydelta("status", "-s", survey)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("skydelta: ConfigurationError:")
    for part in texts:
        assert part in done.err


def test_no_survey_is_3_and_names_init(tmp_path: Path) -> None:
    done = skydelta("status", "-s", tmp_path)
    assert done.code == 3
    assert "skydelta init" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["run", "isr+score"], 3, "isr + subtract + score"),
        (["run", "isr"], 3, "skydelta reference from-frame"),
        (["run", "score"], 3, "skydelta calibrate classifier"),
        (["templates", "show"], 3, "skydelta templates build"),
        (["templates", "build"], 5, "skydelta isr"),
        (["calibrate", "defects"], 5, "skydelta calibrate dark"),
        (["calibrate", "classifier"], 5, "skydelta isr"),
        (["ingest", "absent.fits"], 5, "absent.fits"),
        (["alerts", "show", "17"], 5, "skydelta alerts tail"),
        (["object", "17"], 5, "skydelta alerts tail"),
        (["dead", "show", "3"], 5, "skydelta dead list"),
        (["replay", "20260228", "--into", "x."], 5, "ingest"),
        (["report", "20260228"], 5, "skydelta status"),
        (["calibrate", "bias"], 5, "no bias frames were named and"),
        (["calibrate", "bias", "--periods"], 5, "no bias frames were named and"),
        (["calibrate", "report"], 5, "make some with `skydelta calibrate`"),
        (["calibrate", "accept", "bias-0-all-0123456789ab"], 5, "can't be read"),
        (["init", "DIR", "--camera", "nikon"], 3, "generic-ccd"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_name_what_to_do_next(
    arguments: list[str], code: int, text: str, survey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(survey)
    done = skydelta(*arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert text in done.err
    assert "Traceback" not in done.err


def test_a_bad_file_is_5_and_a_dead_letter(tiny_survey: Prepared, tmp_path: Path) -> None:
    root = tiny_survey.copy(tmp_path / "survey")
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"not an image")
    done = skydelta("ingest", bad, root / tiny_survey.live[0], "-s", root)
    assert done.code == 5
    assert done.out == "1 announced, 1 dead letter\n"
    assert "not a FITS file" in done.err
    listed = skydelta("dead", "list", "-s", root)
    assert "not a FITS file, it starts with b'not an image'" in listed.out
    isr = skydelta("isr", bad, "-s", root)
    assert (isr.code, isr.out) == (5, "")
    assert "not a FITS file" in isr.err
    assert "1 of 1 exposures could not be calibrated" in isr.err


def test_an_unreachable_bus_is_4(survey: Path) -> None:
    (survey / "state" / "bus.sqlite").mkdir(parents=True)
    done = skydelta("status", "-s", survey)
    assert (done.code, done.out) == (4, "")
    assert "bus.sqlite" in done.err


def test_every_wrong_key_is_told_at_once(survey: Path) -> None:
    path = survey / "survey.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace(f"# {THRESHOLD}", THRESHOLD.replace("thr", "tr")).replace("# min_epochs = 3", "min_epochs = 0")
    path.write_text(text, encoding="utf-8")
    done = skydelta("check", "-s", survey)
    assert done.code == 3
    assert "2 wrong entries" in done.out
    assert "FAIL  configuration" in done.out


def test_brackets_in_causes_are_not_taken_for_markup(tmp_path: Path) -> None:
    root = tmp_path / "survey"
    skydelta("init", root, "--camera", "eso085-apogee")
    bad = tmp_path / "a[bold]b.fits"
    bad.write_bytes(b"no")
    skydelta("ingest", bad, "-s", root)
    assert "a[bold]b.fits" in skydelta("dead", "list", "-s", root).out
