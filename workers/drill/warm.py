"""What the drill's fork server has done before it forks a worker, so that a strike hits work and not a start.

Imported by the fork server: it loads every stage and takes one exposure through the pixel stages, which also loads the
compiled loops.
"""

from __future__ import annotations

import os
from pathlib import Path

import workers.associate.worker
import workers.drill.victim  # noqa: F401
from workers.drill.settings import WARM_FRAME, WARM_SURVEY
from workers.ingest.pipeline import read_exposure
from workers.items import RawItem
from workers.night import PIXEL_STAGES, open_stages
from workers.survey.config import load_survey


def _warm(folder: str, frame: str) -> None:
    survey, path = load_survey(Path(folder)), Path(frame)
    data = path.read_bytes()
    item = RawItem(read_exposure(data, path.name, survey.camera).info, 0, data)
    for stage in open_stages(survey, PIXEL_STAGES):
        item = stage.process(item)  # type: ignore[assignment]


if WARM_FRAME in os.environ:
    _warm(os.environ[WARM_SURVEY], os.environ[WARM_FRAME])
