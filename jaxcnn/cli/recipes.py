"""`jaxcnn train --recipe NAME`: a named training, whose options are overruled by those on the command line."""

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from jaxcnn.cli.errors import flag
from jaxcnn.cli.options import RecipeOptions, Train
from jaxcnn.training.presets import Preset

_FIELDS = tuple(field.name for field in dataclasses.fields(Preset) if field.name not in ("about", "recipe"))
"""Fields of a named training that are options of the same name."""


def named_in(arguments: Sequence[str]) -> str | None:
    """Finds the name after --recipe, before the other words are read: they are read with its options as defaults.

    Args:
      arguments: the words after `train`.

    Returns:
      The name; None without --recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # A missing name is the business of the parser of all options.
    parser.add_argument("--recipe", nargs="?")
    return parser.parse_known_args(arguments)[0].recipe


def options_of(name: str, preset: Preset) -> Train:
    """Returns the options of a named training.

    Args:
      name: its name.
      preset: the training.

    Returns:
      The options; `data` is "" where the user gives them.
    """
    return Train(
        preset=name,
        recipe=RecipeOptions.from_json(preset.recipe.to_json()),
        **{name: getattr(preset, name) for name in _FIELDS if name != "data"},
        data=preset.data or "",
    )


def described(name: str, preset: Preset) -> str:
    """Describes a named training for --help, with its options.

    Args:
      name: its name.
      preset: the training.
    """
    own, usual = _values(options_of(name, preset)), _values(Train())
    words = [f"{flag(field)}{_shown(value)}" for field, value in own.items() if value not in ("", usual[field])]
    return f"{preset.about}\n\nOptions given beside --recipe {name} overrule its own, which are:\n{' '.join(words)}"


def _values(options: Train) -> dict[str, Any]:
    """Returns the options that a named training may set, by name."""
    fields = dataclasses.fields(options.recipe)
    return {name: getattr(options, name) for name in _FIELDS} | {
        field.name: getattr(options.recipe, field.name) for field in fields
    }


def _shown(value: Any) -> str:
    if value is True:
        return ""
    return "".join(f" {shlex.quote(str(word))}" for word in (value if isinstance(value, tuple) else (value,)))
