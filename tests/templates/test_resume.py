"""A job killed at any moment, and run again: the same bytes as of one that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.templates.synthetic import CONFIG
from workers.templates.store import TemplateStore

REPOSITORY = Path(__file__).parents[2]
JOB = f"""
import sys
from pathlib import Path
from workers.survey.config import TemplatesConfig
from workers.templates.pipeline import JobProgress, run_job
from workers.templates.store import TemplateStore
say = lambda done, total: print("at", flush=True)
job = run_job(Path(sys.argv[1]), TemplateStore(Path(sys.argv[2])), TemplatesConfig(**{CONFIG.model_dump()!r}),
              workers=int(sys.argv[3]), progress=JobProgress(say, say))
print("done", job.warped, job.built, flush=True)
"""


def start(calexps, root, workers=1):
    """Start the job in a process group of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(calexps), str(root), str(workers)],
        env=kept | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def files_of(root):
    """What there is, by name; a killed job may leave hidden halves behind, which nothing reads."""
    found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(root): path.read_bytes() for path in found}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills a process group")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_run_again_gives_the_same_bytes(archive, built, tmp_path, workers):
    rng, kills = np.random.default_rng(workers), 0
    moments = rng.choice(7 + len(built[1].cells) - 2, 2, replace=False) if workers == 1 else [rng.integers(1, 8)]
    for steps in moments:  # two processes finish several cells at a time
        job = start(archive, tmp_path, workers)
        with job:
            for _ in range(steps):
                job.stdout.readline()
            time.sleep(float(rng.uniform(0.0, 0.03)))  # in the middle of the next one
            kills += job.poll() is None
            os.killpg(job.pid, signal.SIGKILL)
    assert kills
    job = start(archive, tmp_path, workers)
    with job:
        last = job.stdout.read().split("\n")[-2].split()
        assert job.wait() == 0
    assert last[0] == "done"
    assert int(last[1]) + int(last[2]) < 7 + len(built[1].cells)  # it went on with what there was
    found, expected = files_of(tmp_path), files_of(built[0].root)
    assert sorted(found) == sorted(expected)
    assert [str(name) for name, data in expected.items() if found[name] != data] == []
    assert TemplateStore(tmp_path).manifest() == built[1]
