"""Reading commands: data on stdout, messages on stderr, and JSON that says the same."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import fastavro
import pytest
from astropy.io import fits

from stream.blobs import BlobStore
from stream.bus import Outgoing
from tests.cli.command import skydelta
from tests.system.nights import alerts, messages, outcomes, packets_of
from workers.cli.sweep import named_blobs
from workers.connect import open_bus
from workers.imaging.tracts import CellId, Tessellation
from workers.survey.config import load_survey


@pytest.fixture(scope="module")
def expected(finished_night: Path) -> dict[int, dict]:
    return {packet["diaSourceId"]: packet for packet in packets_of(alerts(finished_night))}


@pytest.mark.parametrize(
    "words",
    ["status", "alerts tail --limit 1", "dead list", "templates show", "templates versions", "templates plan", "check"],
)
def test_json_parses(words: str, finished_night: Path) -> None:
    done = skydelta(*words.split(), "-s", finished_night, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json is not None


def test_templates_show_what_made_a_pixel(finished_night: Path) -> None:
    cells = skydelta("templates", "show", "-s", finished_night, "--json").json["cells"]
    grid = load_survey(finished_night).config.templates
    tessellation = Tessellation(grid.pixel_scale, grid.cell_size)
    wanted = max(cells, key=lambda cell: len(cell["inputs"]))
    ra, dec = tessellation.centre(CellId(wanted["tract"], wanted["cellX"], wanted["cellY"]))
    shown = skydelta("templates", "show", "-s", finished_night, "--json", "--", ra, dec).json["pixels"]
    (pixel,) = [one for one in shown if one["band"] == wanted["band"]]
    assert pixel["templateId"] == wanted["templateId"]
    assert [i["visit"] for i in pixel["inputs"]] == [i["visit"] for i in wanted["inputs"]]
    assert sum(i["share"] for i in pixel["inputs"]) == pytest.approx(1.0)
    assert wanted["templateId"] in skydelta("templates", "show", "-s", finished_night, "--", ra, dec).out
    assert skydelta("templates", "show", "-s", finished_night, "--", ra, -89.0).code != 0
    assert skydelta("templates", "show", "-s", finished_night, "--", 400.0, dec).code != 0


def test_template_versions_are_listed_and_the_current_one_is_not_removed(finished_night: Path) -> None:
    (version,) = skydelta("templates", "versions", "-s", finished_night, "--json").json["versions"]
    assert version["current"]
    assert version["cells"] > 0
    assert version["bytes"] > 10_000 * version["cells"]
    refused = skydelta("templates", "prune", version["version"], "-s", finished_night)
    assert refused.code != 0
    assert "is the current one" in refused.err
    assert skydelta("templates", "prune", "-s", finished_night).code != 0
    nothing = skydelta("templates", "prune", "--before", "2026-02-28", "--dry-run", "-s", finished_night, "--json")
    assert nothing.json == {"versions": [], "bytes": 0, "warps": 0, "removed": False}


def test_a_window_that_moves_is_that_of_the_day(finished_night: Path, tmp_path: Path) -> None:
    text = (finished_night / "survey.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("begin = ", "end = "))]
    (tmp_path / "survey.toml").write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(finished_night / "camera.toml", tmp_path)
    (tmp_path / "archive").symlink_to(finished_night / "archive")
    standing = skydelta("templates", "plan", "-s", finished_night, "--json").json
    moving = skydelta("templates", "plan", "-s", tmp_path, "--date", "2026-02-28", "--json").json
    assert moving["insideWindow"] == standing["insideWindow"] > 0
    assert len(moving["cells"]) == len(standing["cells"])
    assert skydelta("templates", "plan", "-s", tmp_path, "--date", "2029-02-28", "--json").json["insideWindow"] == 0
    refused = skydelta("templates", "plan", "-s", finished_night, "--date", "2026-02-28")
    assert refused.code != 0
    assert "stands still" in refused.err


def test_status(finished_night: Path, expected: dict[int, dict]) -> None:
    status = skydelta("status", "-s", finished_night, "--json").json
    ended = list(outcomes(finished_night).values())
    assert status["outcomes"] == {name: ended.count(name) for name in sorted(set(ended))}
    assert status["alerts"] == len(expected)
    assert status["lag"] == {"isr": 0, "associate": 0, "archive": 0}
    assert status["lastVisit"] == 202602280003
    assert [row[0] for row in status["seconds"]] == ["isr", "subtract", "score", "associate"]
    plain = skydelta("status", "-s", finished_night)
    assert (plain.code, plain.err) == (0, "")
    assert "202602280003" in plain.out


def test_alerts_tail(finished_night: Path, expected: dict[int, dict]) -> None:
    done = skydelta("alerts", "tail", "-s", finished_night)
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["alertId", "diaObjectId"]
    assert {int(line.split()[0]) for line in lines[1:]} == set(expected)
    assert len(skydelta("alerts", "tail", "-s", finished_night, "--limit", 2).out.splitlines()) == 3


def test_alerts_show(finished_night: Path, expected: dict[int, dict], tmp_path: Path) -> None:
    number, packet = next(iter(expected.items()))
    shown = skydelta("alerts", "show", number, "-s", finished_night, "--json").json
    assert shown["diaSource"]["psfFlux"] == packet["diaSource"]["psfFlux"]
    assert shown["cutoutScience"].startswith("<")
    done = skydelta("alerts", "show", number, "-s", finished_night, "-o", tmp_path / "cut")
    assert done.code == 0
    assert packet["template"]["templateId"] in done.out
    files = sorted((tmp_path / "cut").iterdir())
    assert [path.name.split("_")[1] for path in files] == [
        "cutoutDifference.fits", "cutoutScience.fits", "cutoutTemplate.fits",
    ]  # fmt: skip
    assert fits.getdata(files[0]).shape == (31, 31)


def test_alerts_save_is_a_plain_avro_file(finished_night: Path, expected: dict[int, dict], tmp_path: Path) -> None:
    path = tmp_path / "alerts.avro"
    done = skydelta("alerts", "save", path, "-s", finished_night)
    assert done.out == f"{path}: {len(expected)} alerts\n"
    found = list(fastavro.reader(io.BytesIO(path.read_bytes())))
    assert {packet["diaSourceId"]: repr(packet) for packet in found} == {n: repr(p) for n, p in expected.items()}
    again = tmp_path / "again.avro"
    skydelta("alerts", "save", again, "-s", finished_night)
    assert again.read_bytes() == path.read_bytes()
    skydelta("alerts", "save", again, "-s", finished_night, "--night", 20200101)
    assert list(fastavro.reader(io.BytesIO(again.read_bytes()))) == []


def test_object_by_its_id_and_by_a_source(finished_night: Path, expected: dict[int, dict]) -> None:
    packet = max(expected.values(), key=lambda one: len(one["prvDiaSources"] or ()))
    ids = packet["diaSource"]["diaObjectId"], packet["diaSourceId"]
    shown = [skydelta("object", number, "-s", finished_night, "--json").json for number in ids]
    assert shown[0] == shown[1]
    assert shown[0]["diaObject"]["diaObjectId"] == ids[0]
    sources = [source["diaSourceId"] for source in shown[0]["diaSources"]]
    assert ids[1] in sources
    assert len(sources) == len(packet["prvDiaSources"]) + 1
    assert str(ids[0]) in skydelta("object", ids[0], "-s", finished_night).out


def test_templates_show_their_inputs(finished_night: Path) -> None:
    shown = skydelta("templates", "show", "-s", finished_night, "--json").json
    for cell in shown["cells"]:
        assert len(cell["inputs"]) == cell["nEpochs"]
        assert all(60699.15 <= one["midpointMjdTai"] <= 60771.15 for one in cell["inputs"])
    table = skydelta("templates", "show", "-s", finished_night).out
    assert all(cell["templateId"] in table for cell in shown["cells"])


def test_report_is_a_page_with_truth(finished_night: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = skydelta("report", 20260228, "-s", finished_night, "-o", path)
    assert done.out == f"{path}\n"
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "Completeness: transients" in page
    assert page.count("data:image/png;base64,") > 10
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_clean_night_has_no_dead_letters(finished_night: Path) -> None:
    done = skydelta("dead", "list", "-s", finished_night)
    assert (done.code, done.out, done.err) == (0, "", "no dead letters\n")


def test_steps_on_files(finished_night: Path, expected: dict[int, dict], tmp_path: Path) -> None:
    """isr, subtract and score by hand find what the night's workers found."""
    raw = next((finished_night / "archive" / "raw" / "20260228").glob("*0001_r_d0.fits"))
    calexp, sources, scored = tmp_path / "calexp.fits", tmp_path / "sources.avro", tmp_path / "scored.avro"
    survey = ("-s", finished_night)
    assert skydelta("isr", raw, *survey, "-o", calexp).code == 0
    archived = finished_night / "archive" / "calexps" / "20260228" / "202602280001_000.fits"
    assert calexp.read_bytes() == archived.read_bytes()
    done = skydelta("subtract", calexp, *survey, "-o", sources, "--difference", tmp_path / "d.fits", "--json")
    assert done.json["outcome"] == "ok"
    told = skydelta("score", sources, *survey, "-o", scored, "--json").json
    (record,) = fastavro.reader(io.BytesIO(scored.read_bytes()))
    by_id = {source["diaSourceId"]: source for source in record["sources"]}
    assert [source["reliability"] for source in record["sources"]] == told["reliability"]
    mine = {number: one["diaSource"] for number, one in expected.items() if one["diaSource"]["visit"] == 202602280001}
    assert mine.keys() <= by_id.keys()
    for number, source in mine.items():
        for name in ("ra", "dec", "psfFlux", "snr", "reliability"):
            assert by_id[number][name] == source[name]
    assert fits.getval(tmp_path / "d.fits", "BUNIT") == "nJy"


def test_sweep_deletes_only_what_no_message_names(finished_night: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished_night, tmp_path / "survey"))
    store = root / "state" / "blobs"
    named = {name for _, record in messages(root, "calexps") for name in named_blobs(record)}
    for topic in ("exposures", "scored"):
        named |= {name for _, record in messages(root, topic) for name in named_blobs(record)}
    waiting, orphan = (BlobStore(store).put(data) for data in (b"named by a newer version", b"an orphan"))
    bus = open_bus(load_survey(root))
    bus.publish([Outgoing("calexps", b"1", b"\x00\x00\x99\x99\x99\x80\x01" + waiting.encode() + b"\x08", 0)])
    bus.close()
    counted = skydelta("sweep", "-s", root, "--older-than", 0)
    assert "--yes" in counted.out
    assert (store / orphan[:2] / orphan[2:4] / orphan).exists()
    done = skydelta("sweep", "-s", root, "--older-than", 0, "--yes")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in store.glob("??/??/*")} == named | {waiting}
