"""Type Ia supernovae in their own templates: how many, and how much of their light, by recipe of the window.

Run: PYTHONPATH=. python tests/bench/bench_template_supernovae.py [FIELDS [VISITS [SEASON [SEED]]]]
FIELDS (default 600) fields of 60 supernovae at z 0.1 to 0.8 over 5 years after one of archive, VISITS (12) a year in
the band, in seasons of SEASON (182.6) days. Windows, selection and weights are the product's own; a supernova counts
when a visit that has a template detects it at 5 sigma. Columns: the share of supernovae with a template flux above 2 %
and above 0.5 % of their peak, and the largest, in three readings: the template of the night of first detection; the
worst of the templates of the visits that detect it in that season, a template being built for each night; the worst of
those of any season. "veto 30": from its first detection on, inputs later than 30 (1 + z) days before that are left out
of an object's template; "bare" is the share of supernovae that this leaves without template at a visit of the season.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from tests.templates.supernovae import START, YEAR, run
from workers.survey.config import TemplatesConfig

MOVING = TemplatesConfig(pixel_scale=0.2)
ALL_YEARS = TemplatesConfig(
    pixel_scale=0.2, begin=START, end=START + 7 * YEAR, fwhm_fraction=0.33, min_selected=6, max_epochs=40
)
NO_GAP = MOVING.model_copy(update={"gap_days": 0.0})
SIX = MOVING.model_copy(update={"min_selected": 6})
GAP_90 = MOVING.model_copy(update={"gap_days": 90.0})
ALIGNED = MOVING.model_copy(update={"season_aligned": True})
RECIPES = {
    "best third of all years": (ALL_YEARS, None),
    "trailing year, no gap": (NO_GAP, None),
    "trailing year, gap 60 d": (MOVING, None),
    "trailing year, gap 60 d, veto 30": (MOVING, 30.0),
    "trailing year, gap 60 d, veto 60": (MOVING, 60.0),
    "trailing year, gap 60 d, best 6": (SIX, None),
    "trailing year, gap 90 d": (GAP_90, None),
    "season-aligned": (ALIGNED, None),
    "season-aligned, veto 30": (ALIGNED, 30.0),
}


def line(values):
    return f"{np.mean(values > 0.02):9.3%} {np.mean(values > 0.005):8.3%} {values.max():8.3%}"


def main(fields=600, visits=12, season=182.6, seed=1):
    begin = time.process_time()
    found = run(RECIPES, fields=int(fields), count=60, seed=int(seed), visits=int(visits), season=float(season))
    print(f"{'':33}  n sne  {'first detection':^27}  {'each visit of the season':^27}  {'each visit':^27}   bare")
    print(f"{'':33}         {'  '.join(['   > 2 %   > 0.5 %  largest'] * 3)}")
    for name, got in found.items():
        texts = "  ".join(line(values) for values in (got.first, got.season, got.ever))
        print(f"{name:33} {len(got.first):6d}  {texts} {got.bare.mean():7.3%}")
    print(f"{time.process_time() - begin:.1f} CPU s")


if __name__ == "__main__":
    main(*sys.argv[1:])
