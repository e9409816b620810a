"""Train: everything that teaches a network, by the same classes and the same rollout that play it.

The public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.train.distillation import DistillConfig, distill, distill_preset
    from studio.train.initialisation import InitialiseConfig, initialise, initialise_preset
    from studio.train.launching import launch
    from studio.train.longtune import LongTuneConfig, long_tune, long_tune_preset
    from studio.train.networks import Networks, TaughtNetworks, TrainedNetworks, fresh_models, pocket_models
    from studio.train.pocket import POCKET
    from studio.train.pretraining import PretrainConfig, pretrain, pretrain_preset
    from studio.train.running import Run

__all__ = [
    "POCKET",
    "DistillConfig",
    "InitialiseConfig",
    "LongTuneConfig",
    "Networks",
    "PretrainConfig",
    "Run",
    "TaughtNetworks",
    "TrainedNetworks",
    "distill",
    "distill_preset",
    "fresh_models",
    "initialise",
    "initialise_preset",
    "launch",
    "long_tune",
    "long_tune_preset",
    "pocket_models",
    "pretrain",
    "pretrain_preset",
]

_ROOMS = {
    "distillation": ("DistillConfig", "distill", "distill_preset"),
    "initialisation": ("InitialiseConfig", "initialise", "initialise_preset"),
    "launching": ("launch",),
    "longtune": ("LongTuneConfig", "long_tune", "long_tune_preset"),
    "networks": ("Networks", "TaughtNetworks", "TrainedNetworks", "fresh_models", "pocket_models"),
    "pocket": ("POCKET",),
    "pretraining": ("PretrainConfig", "pretrain", "pretrain_preset"),
    "running": ("Run",),
}
_HOMES = {name: f"studio.train.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'studio.train' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
