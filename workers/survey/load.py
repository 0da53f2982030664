"""Read a TOML file into a validated model; every wrong key is reported at once, with what was probably meant."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import ConfigurationError

__all__ = ["load_toml"]

Model = TypeVar("Model", bound=BaseModel)


def load_toml(path: Path, model: type[Model]) -> Model:
    """Return `model` filled from the TOML file at `path`; raises ConfigurationError."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(f"{path} does not exist; make one with `skydelta init {path.parent}`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {_located(item, model)}" for item in _causes(error.errors())]
        raise ConfigurationError(f"{path} has {len(lines)} wrong entries:\n" + "\n".join(lines)) from error


def _causes(items: list[Any]) -> list[Any]:
    """Leave out what only follows from an error further inside (a list is too short without its broken member)."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if not any(len(place) > len(item["loc"]) and place[: len(item["loc"])] == item["loc"] for place in places)
    ]


def _located(item: Any, model: type[BaseModel]) -> str:
    """One line for one pydantic error: position, text, and a guess for an unknown key."""
    where = ".".join(str(part) for part in item["loc"]) or "(top)"
    text = f"{where}: {item['msg']}"
    if item["type"] == "extra_forbidden":
        guesses = difflib.get_close_matches(str(item["loc"][-1]), _all_keys(model, set()), n=1)
        text += f"; did you mean {guesses[0]!r}?" if guesses else ""
    elif item["type"] != "missing":
        text += f" (it is {item['input']!r})"
    return text


def _all_keys(model: type[BaseModel], seen: set[type]) -> list[str]:
    """Every field name of `model` and of the models inside it."""
    if model in seen:
        return []
    seen.add(model)
    names = list(model.model_fields)
    for field in model.model_fields.values():
        for part in _classes(field.annotation):
            names += _all_keys(part, seen)
    return names


def _classes(annotation: object) -> list[type[BaseModel]]:
    """The models named anywhere inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _classes(part)]
