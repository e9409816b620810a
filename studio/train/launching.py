"""Several processes of one training, started from a notebook."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from studio.train.recipe import TrainConfig

__all__ = ["launch"]

_RECIPES = {
    "PretrainConfig": ("studio.train.pretraining", "pretrain"),
    "InitialiseConfig": ("studio.train.initialisation", "initialise"),
    "DistillConfig": ("studio.train.distillation", "distill"),
    "LongTuneConfig": ("studio.train.longtune", "long_tune"),
}


def launch(config: TrainConfig, processes: int) -> list[dict[str, float]]:
    """Train in several processes on this host, by accelerate's notebook launcher, and wait for the end.

    The models are loaded in each process by their names, and nothing on a GPU may be in use here before. The run goes
    on from its folder like any other.

    Args:
        config: The training; its class says which.
        processes: How many; on GPUs at most as many as there are.

    Returns:
        The history, one row a step.

    Raises:
        ImportError: If accelerate is not installed.
        ValueError: If the configuration is of no training, or there is no process.
    """
    name = type(config).__name__
    if name not in _RECIPES:
        raise ValueError(f"`config` must be one of {', '.join(_RECIPES)}, got {name}")
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    try:
        from accelerate import debug_launcher, notebook_launcher
    except ImportError as error:
        raise ImportError("training needs accelerate: pip install 'longlive-studio[train]'") from error
    if config.device == "cpu":
        # The notebook launcher knows one process on a CPU; its twin for tests starts several.
        debug_launcher(_member, (config,), num_processes=processes)
    else:
        notebook_launcher(_member, (config,), num_processes=processes)
    from studio.train.snapshots import newest

    found = newest(Path(config.out) / "checkpoints")
    return [] if found is None else json.loads((found / "state.json").read_text(encoding="utf-8"))["history"]


def _member(config: TrainConfig) -> Any:
    module, function = _RECIPES[type(config).__name__]
    from accelerate import PartialState

    speaks = PartialState(cpu=config.device == "cpu").is_main_process
    getattr(importlib.import_module(module), function)(config, _say if speaks else _silent, show=False)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _silent(line: str) -> None:
    """Takes a line of progress and says nothing."""
