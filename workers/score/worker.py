"""The score worker: reliability of each source from the survey's own classifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from workers.items import SourcesItem
from workers.score.model import Classifier, load_classifier
from workers.score.pipeline import score
from workers.survey.config import Survey

__all__ = ["ScoreStage"]


@dataclass
class ScoreStage:
    """Sources with stamps in, the same with `reliability` out; other outcomes pass untouched."""

    classifier: Classifier
    name: str = field(default="score", init=False)

    @classmethod
    def open(cls, survey: Survey) -> ScoreStage:
        """Bind the stage to the survey's classifier; raises ConfigurationError where there is none."""
        return cls(load_classifier(survey.path(survey.config.score.model)))

    def process(self, item: SourcesItem) -> SourcesItem:
        """Score the sources of one exposure."""
        if item.outcome != "ok" or item.stamps is None:
            return item
        scored = score(item.rows(), item.stamps, self.classifier)
        metrics = {**item.metrics, "reliabilityThreshold": float(self.classifier.threshold)}
        return replace(item, sources=scored, modelVersion=self.classifier.version, metrics=metrics)
