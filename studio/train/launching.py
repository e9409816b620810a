"""Several processes of one training, started from a notebook."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from studio.train.recipe import TrainConfig
from studio.train.runtime import report, silent
from studio.train.training import TRAININGS, training

__all__ = ["launch"]


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
        ValueError: If the configuration is of no training, there is no process, or not a GPU for each.
    """
    if _named(config) is None:
        known = ", ".join(training(name).config.__name__ for name in TRAININGS)
        raise ValueError(f"`config` must be one of {known}, got {type(config).__name__}")
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    try:
        from accelerate import debug_launcher, notebook_launcher
        from accelerate.utils import is_cuda_available
    except ImportError as error:
        raise ImportError("training needs accelerate: pip install 'longlive-studio[train]'") from error
    # Asked without waking a GPU, which the processes to come could not use then.
    here = 0 if config.device == "cpu" or not is_cuda_available() else torch.cuda.device_count()
    if here and processes > here:
        raise ValueError(f"`processes` must be at most the {here} GPUs that are here, got {processes}")
    if not here:
        # The notebook launcher knows one process on a CPU; its twin for tests starts several.
        config = dataclasses.replace(config, device="cpu")
        debug_launcher(_member, (config,), num_processes=processes)
    else:
        notebook_launcher(_member, (config,), num_processes=processes)
    from studio.train.snapshots import newest

    found = newest(Path(config.out) / "checkpoints")
    return [] if found is None else json.loads((found / "state.json").read_text(encoding="utf-8"))["history"]


def _named(config: Any) -> str | None:
    return next((name for name in TRAININGS if training(name).config is type(config)), None)


def _member(config: TrainConfig) -> None:
    name = _named(config)
    assert name is not None
    from accelerate import PartialState

    speaks = PartialState(cpu=config.device == "cpu").is_main_process
    training(name)(config, report if speaks else silent, show=False)
