"""The subtract worker: fetch the template for a calibrated exposure, subtract, detect and measure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from workers.clock import mjd_of
from workers.imaging.exposure import Exposure
from workers.imaging.reference_store import Reference, open_reference
from workers.items import CalexpItem, SourcesItem, TemplateRecord, ended_item
from workers.subtract.dcr import DcrLimits, dcr_of
from workers.subtract.limits import find_fault
from workers.subtract.pipeline import Subtraction, subtract
from workers.survey.config import Survey
from workers.templates.airmass_cells import telescope_of
from workers.templates.pipeline import TemplateMatch, template_for
from workers.templates.store import TemplateStore
from workers.templates.window import refuse_inside_window

__all__ = ["SubtractStage"]


@dataclass
class SubtractStage:
    """Calibrated exposure in, difference-image sources with stamps out; or ``no_template``, or a limit not kept."""

    survey: Survey
    store: TemplateStore
    reference: Reference | None = None
    """For the colours of stars, which refraction depends on; not needed without a site."""
    name: str = field(default="subtract", init=False)

    @classmethod
    def open(cls, survey: Survey) -> SubtractStage:
        """Bind the stage to the survey's current template version, and to its reference catalogue if it has one.

        Raises ConfigurationError where the catalogue is damaged.
        """
        path = survey.path(survey.config.reference.path)
        known = survey.camera.site is not None and path.exists()
        return cls(survey, TemplateStore(survey.templates), open_reference(path) if known else None)

    def template(self, exposure: Exposure) -> TemplateMatch | None:
        """Return the template in the exposure's frame, or None where too little of it is covered."""
        night = exposure.info.night
        day = date(night // 10000, night // 100 % 100, night % 100)
        manifest = self.store.manifest_for(mjd_of(day))
        if manifest is not None:
            refuse_inside_window(exposure.info, (manifest.begin, manifest.end))
        config = self.survey.config
        telescope = telescope_of(self.survey.camera, config.templates)
        return template_for(exposure, self.store, config.subtract.min_template_coverage, manifest, telescope)

    def difference(self, exposure: Exposure) -> tuple[TemplateMatch, Subtraction] | None:
        """Return template and subtraction of one exposure, or None without a template."""
        match = self.template(exposure)
        if match is None:
            return None
        return match, self._refracted(subtract(exposure, match.exposure, self.survey.config.subtract), match)

    def _refracted(self, found: Subtraction, match: TemplateMatch) -> Subtraction:
        """Return `found` with dcrShift and dcrDipole of its sources; as it is where refraction isn't known."""
        camera = self.survey.camera
        limits = DcrLimits(**self.survey.config.subtract.dcr.model_dump())
        rows, difference = found.sources.copy(), found.difference
        dcr = dcr_of(rows, difference, match.inputs, camera.site, camera.passbands, self.reference, limits)
        if dcr is None:
            return found
        for name in ("dcrShift", "dcrDipole"):
            rows[name] = dcr[name]
        count = {"nDcrDipoles": float(np.count_nonzero(rows["dcrDipole"]))}
        metrics = {**found.metrics, **count}
        return replace(found, sources=rows, metrics=metrics, difference=difference.with_metrics(**count))

    def process(self, item: CalexpItem) -> SourcesItem:
        """Subtract one exposure from the bus."""
        return self.finished(item, self.difference(item.exposure))

    def finished(self, item: CalexpItem, found: tuple[TemplateMatch, Subtraction] | None) -> SourcesItem:
        """Return the item that says how the exposure ended."""
        if found is None:
            return ended_item(item.exposure, item, "no_template")
        fault = find_fault(found[1].metrics, self.survey.config.subtract.limits)
        if fault is None:
            return _filled(ended_item(item.exposure, item, "ok"), *found)
        metrics = {**item.exposure.metrics, **found[1].metrics}
        ended = ended_item(item.exposure.replaced(metrics=metrics), item, fault.outcome, failure=fault.text)
        return replace(ended, template=_template(found[0]), psfLimit=float(metrics["psfLimit"]))


def _template(match: TemplateMatch) -> TemplateRecord:
    return TemplateRecord(
        templateId=match.templateId,
        firstEpochMjdTai=match.firstEpochMjdTai,
        lastEpochMjdTai=match.lastEpochMjdTai,
        nEpochs=match.nEpochs,
        depth=match.depth,
        coverage=match.coverage,
        version=match.version,
    )


def _filled(item: SourcesItem, match: TemplateMatch, result: Subtraction) -> SourcesItem:
    values = {
        "sources": result.sources,
        "stamps": result.stamps,
        "template": _template(match),
        "metrics": {**item.metrics, **result.metrics},
        "psfLimit": float(result.metrics["psfLimit"]),
    }
    return SourcesItem(**{**vars(item), **values})
