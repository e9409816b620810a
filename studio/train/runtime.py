"""What every training loop needs: a budget in seconds, a learning rate over it, an average, files that are never half.

Runs are budgeted in wall-clock time, because that is what a borrowed accelerator is measured in; all schedules follow
the fraction of the budget that is spent.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["EMA", "Budget", "Metrics", "cosine", "save_tensors", "seed_everything", "write_json"]


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's generators."""
    random.seed(seed)
    torch.manual_seed(seed)


class Budget:
    """A span of wall-clock time; `spent` runs from 0 to 1.

    Args:
        seconds: Length, positive.
        steps: Optional limit in steps; whichever ends first ends the budget.

    Raises:
        ValueError: If `seconds` is not positive.
    """

    def __init__(self, seconds: float, steps: int | None = None) -> None:
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, got {seconds}")
        self.seconds, self.steps, self.step = seconds, steps, 0
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def spent(self) -> float:
        """Fraction of the budget that is used up, 0 to 1."""
        share = self.elapsed / self.seconds
        if self.steps is not None:
            share = max(share, self.step / self.steps)
        return min(1.0, share)

    def tick(self) -> bool:
        """Count one step; `False` once the budget is used up."""
        self.step += 1
        return self.spent < 1.0


def cosine(spent: float, *, peak: float, floor: float = 0.0, warmup: float = 0.02) -> float:
    """Learning rate with a linear warm-up and a cosine fall.

    Args:
        spent: Fraction of the run, 0 to 1.
        peak: Highest rate.
        floor: Last rate.
        warmup: Fraction of the run that warms up.

    Returns:
        The rate.
    """
    if spent < warmup:
        return peak * max(spent / warmup, 1e-2)
    fall = (spent - warmup) / max(1e-9, 1 - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


class EMA:
    """An exponential moving average of a module's parameters and buffers, in float32.

    Args:
        module: The module to follow.
        decay: Weight of the past, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Follow the module by one step; the first steps average over what there is."""
        self.step += 1
        decay = min(self.decay, self.step / (self.step + 9))
        mine, theirs = [], []
        for key, value in module.state_dict().items():
            mine.append(self.shadow[key])
            theirs.append(value.detach().float())
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors, under the module's keys."""
        return self.shadow


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Write tensors as safetensors, aside first and then renamed, so that a reader never meets half a file.

    Args:
        path: Target file; its folder is made.
        tensors: What to write.
        dtype: Type of the floating-point tensors in the file; `None` leaves them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        key: value.detach().to("cpu", dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for key, value in tensors.items()
    }
    aside = path.with_name(path.name + ".part")
    save_file(plain, aside)
    os.replace(aside, path)


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON aside first and then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


class Metrics:
    """One JSON line a record, written through at once, and repeated to a listener.

    Args:
        path: The file, or `None` for none.
        listen: Called with each record, or `None`.
    """

    def __init__(self, path: Path | str | None = None, listen: Any = None) -> None:
        self.path = Path(path) if path else None
        self.listen = listen
        self.records: list[dict[str, Any]] = []
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **record: Any) -> None:
        """Note one record of plain numbers and strings."""
        self.records.append(record)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if self.listen:
            self.listen(record)
