"""Train: everything that teaches a network, by the same classes and the same rollout that play it.

The public names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.train.distillation import DistillConfig, distill, distill_preset
    from studio.train.longtune import LongTuneConfig, long_tune, long_tune_preset

__all__ = ["DistillConfig", "LongTuneConfig", "distill", "distill_preset", "long_tune", "long_tune_preset"]

_HOMES = {
    "DistillConfig": "studio.train.distillation",
    "LongTuneConfig": "studio.train.longtune",
    "distill": "studio.train.distillation",
    "distill_preset": "studio.train.distillation",
    "long_tune": "studio.train.longtune",
    "long_tune_preset": "studio.train.longtune",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'studio.train' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
