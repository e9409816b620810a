"""A training as something to call: what it is told, what it teaches, and the presets it knows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from studio.train.networks import TrainedNetworks
from studio.train.recipe import TrainConfig, from_preset
from studio.train.running import Playing, Run, run
from studio.train.trainer import Trainer

__all__ = ["TRAININGS", "Training", "training"]

Config = TypeVar("Config", bound=TrainConfig)

# Where each training is; what it is called is also the command's word.
TRAININGS = {
    "pretrain": "studio.train.pretraining",
    "initialise": "studio.train.initialisation",
    "distill": "studio.train.distillation",
    "long_tune": "studio.train.longtune",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Training(Generic[Config]):
    """A training to call: `training(config)` runs it, `training.preset(name, ...)` makes its configuration.

    Args:
        name: What it is called.
        teaches: What comes of it, in a few words.
        config: Class of its configurations.
        trainer: Class of its trainers.
        opens: Loads the networks that a configuration names.
        presets: Preset name to fields; what is missing has its default.
    """

    name: str
    teaches: str
    config: type[Config]
    trainer: Callable[..., Trainer]
    opens: Callable[[Config], TrainedNetworks]
    presets: Mapping[str, Mapping[str, Any]]

    def __repr__(self) -> str:
        return f"<studio.train.{self.name}: {self.teaches}>"

    def __call__(
        self,
        config: Config,
        report: Callable[[str], None] | None = None,
        *,
        networks: TrainedNetworks | None = None,
        wait: bool = True,
        show: bool | None = None,
        pausing: Playing | Iterable[Playing] = (),
        **data: Any,
    ) -> Run:
        """Train; goes on from the newest checkpoint in the configuration's folder, if there is one.

        Args:
            config: The training.
            report: Takes a line of progress now and then; `None` writes it where this is no notebook.
            networks: Networks to train; `None` loads what the configuration names.
            wait: Whether to return at the end; else at once, with the training going on in the background.
            show: Whether to show progress as a widget; `None`: in a notebook.
            pausing: Sessions or studios that rest while it trains; all others play on beside it.
            data: What it learns from, instead of what the configuration names: `prompts`, or `clips` to pretrain on.

        Returns:
            The run, with its history and its networks.

        Raises:
            FileNotFoundError: If a model or file is not there.
            ImportError: If an extra is missing.
            MemoryError: If it will not fit, with settings that would.
            RuntimeError: If the training diverges.
            TypeError: If the configuration is another training's, or it learns from no such data.
            ValueError: If something does not fit, or the checkpoint is of another training.
        """
        if not isinstance(config, self.config):
            raise TypeError(f"`config` must be a {self.config.__name__}, got {type(config).__name__}")
        trainer = self.trainer(config, self.opens(config) if networks is None else networks, **data)
        return run(trainer, report, wait=wait, show=show, pausing=pausing)

    def preset(self, name: str, **changes: Any) -> Config:
        """A preset's configuration.

        Args:
            name: A key of `presets`.
            changes: Fields to set: at least `out`, and `teacher` where the preset names none.

        Returns:
            The configuration.

        Raises:
            ValueError: If the name is unknown, or a field is unknown, missing or out of range.
        """
        return from_preset(self.config, self.presets, name, changes)


def training(name: str) -> Training[Any]:
    """A training by what it is called.

    Args:
        name: A key of `TRAININGS`.

    Returns:
        The training.

    Raises:
        KeyError: If there is none.
    """
    return getattr(importlib.import_module(TRAININGS[name]), name)
