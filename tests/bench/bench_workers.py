"""1 -> 2 worker processes on the CPU-bound stages: exposures per second of isr+subtract+score.

Run: python tests/bench/bench_workers.py FOLDER   (a survey made by `skydelta demo FOLDER`; its live night is replayed)

The rate counts from the moment when every worker has finished an exposure (imports and compiled kernels are paid by
then) until the first worker has none left.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from workers.connect import open_bus, open_topics
from workers.night import ALL, Role, lags, run_roles
from workers.replay import prepare, publish_night
from workers.survey.config import load_survey


def rate(folder, workers, prefix):
    survey = load_survey(Path(folder))
    bus = open_bus(survey)
    night = _night(survey, bus)
    topics, groups = prepare(survey, bus, night, prefix)
    live = open_topics(survey, bus)
    for _ in range(3):  # three nights' worth of work
        publish_night(bus, live, topics, groups, None)
    total, stop, marks = 3 * len(groups), threading.Event(), []
    role = Role(ALL[0], prefix)
    runner = threading.Thread(target=run_roles, args=(str(survey.root), [role] * workers, stop))
    runner.start()
    while (left := lags(bus, topics, prefix, last="isr")["isr"]) > workers:
        if left <= total - 2 * workers:
            marks.append((time.perf_counter(), left))
        time.sleep(0.05)
    stop.set()
    runner.join()
    (begin, first), (end, last) = marks[0], marks[-1]
    return (first - last) / (end - begin)


def _night(survey, bus):
    from workers.records import decoded_messages

    return max(record["night"] for _, record in decoded_messages(bus, open_topics(survey, bus).name("visits")))


def main(folder):
    stamp = int(time.time())
    one, two = (rate(folder, workers, f"bench{stamp}w{workers}.") for workers in (1, 2))
    print(f"1 worker {one:.2f} exposures/s, 2 workers {two:.2f}, ratio {two / one:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
