"""The night on Apache Kafka: the same alerts as on the embedded bus, and the README's consumer reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.nights import (
    PIXELS,
    REPOSITORY,
    SEPARATE,
    Prepared,
    alerts,
    dead_letters,
    drain,
    environment,
    ingest,
    messages,
    outcomes,
    packets_of,
)

BROKER = os.environ.get("SKYDELTA_TEST_KAFKA", "")
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not BROKER, reason="no Kafka broker: set SKYDELTA_TEST_KAFKA (see docs/kafka.md)"),
]


@dataclass(frozen=True)
class KafkaNight:
    root: Path
    prefix: str


def _on_kafka(root: Path) -> KafkaNight:
    """Put a survey onto the broker, under a prefix of its own."""
    prefix = f"night-{uuid.uuid4().hex[:12]}."
    path = root / "survey.toml"
    text = path.read_text(encoding="utf-8")
    lines = f'[bus]\nkind = "kafka"\nbootstrap = "{BROKER}"\nprefix = "{prefix}"\n'
    path.write_text(text.replace("[bus]\n", lines), encoding="utf-8")
    return KafkaNight(root, prefix)


@pytest.fixture(scope="module")
def kafka_night(tiny_survey: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNight]:
    night = _on_kafka(tiny_survey.copy(tmp_path_factory.mktemp("kafka") / "survey"))
    ingest(night.root, tiny_survey.nights)
    drain(night.root)
    yield night
    _delete_topics(night.prefix)


def _delete_topics(prefix: str) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": BROKER})
    names = [name for name in admin.list_topics(timeout=20).topics if name.startswith(prefix)]
    for answer in admin.delete_topics(names).values():
        answer.result()


def test_kafka_gives_the_alerts_of_the_embedded_bus(kafka_night: KafkaNight, finished_night: Path) -> None:
    expected = alerts(finished_night)
    assert len(expected) > 5
    assert alerts(kafka_night.root) == expected
    assert outcomes(kafka_night.root) == outcomes(finished_night)
    assert dead_letters(kafka_night.root) == []
    embedded, kafka = messages(finished_night, "alerts"), messages(kafka_night.root, "alerts")
    told = [[(m.key, m.timestamp, p["diaSourceId"]) for m, p in side] for side in (embedded, kafka)]
    assert sorted(told[0]) == sorted(told[1])


def test_separate_stages_on_kafka(tiny_survey: Prepared, finished_night: Path, tmp_path: Path) -> None:
    night = _on_kafka(tiny_survey.copy(tmp_path / "survey"))
    ingest(night.root, tiny_survey.nights)
    drain(night.root, SEPARATE)
    found = alerts(night.root)
    _delete_topics(night.prefix)
    assert found == alerts(finished_night)


def test_a_killed_association_changes_nothing_on_kafka(
    tiny_survey: Prepared, finished_night: Path, tmp_path: Path
) -> None:
    """Dies after the database's commit and before the bus's: its successor gives the remembered alerts, once."""
    night = _on_kafka(tiny_survey.copy(tmp_path / "survey"))
    ingest(night.root, tiny_survey.nights)
    drain(night.root, [PIXELS])
    script = Path(__file__).with_name("dying.py")
    command = [sys.executable, str(script), str(night.root), "associate", "5", "2"]
    done = subprocess.run(command, env=environment(), timeout=120, check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    drain(night.root, ["associate"])
    found = alerts(night.root)
    _delete_topics(night.prefix)
    assert found == alerts(finished_night)


def test_the_consumers_in_the_documentation_read_them(
    kafka_night: KafkaNight, finished_night: Path, tmp_path: Path
) -> None:
    """That of the README, and the one of docs/kafka.md that needs no skydelta but a folder of schemas."""
    snippets = [*_consumers("README.md"), *_consumers("docs/kafka.md")]
    assert len(snippets) == 3
    assert snippets[0] == snippets[1]
    assert "schemas." not in snippets[2].replace("fastavro.schema.", "")
    words = [BROKER, f"{kafka_night.prefix}alerts", str(REPOSITORY / "schemas" / "alert" / "1_2")]
    running = []
    for number, snippet in enumerate(snippets[1:]):
        script = tmp_path / f"consumer{number}.py"
        script.write_text(snippet, encoding="utf-8")
        command = [sys.executable, str(script), *words]
        running.append(subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True))
    sources = [packet["diaSource"] for packet in packets_of(alerts(finished_night))]
    expected = {one["diaSourceId"]: [one["ra"], one["dec"], one["psfFlux"]] for one in sources}
    for process in running:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        lines = [line.split() for line in printed.splitlines()]
        assert {int(number): [float(value) for value in values] for number, *values in lines} == expected


def _consumers(page: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Consumer(" in block]


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
def test_kcat_reads_them(kafka_night: KafkaNight, finished_night: Path) -> None:
    form = "%k %S\\n"
    topic = f"{kafka_night.prefix}alerts"
    command = ["kcat", "-b", BROKER, "-C", "-t", topic, "-e", "-q", "-X", "isolation.level=read_committed", "-f", form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    keys = sorted(line.split()[0] for line in done.stdout.splitlines())
    sources = [packet["diaSource"] for packet in packets_of(alerts(finished_night))]
    assert keys == sorted(str(one["diaObjectId"]) for one in sources)
