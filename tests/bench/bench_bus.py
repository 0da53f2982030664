"""Embedded bus: 60 kB messages through consume, publish and commit, in messages per second. Durable (fsync).

Run: python tests/bench/bench_bus.py
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from stream.bus import Outgoing
from stream.bus.embedded import EmbeddedBus

MESSAGES, SIZE, BATCH = 3000, 60_000, 10


def main():
    with tempfile.TemporaryDirectory() as folder:
        bus = EmbeddedBus(Path(folder) / "bus.sqlite")
        bus.ensure({"in": 4, "out": 4})
        value = os.urandom(SIZE)
        begin = time.perf_counter()
        for start in range(0, MESSAGES, BATCH):
            bus.publish([Outgoing("in", str(start + i).encode(), value, 1) for i in range(BATCH)])
        published = time.perf_counter()
        session, done = bus.session("g", ["in"]), 0
        while done < MESSAGES:
            taken = session.poll(BATCH, 1.0)
            session.commit([Outgoing("out", m.key, m.value, m.timestamp) for m in taken], taken)
            done += len(taken)
        end = time.perf_counter()
        session.close()
        bus.close()
    print(f"published {MESSAGES / (published - begin):.0f}/s")
    print(f"consumed, published, committed {done / (end - published):.0f}/s")


if __name__ == "__main__":
    main()
