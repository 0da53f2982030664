"""Alert archive: alerts of 107 kB written per second, and milliseconds to get one of 100,000 by its id.

Run: python tests/bench/bench_archive.py [FOLDER]  (needs 3 GB there)
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.archive.packets import NIGHT, large_value
from workers.archive.alert import ArchivedAlert
from workers.archive.container import first_long, split
from workers.archive.store import AlertArchive

DIFFERENT, INDEXED, GETS = 200, 100_000, 2000
STAGES = b'[["isr", 61000.5123456, 1.25], ["subtract", 61000.5123789, 2.5], ["score", 61000.512412, 0.25]]'


def long_bytes(number):
    """Return Avro's form of a long in five bytes, so that numbers can be exchanged within a packet."""
    out = [(number << 1 >> 7 * place) & 0x7F | 0x80 for place in range(4)]
    return bytes([*out, number << 1 >> 28])


def alerts(count, first=2**29):
    """Yield alerts with ids of their own; their bytes repeat, but no two blocks are the same."""
    bodies = [large_value(first + i) for i in range(DIFFERENT)]
    for number in range(first, first + count):
        value = bodies[number % DIFFERENT]
        value = value[:5] + long_bytes(number) + value[10:]
        assert first_long(split(value)[1]) == number
        headers = {"alertId": b"%d" % number, "stageTimes": STAGES, "timeProcessedMjdTai": b"61000.5124"}
        yield ArchivedAlert(number, NIGHT, value, b"%d" % number, 1_700_000_000_000, headers, "alerts", 0, number)


def fill(archive, given, batch):
    begin = time.perf_counter()
    for place, alert in enumerate(given, 1):
        archive.append(alert)
        if place % batch == 0:
            archive.flush()
    archive.flush()
    return len(given) / (time.perf_counter() - begin)


def writing(folder):
    given = list(alerts(2000))
    print(f"packet {len(given[0].value)} bytes")
    for batch in (1, 8, 64):
        archive = AlertArchive(folder / f"batch{batch}")
        speed = fill(archive, given, batch)
        print(f"flush of {batch}: {speed:.0f} alerts/s, {sum(archive.sizes().values()) / len(given):.0f} bytes each")
    again = fill(archive, [replace(alert, offset=0) for alert in given], 8)
    print(f"given again: {again:.0f} alerts/s")


def two_writers(folder):
    begin = time.perf_counter()
    own = [sys.executable, __file__, str(folder / "two")]
    writers = [subprocess.Popen([*own, str(2**29 + part * 2000)], stdout=subprocess.PIPE) for part in range(2)]
    speeds = [float(writer.communicate()[0]) for writer in writers]
    print(f"two writers, flush of 8: {sum(speeds):.0f} alerts/s together ({time.perf_counter() - begin:.0f} s)")


def reading(folder):
    archive = AlertArchive(folder / "many")
    for start in range(0, INDEXED, 10_000):
        fill(archive, list(alerts(10_000, 2**29 + start)), 64)
    numbers = random.Random(1).sample(range(2**29, 2**29 + INDEXED), GETS)
    times = []
    for number in numbers:
        begin = time.perf_counter()
        assert archive.get(number).alertId == number
        times.append(1000 * (time.perf_counter() - begin))
    times.sort()
    print(f"get of {INDEXED}: median {times[GETS // 2]:.2f} ms, 99 % {times[GETS * 99 // 100]:.2f} ms")
    for name in ("digests", "nights", "reindex"):
        begin = time.perf_counter()
        getattr(archive, name)(*([NIGHT] if name == "digests" else []))
        print(f"{name}: {time.perf_counter() - begin:.2f} s")
    begin = time.perf_counter()
    count = sum(1 for _ in zip(archive.night(NIGHT), range(10_000), strict=False))
    print(f"night: {count / (time.perf_counter() - begin):.0f} alerts/s")
    print(f"index: {(folder / 'many' / 'index.sqlite').stat().st_size / INDEXED:.0f} bytes per alert")


def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        writing(folder)
        two_writers(folder)
        reading(folder)


def part(folder, first):
    print(fill(AlertArchive(folder), list(alerts(2000, first)), 8))


if __name__ == "__main__":
    part(Path(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else main()
