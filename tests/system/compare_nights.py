"""Compare the alert packets of two survey folders, byte for byte: exit 1 where they differ. Usage: A B."""

from __future__ import annotations

import sys
from pathlib import Path

from workers.connect import open_bus, open_topics
from workers.records import alert_identity
from workers.survey.config import load_survey


def alerts(folder: str) -> dict[int, bytes]:
    survey = load_survey(Path(folder))
    bus = open_bus(survey)
    found = list(bus.read(open_topics(survey, bus).name("alerts")))
    bus.close()
    packets = {alert_identity(message)[0]: message.value for message in found}
    if len(packets) < len(found):
        sys.exit(f"{folder}: {len(found)} alerts, but {len(packets)} ids")
    return packets


if __name__ == "__main__":
    one, two = alerts(sys.argv[1]), alerts(sys.argv[2])
    differ = [number for number in one.keys() & two.keys() if one[number] != two[number]]
    print(f"{len(one)} and {len(two)} alerts, {len(one.keys() ^ two.keys())} in one only, {len(differ)} differ")
    sys.exit(0 if one and one == two else 1)
