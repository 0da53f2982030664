"""A synthetic survey with truth tables: sky, optics, detectors and cadence, for the demo, tests and benchmarks."""

from workers.simulate.pipeline import SurveyFiles, write_survey
from workers.simulate.settings import DEMO, TINY, SimulatedSurvey

__all__ = ["DEMO", "TINY", "SimulatedSurvey", "SurveyFiles", "write_survey"]
