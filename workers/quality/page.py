"""The report of a night as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    return environment.from_string(_PAGE).render(**values)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { opacity: .7; } dd { margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid #8884; } th:first-child, td:first-child { text-align: left; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #8886; border-radius: .4rem; padding: .7rem; }
.card h3 { font-size: .95rem; margin: 0 0 .4rem; } .card dl { font-size: .85rem; }
.stamps { display: flex; gap: .4rem; } figure { margin: 0; } figcaption { font-size: .75rem; opacity: .7; }
img { width: 7.5rem; image-rendering: pixelated; display: block; } svg { max-width: 100%; height: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; } .note { opacity: .75; }
</style></head><body>
<h1>{{ title }}</h1>
<dl>{% for name, value in summary.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for table in tables %}<h2>{{ table.title }}</h2>
<table><thead><tr>{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}{% endfor %}
{% if pictures %}<h2>Maps</h2><div class="pictures">{% for caption, svg in pictures.items() %}<figure>{{ svg|safe }}
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endif %}
{% if cards %}<h2>Alerts</h2><p class="note">{{ cardsNote }}</p><div class="cards">{% for card in cards %}<article class="card">
<h3>{{ card.title }}</h3>
<div class="stamps">{% for name, uri in card.stamps.items() %}<figure><img src="{{ uri }}" alt="{{ name }} stamp">
<figcaption>{{ name }}</figcaption></figure>{% endfor %}</div>
{{ card.lightCurve|safe }}
<dl>{% for name, value in card.facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</article>{% endfor %}</div>{% endif %}
</body></html>
"""
