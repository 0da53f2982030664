"""The report of a night as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment

__all__ = ["AlertCard", "Report", "Table", "render"]


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class AlertCard:
    """One alert as the page shows it: three stamps (data URIs), light curve (SVG) and facts."""

    title: str
    facts: Mapping[str, str]
    stamps: Mapping[str, str]
    lightCurve: str


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    title: str
    summary: Mapping[str, str]
    tables: Sequence[Table] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    """SVG by caption."""
    cards: Sequence[AlertCard] = ()
    cardsNote: str = ""


def render(report: Report) -> str:
    """Return the page as HTML text; every value is escaped, pictures are inline."""
    environment = Environment(autoescape=True)
    values: dict[str, Any] = vars(report)
    page = (resources.files("workers.quality") / "page.html").read_text(encoding="utf-8")
    return environment.from_string(page).render(**values)
