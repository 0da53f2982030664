"""Kafka: exactly-once against at-least-once, the same relay of 60 kB messages with the same batches, in one run.

Run: python tests/bench/bench_delivery.py HOST:PORT

At-least-once is what a careful consumer does without transactions: idempotent producer, flush, then a synchronous
commit of the positions. Printed: messages per second of both, and their ratio, per batch size; medians of rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

from stream.bus import Outgoing
from stream.bus.kafka import KafkaBus

MESSAGES, SIZE, ROUNDS = 2000, 60_000, 3


def fill(bus, topics):
    bus.ensure({name: 4 for name in topics})
    value = os.urandom(SIZE)
    for start in range(0, MESSAGES, 50):
        bus.publish([Outgoing(topics[0], str(start + i).encode(), value, 1) for i in range(50)])


def exactly_once(bus, topics, batch):
    session, done, begin = bus.session(uuid.uuid4().hex, topics[:1]), 0, 0.0
    while done < MESSAGES:
        taken = session.poll(batch, 1.0)
        begin = begin or time.perf_counter()
        session.commit([Outgoing(topics[1], m.key, m.value, m.timestamp) for m in taken], taken)
        done += len(taken)
    seconds = time.perf_counter() - begin
    session.close()
    return MESSAGES / seconds


def at_least_once(address, topics, batch):
    common = {"bootstrap.servers": address}
    consumer = Consumer(
        {**common, "group.id": uuid.uuid4().hex, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    )
    producer = Producer({**common, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4",
                         "message.max.bytes": 10**7})  # fmt: skip
    consumer.subscribe([topics[0]])
    done, begin = 0, 0.0
    while done < MESSAGES:
        taken = [m for m in consumer.consume(batch, 1.0) if m.error() is None]
        begin = begin or time.perf_counter()
        for message in taken:
            producer.produce(topics[1], message.value(), message.key())
        producer.flush()
        ends = {(m.topic(), m.partition()): m.offset() + 1 for m in taken}
        if ends:
            consumer.commit(offsets=[TopicPartition(*place, end) for place, end in ends.items()], asynchronous=False)
        done += len(taken)
    seconds = time.perf_counter() - begin
    consumer.close()
    return MESSAGES / seconds


def main(address):
    bus = KafkaBus(address)
    topics = [f"bench-{uuid.uuid4().hex[:8]}-{name}" for name in ("in", "out")]
    fill(bus, topics)
    for batch in (8, 64):
        once = [(exactly_once(bus, topics, batch), at_least_once(address, topics, batch)) for _ in range(ROUNDS)]
        exact, least = (statistics.median(values) for values in zip(*once, strict=True))
        print(f"batch {batch}: exactly-once {exact:.0f}/s, at-least-once {least:.0f}/s, ratio {exact / least:.2f}")
    bus.close()


if __name__ == "__main__":
    main(sys.argv[1])
