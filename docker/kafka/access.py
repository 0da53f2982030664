"""Give a user of a Kafka cluster with SASL/SCRAM and an authorizer the rights of a worker or of a reader of alerts.

    python access.py worker BOOTSTRAP PREFIX USER     all that `skydelta` does under bus.prefix = PREFIX, and no more
    python access.py reader BOOTSTRAP PREFIX USER     read the topics PREFIXalerts*, in groups named USER or USER.*

$KAFKA_ADMIN_PASSWORD is the password of the administrator, $KAFKA_ADMIN_USER the name (admin). Where
$KAFKA_USER_PASSWORD is set, the user is made first, or the password changed. $KAFKA_PROPERTIES are more settings for
librdkafka, as "security.protocol=SASL_SSL ssl.ca.location=ca.pem". Repeating is harmless.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

PREFIXED, LITERAL = ResourcePatternType.PREFIXED, ResourcePatternType.LITERAL
_SECONDS = 30.0
_ITERATIONS = 8192  # of SCRAM; Kafka takes 4096 to 16384

Right = tuple[ResourceType, str, ResourcePatternType, AclOperation]


def worker_rights(prefix: str) -> list[Right]:
    """Return what workers, ingest and the command line need; READ and WRITE include DESCRIBE."""
    topic = (AclOperation.READ, AclOperation.WRITE, AclOperation.CREATE, AclOperation.DESCRIBE_CONFIGS)
    return [
        *((ResourceType.TOPIC, prefix, PREFIXED, operation) for operation in topic),
        (ResourceType.GROUP, prefix, PREFIXED, AclOperation.READ),
        (ResourceType.TRANSACTIONAL_ID, "skydelta.", PREFIXED, AclOperation.WRITE),
    ]


def reader_rights(prefix: str, user: str) -> list[Right]:
    """Return what a reader of alerts needs; the dot keeps the groups of `user` from those of `user2`."""
    return [
        (ResourceType.TOPIC, f"{prefix}alerts", PREFIXED, AclOperation.READ),
        (ResourceType.GROUP, user, LITERAL, AclOperation.READ),
        (ResourceType.GROUP, f"{user}.", PREFIXED, AclOperation.READ),
    ]


def grant(admin: AdminClient, user: str, rights: Iterable[Right]) -> None:
    """Allow `user` the `rights` from any host; raises KafkaException."""
    bindings = [
        AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for kind, name, pattern, operation in rights
    ]
    _settled(admin.create_acls(bindings, request_timeout=_SECONDS))


def set_password(admin: AdminClient, user: str, password: str) -> None:
    """Make `user`, or change the password; raises KafkaException."""
    kind = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    change = UserScramCredentialUpsertion(user, kind, password.encode())
    _settled(admin.alter_user_scram_credentials([change], request_timeout=_SECONDS))


def connect(bootstrap: str, environment: Mapping[str, str]) -> AdminClient:
    """Return the administrator's client; raises KafkaException where the cluster refuses the login, or is not there."""
    refusals: list[KafkaError] = []
    more = dict(pair.split("=", 1) for pair in environment.get("KAFKA_PROPERTIES", "").split())
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": environment.get("KAFKA_ADMIN_USER", "admin"),
        "sasl.password": environment["KAFKA_ADMIN_PASSWORD"],
        "log_level": 2,  # the error says it
        "error_cb": refusals.append,
        **more,
    }
    admin = AdminClient(settings)
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            admin.list_topics(timeout=1.0)
            return admin
        except KafkaException:
            admin.poll(0.0)
            for refusal in refusals:
                if refusal.code() == KafkaError._AUTHENTICATION:
                    raise KafkaException(refusal) from None
            if time.monotonic() > deadline:
                raise


def _settled(answers: Mapping[Any, Future[Any]]) -> None:
    for answer in answers.values():
        answer.result()


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the command line above."""
    if len(arguments) != 4 or arguments[0] not in ("worker", "reader") or "KAFKA_ADMIN_PASSWORD" not in environment:
        sys.exit(__doc__)
    role, bootstrap, prefix, user = arguments
    if not prefix:
        sys.exit("access.py: rights need a prefix; set bus.prefix in survey.toml")
    try:
        admin = connect(bootstrap, environment)
        if password := environment.get("KAFKA_USER_PASSWORD"):
            set_password(admin, user, password)
        grant(admin, user, worker_rights(prefix) if role == "worker" else reader_rights(prefix, user))
    except KafkaException as exception:
        sys.exit(f"access.py: {bootstrap}: {exception.args[0].str()}")


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
