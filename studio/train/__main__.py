"""`python -m studio.train RECIPE [CONFIG] --option value ...` runs one training; options are its settings.

CONFIG is the file of a saved configuration; `--preset NAME` begins with a preset's fields instead. Options come over
them. Lists are written with commas, and `none` stands for no value. A run goes on from its folder's newest checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studio.train.runtime import report

# Where a recipe's function (configuration, report) -> metrics or run is; the presets are those of a `Training`.
RECIPES = {
    "vae": ("studio.train.vae", "train_vae"),
    "narrow": ("studio.train.narrow", "narrow"),
    "probe": ("studio.train.probe", "train_probe"),
    "judge": ("studio.train.judge", "judge"),
    "teacher": ("studio.train.teacher", "train_teacher"),
    "student": ("studio.train.student", "train_student"),
    "scale": ("studio.train.scale", "measure_scale"),
    "pretrain": ("studio.train.pretraining", "pretrain"),
    "initialise": ("studio.train.initialisation", "initialise"),
    "distill": ("studio.train.distillation", "distill"),
    "long_tune": ("studio.train.longtune", "long_tune"),
}


def parser_for(config: type, recipe: str, presets: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """An argument parser with one option a plain field of a configuration.

    Args:
        config: a dataclass with fields that are strings, numbers, booleans or lists; others keep their defaults.
        recipe: name for the help text.
        presets: presets by name; with them there are `--preset`, `--config` and `--print`.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(prog=f"python -m studio.train {recipe}", description=config.__doc__)
    if presets is not None:
        parser.add_argument("--preset", choices=list(presets), help="begin with a preset's fields")
        parser.add_argument("file", nargs="?", metavar="CONFIG", help="begin with the fields of a saved configuration")
        parser.add_argument("--config", help="the same")
        parser.add_argument("--print", action="store_true", help="say the configuration and do nothing")
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = kinds[field.name]
        optional = isinstance(kind, types.UnionType)
        if optional:
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
        option = "--" + field.name.replace("_", "-")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        elif kind in (str, int, float) or typing.get_origin(kind) is tuple:
            # With presets, what is missing is told by the configuration itself.
            parser.add_argument(
                option, type=_reader(kind, optional), default=argparse.SUPPRESS, required=required and presets is None
            )
    return parser


def _reader(kind: Any, optional: bool) -> Callable[[str], Any]:
    """Reads one option's word as a value of a kind."""

    def read(word: str) -> Any:
        if optional and word.lower() == "none":
            return None
        if typing.get_origin(kind) is tuple:
            if word.lower() == "none":
                return ()
            return tuple(typing.get_args(kind)[0](part) for part in word.split(",") if part)
        return kind(word)

    read.__name__ = getattr(kind, "__name__", "list")
    return read


def configured(config: type, recipe: str, presets: dict[str, Any] | None, words: list[str]) -> tuple[Any, bool]:
    """The configuration that a command line asks for.

    Args:
        config: its class.
        recipe: name for the help text.
        presets: presets by name, or `None`.
        words: the options.

    Returns:
        The configuration, and whether it is to be printed only.
    """
    from studio.config import from_dict

    parser = parser_for(config, recipe, presets)
    options = vars(parser.parse_args(words))
    if presets is None:
        try:
            return config(**options), False
        except ValueError as error:
            parser.error(str(error))
    preset, saved, file, shown = (options.pop(name) for name in ("preset", "config", "file", "print"))
    if sum(bool(given) for given in (preset, saved, file)) > 1:
        parser.error("use one of CONFIG, --preset and --config")
    saved = saved or file
    try:
        fields = presets[preset] if preset else json.loads(Path(saved).read_text(encoding="utf-8")) if saved else {}
        if not isinstance(fields, Mapping):
            raise ValueError(f"{saved} must hold the fields of one configuration, got {type(fields).__name__}")
        return from_dict(config, {**fields, **options}), shown
    except (OSError, ValueError) as error:
        parser.error(f"{saved}: {error}" if isinstance(error, json.JSONDecodeError) else str(error))


def main(arguments: list[str]) -> Any:
    """Runs a recipe.

    Args:
        arguments: recipe name and options.

    Returns:
        What the recipe returns, its metrics or its run.
    """
    choice = argparse.ArgumentParser(prog="python -m studio.train", description=__doc__)
    choice.add_argument("recipe", choices=list(RECIPES))
    recipe = choice.parse_args(arguments[:1]).recipe
    module, name = RECIPES[recipe]
    function = getattr(importlib.import_module(module), name)
    presets = getattr(function, "presets", None)
    told = typing.get_type_hints(function)["config"] if presets is None else function.config
    config, shown = configured(told, recipe, presets, arguments[1:])
    if shown:
        report(str(config))
        return config
    return function(config, report)


if __name__ == "__main__":
    main(sys.argv[1:])
