"""The first survey.toml of a new survey: every key with its default and what it means, made from the model itself."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from workers.survey.config import SurveyConfig

__all__ = ["initial_survey_toml"]

_FIRST_VALUES = {"name": "my-survey", "pixel_scale": 1.0}
"""For keys without a default: to be edited."""


def initial_survey_toml(**values: Any) -> str:
    """Return the text of a commented survey.toml; `values` replace first values of keys that have no default."""
    first = {**_FIRST_VALUES, **values}
    head = ["# survey.toml: where things are and how the stages work. Keys with # are at their defaults.", ""]
    return "\n".join([*head, *_table("", SurveyConfig, first)]) + "\n"


def _table(path: str, model: type[BaseModel], first: dict[str, Any]) -> list[str]:
    """One table: its own keys, then the tables below it."""
    lines = ["", f"# {_first_line(model)}", f"[{path}]"] if path else []
    below = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            below += _table(f"{path}.{name}" if path else name, inner, first)
        else:
            lines += _entry(name, field, first)
    return lines + below


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _entry(name: str, field: FieldInfo, first: dict[str, Any]) -> list[str]:
    """One key: a comment, and the key itself, commented out where it has a default."""
    comment = f"  # {field.description}" if field.description else ""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return [f"{name} = {_toml(first[name])}{comment}"]
    if default is None:
        return [f"# {name} is not set{comment}"]
    return [f"# {name} = {_toml(default)}{comment}"]


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
