"""10,000 alerts of one visit: packed, acknowledged by Kafka and read by a consumer that takes committed messages only.

Run: OMP_NUM_THREADS=1 python tests/bench/bench_visit.py HOST:PORT [HISTORY [LIMITS]]

Ten detectors of 1,000 alerts, one transaction each, as an association worker publishes them. The clock runs from the
first packet's making until the consumer, a process of its own that was in its group before, has the last alert.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import uuid

from bench_packing import exposure, pack
from confluent_kafka import Consumer

from stream.bus import Outgoing
from stream.bus.kafka import KafkaBus

DETECTORS, ALERTS, ROUNDS = 10, 1000, 3


def read(address, topic, ready, ended):
    settings = {"bootstrap.servers": address, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest",
                "isolation.level": "read_committed", "enable.auto.commit": False}  # fmt: skip
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    ready.set()
    done = size = 0
    while done < DETECTORS * ALERTS:
        for message in consumer.consume(500, 0.5):
            if message.error() is None:
                done, size = done + 1, size + len(message.value())
    ended.put((time.time(), done, size))
    consumer.close()


def one_visit(address, bus, inputs):
    """Return seconds until all was read, seconds of packing, seconds of publishing, and bytes."""
    topic, ended, ready = f"bench-{uuid.uuid4().hex[:8]}", multiprocessing.Queue(), multiprocessing.Event()
    bus.ensure({topic: 4})
    reader = multiprocessing.Process(target=read, args=(address, topic, ready, ended))
    reader.start()
    ready.wait()
    begin, packing, publishing = time.time(), 0.0, 0.0
    for _ in range(DETECTORS):
        start = time.perf_counter()
        packets = pack(*inputs)
        middle = time.perf_counter()
        ids = inputs[0].objects["diaObjectId"].tolist()
        bus.publish([Outgoing(topic, str(key).encode(), value, 1) for key, value in zip(ids, packets, strict=True)])
        packing, publishing = packing + middle - start, publishing + time.perf_counter() - middle
    end, _, size = ended.get()
    reader.join()
    return end - begin, packing, publishing, size


def main(address, history=30, limits=30):
    bus, inputs = KafkaBus(address), exposure(ALERTS, int(history), int(limits))
    for _ in range(ROUNDS):
        total, packing, publishing, size = one_visit(address, bus, inputs)
        print(
            f"{DETECTORS * ALERTS} alerts of {size / DETECTORS / ALERTS / 1e3:.0f} kB packed, acknowledged and read in "
            f"{total:.1f} s; packing {packing:.1f} s, publishing {publishing:.1f} s of it"
        )
    bus.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
