"""docker/ and docs/kafka.md agree with the product: commands, versions, settings, the consumers printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

import click
import fastavro.utils
import pytest

import schemas
from stream import codec
from stream.bus import Outgoing
from stream.bus.kafka import KafkaBus
from workers.cli import cli
from workers.night import parse_stages
from workers.survey.config import BusConfig

ROOT = Path(__file__).parents[2]
BROKER = os.environ.get("SKYDELTA_TEST_KAFKA", "")
PAGE = (ROOT / "docs/kafka.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "docker/kafka/broker.sh"
CLUSTER = ROOT / "docker/kafka/cluster.sh"
NODE = ROOT / "docker/kafka/node.sh"


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="compose.yaml is checked where PyYAML is installed")
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
    return loaded


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_services_run_commands_that_exist() -> None:
    services = compose()["services"]
    workers = {name: service for name, service in services.items() if name not in ("kafka", "postgres")}
    assert set(workers) == {"ingest", "pixels", "associate", "archive"}
    context = click.Context(cli)
    for service in workers.values():
        for arguments in (service["command"], service["healthcheck"]["test"][2:]):
            command = cli.get_command(context, arguments[0])
            assert command is not None, arguments
            options = {option for each in command.params for option in each.opts}
            assert {argument for argument in arguments if argument.startswith("-")} <= options
            assert "/survey" in arguments
        assert any(volume.endswith(":/survey") for volume in service["volumes"])
        assert service["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert workers["pixels"]["command"][:2] == ["run", "isr+subtract+score"]
    assert workers["associate"]["command"][:2] == ["run", "associate"]
    assert "deploy" not in workers["associate"]  # SQLite: one process
    assert services["postgres"]["profiles"] == ["postgres"]


def test_the_stages_of_the_services_parse() -> None:
    for name in ("pixels", "associate", "archive"):
        stages = compose()["services"][name]["command"][1]
        assert parse_stages(stages) == (stages,)


def test_the_broker_of_compose_is_that_of_the_script() -> None:
    kafka = compose()["services"]["kafka"]
    version = re.search(r"<kafka\.version>(.+)</kafka\.version>", (ROOT / "docker/kafka/pom.xml").read_text())
    assert version is not None
    assert kafka["image"] == f"apache/kafka:{version[1]}"
    lines = (NODE.read_text() + SCRIPT.read_text()).splitlines()
    script = dict(line.split("=", 1) for line in lines if re.match(r"^[a-z.]+=", line))
    of_each = {"cluster.id", "process.roles", "node.id", "listeners", "log.dirs"}
    for name, value in kafka["environment"].items():
        setting = name.removeprefix("KAFKA_").lower().replace("_", ".")
        if name.startswith("KAFKA_") and setting in script and setting not in of_each and "listener" not in setting:
            assert script[setting] == value, name
    assert set(script) >= {"offsets.topic.replication.factor", "transaction.state.log.min.isr", "message.max.bytes"}
    assert all(port.startswith("127.0.0.1:") for port in kafka["ports"])


def test_the_image_holds_what_the_wheel_needs() -> None:
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for name in (*packages, "pyproject.toml", "README.md", "LICENSE"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", dockerfile, flags=re.MULTILINE), name
        assert f"!{name}" in ignored
        assert (ROOT / name).exists()
    assert re.search(r"^USER (?!root)", dockerfile, flags=re.MULTILINE)
    assert 'ENTRYPOINT ["skydelta"]' in dockerfile


def test_the_settings_on_the_page_are_valid() -> None:
    (text,) = blocks("toml")
    config = BusConfig(**tomllib.loads(text)["bus"])
    assert (config.kind, config.prefix) == ("kafka", "mysurvey.")


def test_the_python_on_the_page_compiles() -> None:
    for number, text in enumerate(blocks("python")):
        compile(text, f"docs/kafka.md[{number}]", "exec")


def test_the_script_explains_itself(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SKYDELTA_KAFKA_HOME": str(tmp_path / "empty")}
        return subprocess.run(
            [str(SCRIPT), *arguments], capture_output=True, text=True, timeout=20, check=False, env=environment
        )

    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    assert "usage:" in run().stderr
    assert "no such directory" in run("stop", str(tmp_path / "absent")).stderr
    assert run("stop", str(tmp_path)).returncode == 0  # nothing runs there
    assert "no broker runs in" in run("kill", str(tmp_path)).stderr
    start = run("start", str(tmp_path / "log"))
    assert (start.returncode, start.stdout) == (1, "")
    assert "fetch" in start.stderr or "install a Java runtime" in start.stderr


def test_the_cluster_script_explains_itself(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [str(CLUSTER), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1
        return done.stderr

    assert subprocess.run(["bash", "-n", str(CLUSTER)], check=False).returncode == 0
    assert "usage:" in run()
    assert "no such directory" in run("stop", str(tmp_path / "absent"))
    assert "no broker 4 in" in run("kill", str(tmp_path), "4")


def test_the_commands_on_the_page_exist() -> None:
    for text in blocks("sh"):
        for script, command in re.findall(r"docker/kafka/(broker\.sh|cluster\.sh) ([a-z-]+)", text):
            assert re.search(rf'^  "?{command}[ "]', (ROOT / "docker/kafka" / script).read_text(), flags=re.MULTILINE)
        for role in re.findall(r"access\.py ([a-z]+)", text):
            assert role in ("worker", "reader")


@pytest.mark.kafka
@pytest.mark.skipif(not BROKER, reason="no Kafka broker: set SKYDELTA_TEST_KAFKA (see docs/kafka.md)")
def test_the_consumers_on_the_page_read_alerts() -> None:
    schema = schemas.latest("alert")
    alert: Any = fastavro.utils.generate_one(schema.parsed)
    topic = f"page-{uuid.uuid4().hex[:10]}"
    bus = KafkaBus(BROKER)
    bus.ensure({topic: 2})
    bus.publish([Outgoing(topic, b"k%d" % n, codec.encode("alert", alert), 1) for n in range(3)])
    bus.close()
    consumers = [text for text in blocks("python") if "schemaless_reader" in text]
    assert len(consumers) == 2
    for text in consumers:
        arguments = [BROKER, topic, str(ROOT / "schemas/alert/1_2")]
        impatient = text.replace("poll(10.0)", "poll(3.0)")
        done = subprocess.run(
            [sys.executable, "-c", impatient, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == [str(alert["diaSourceId"])] * 3
