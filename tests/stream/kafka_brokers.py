"""Brokers of the tests' own, which they may kill: those of docker/kafka, where their jars were fetched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KAFKA = Path(__file__).parents[2] / "docker/kafka"


def home() -> Path:
    """Return the folder that holds Apache Kafka's jars, or would."""
    version = re.search(r"<kafka\.version>(.+)</kafka\.version>", (KAFKA / "pom.xml").read_text())
    assert version is not None
    return Path(os.environ.get("SKYDELTA_KAFKA_HOME") or Path.home() / f".cache/skydelta/kafka-{version[1]}")


def missing() -> str:
    """Return why no broker can be started here; nothing where one can."""
    if shutil.which("java") is None:
        return "no java: install a Java runtime, 17 or later"
    if not (home() / "complete").exists():
        return "no jars of Apache Kafka: run docker/kafka/broker.sh fetch"
    return ""


def call(script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Run a script of docker/kafka; return what it printed."""
    done = subprocess.run(
        [str(KAFKA / script), *map(str, arguments)],
        env={**os.environ, "SKYDELTA_KAFKA_HEAP": "512m", **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
        check=True,
    )
    return done.stdout.strip()


@dataclass
class Broker:
    """One broker with its log in `folder`; started by `start`, also again."""

    folder: Path
    advertised: str = ""
    """Where clients reach it through a proxy, which must forward to `forwarded`."""

    def start(self) -> str:
        return call("broker.sh", "start", self.folder, environment={"SKYDELTA_KAFKA_ADVERTISED": self.advertised})

    def kill(self) -> None:
        call("broker.sh", "kill", self.folder)

    def stop(self) -> None:
        call("broker.sh", "stop", self.folder)

    @property
    def address(self) -> str:
        return (self.folder / "bootstrap").read_text().strip()

    @property
    def forwarded(self) -> str:
        return (self.folder / "forwarded").read_text().strip()


@dataclass
class BrokerCluster:
    """Three brokers with their logs in `folder`, with SASL and ACLs."""

    folder: Path

    def start(self) -> str:
        return call("cluster.sh", "start", self.folder, "--sasl")

    def kill(self, number: int) -> None:
        call("cluster.sh", "kill", self.folder, number)

    def start_node(self, number: int) -> None:
        call("cluster.sh", "start-node", self.folder, number)

    def stop(self) -> None:
        call("cluster.sh", "stop", self.folder)

    def settings(self, user: str, password: str = "") -> dict[str, str]:
        """Return what a client of `user` sets, the address left out."""
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password or self.passwords[user],
        }

    @property
    def passwords(self) -> dict[str, str]:
        """By user."""
        lines = (self.folder / "users").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)
