"""`python -m studio.train RECIPE --option value ...` runs one training; options are its configuration's fields."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import types
import typing
from typing import Any

# Recipe: module, configuration, function (configuration, report) -> metrics.
RECIPES = {
    "vae": ("studio.train.vae", "VAETrainConfig", "train_vae"),
    "narrow": ("studio.train.narrow", "NarrowConfig", "narrow"),
    "probe": ("studio.train.probe", "ProbeTrainConfig", "train_probe"),
    "judge": ("studio.train.judge", "JudgeConfig", "judge"),
    "teacher": ("studio.train.teacher", "TeacherTrainConfig", "train_teacher"),
    "student": ("studio.train.student", "StudentTrainConfig", "train_student"),
    "distill": ("studio.train.distillation", "DistillConfig", "distill"),
    "long_tune": ("studio.train.longtune", "LongTuneConfig", "long_tune"),
}


def parser_for(config: type, recipe: str) -> argparse.ArgumentParser:
    """An argument parser with one option a plain field of a configuration.

    Args:
        config: a dataclass with string, number and boolean fields; other fields keep their defaults.
        recipe: name for the help text.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(prog=f"python -m studio.train {recipe}", description=config.__doc__)
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = kinds[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
        option = "--" + field.name.replace("_", "-")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        elif kind in (str, int, float):
            parser.add_argument(option, type=kind, default=argparse.SUPPRESS, required=required)
    return parser


def main(arguments: list[str]) -> Any:
    """Runs a recipe.

    Args:
        arguments: recipe name and options.

    Returns:
        What the recipe returns, its metrics.
    """
    choice = argparse.ArgumentParser(prog="python -m studio.train", description=__doc__)
    choice.add_argument("recipe", choices=list(RECIPES))
    recipe = choice.parse_args(arguments[:1]).recipe
    module_name, config_name, function_name = RECIPES[recipe]
    module = importlib.import_module(module_name)
    config = getattr(module, config_name)
    options = vars(parser_for(config, recipe).parse_args(arguments[1:]))
    return getattr(module, function_name)(config(**options), report)


def report(line: str) -> None:
    """Writes one line at once, so that a cut run keeps what it said."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
