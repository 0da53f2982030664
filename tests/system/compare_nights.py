"""Compare the alerts of two survey folders, wall-clock fields apart: exit 1 where they differ. Usage: A B."""

from __future__ import annotations

import sys
from pathlib import Path

from workers.connect import open_bus, open_topics
from workers.records import records
from workers.replay import without_clock
from workers.survey.config import load_survey


def alerts(folder: str) -> dict[int, dict]:
    survey = load_survey(Path(folder))
    bus = open_bus(survey)
    found = records(bus, open_topics(survey, bus).name("alerts"))
    bus.close()
    return {packet["diaSourceId"]: without_clock(packet) for packet in found}


if __name__ == "__main__":
    one, two = alerts(sys.argv[1]), alerts(sys.argv[2])
    differ = [number for number in one.keys() & two.keys() if one[number] != two[number]]
    print(f"{len(one)} and {len(two)} alerts, {len(one.keys() ^ two.keys())} in one only, {len(differ)} differ")
    sys.exit(0 if one and one == two else 1)
