"""Embedded bus: 60 kB messages published, relayed by a worker's session and read by another, all at once. Durable.

Run: python tests/bench/bench_bus.py [SECONDS]

Three processes: one publishes, one consumes, publishes and commits, one consumes. Old messages are trimmed, so that the
file keeps its size. Printed: messages per second in and out, and the largest memory and file.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from stream.bus import Outgoing
from stream.bus.embedded import EmbeddedBus

SIZE, BATCH, PARTITIONS = 60_000, 20, 4
WAITING = 400  # messages; the publisher pauses where the relay is so far behind
KEEP = 5.0  # s


def publish(path, seconds, counts):
    bus = EmbeddedBus(path)
    value, begin, number, trimmed = os.urandom(SIZE), time.monotonic(), 0, 0.0
    while (now := time.monotonic() - begin) < seconds:
        if number % (5 * BATCH) == 0 and sum(bus.lag("relay", ["in"]).values()) > WAITING:
            time.sleep(0.01)
            continue
        stamp = round(time.time() * 1000)
        bus.publish([Outgoing("in", str(number + i).encode(), value, stamp) for i in range(BATCH)])
        number += BATCH
        if now - trimmed > 2.0:
            bus.trim(stamp - round(KEEP * 1000))
            trimmed = now
    counts.put(("published", number, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def consume(path, seconds, counts, group, source, target):
    bus = EmbeddedBus(path)
    session, done, quiet = bus.session(group, [source]), 0, time.monotonic()
    while time.monotonic() - quiet < 3.0:
        taken = session.poll(BATCH, 0.5)
        if taken:
            quiet = time.monotonic()
            out = [Outgoing(target, m.key, m.value, m.timestamp) for m in taken] if target else []
            session.commit(out, taken)
            done += len(taken)
    session.close()
    counts.put((group, done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def main(seconds):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bus.sqlite"
        EmbeddedBus(path).ensure({"in": PARTITIONS, "out": PARTITIONS})
        counts = multiprocessing.Queue()
        parts = [
            multiprocessing.Process(target=publish, args=(path, seconds, counts)),
            multiprocessing.Process(target=consume, args=(path, seconds, counts, "relay", "in", "out")),
            multiprocessing.Process(target=consume, args=(path, seconds, counts, "read", "out", None)),
        ]
        for part in parts:
            part.start()
        found = dict((name, (number, rss)) for name, number, rss in (counts.get() for _ in parts))
        for part in parts:
            part.join()
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    numbers = {name: number for name, (number, _) in found.items()}
    print(f"{numbers} in {seconds:.0f} s: {numbers['read'] / seconds:.0f} messages/s of {SIZE} bytes in and out")
    print(f"memory {max(rss for _, rss in found.values()) / 1024:.0f} MiB at most, file {size / 2**20:.0f} MiB")
    if len(set(numbers.values())) != 1:
        sys.exit("messages were lost or doubled")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
