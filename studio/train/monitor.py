"""Who watches a run: the interface, and progress as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from studio.train.running import Run

__all__ = ["Monitor", "TextMonitor", "duration", "in_notebook", "summary", "used_memory", "values"]

# Steps that the estimate of the time left looks back on.
_RECENT = 50


class Monitor(Protocol):
    """Watches a run; called between two steps, in the thread that trains."""

    def begin(self, run: Run) -> None:
        """The run begins or goes on."""

    def step(self, run: Run, row: dict[str, float]) -> None:
        """A step was taken; `row` is the last of the history."""

    def preview(self, run: Run, frames: Tensor) -> None:
        """A clip was made, `[T, H, W, 3]` uint8."""

    def end(self, run: Run) -> None:
        """The run has ended, is stopped or has failed, see its `state`."""


class TextMonitor:
    """Says the progress in lines of text.

    Args:
        report: Takes a line.
        every: Steps between two lines.
    """

    def __init__(self, report: Callable[[str], None], every: int = 10) -> None:
        self.report, self.every = report, every

    def begin(self, run: Run) -> None:
        """See `Monitor`."""

    def step(self, run: Run, row: dict[str, float]) -> None:
        """See `Monitor`."""
        if row["step"] % self.every == 0 or row["step"] == run.config.steps:
            self.report(f"step {row['step']:.0f} {values(row)} | {summary(run)}")

    def preview(self, run: Run, frames: Tensor) -> None:
        """See `Monitor`."""
        mean = ", ".join(f"{value:.0f}" for value in frames.float().mean((0, 1, 2)).tolist())
        self.report(f"preview of {len(frames)} frames, mean colour {mean}")

    def end(self, run: Run) -> None:
        """See `Monitor`."""
        self.report(f"{run.state} at step {run.trainer.done} of {run.config.steps}")


def values(row: dict[str, float]) -> str:
    """Losses and gradient norms of a row of the history, as text."""
    return " ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "seconds", "gib"))


def summary(run: Run) -> str:
    """Time left, throughput and memory of a run, as text."""
    rows = run.history[-_RECENT:]
    if not rows:
        return f"no step yet; {run.memory}"
    pace = sum(row["seconds"] for row in rows) / len(rows)
    config = run.config
    clips = config.batch * config.accumulate * run.trainer.accelerator.num_processes / max(pace, 1e-9)
    left = pace * (config.steps - run.trainer.done)
    if run.time_left is not None:
        left = min(left, run.time_left)
    return f"{duration(left)} left, {pace:.2f} s a step, {clips:.2g} clips/s, {rows[-1]['gib']:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def used_memory(device: torch.device) -> int:
    """Bytes in use: the peak on a GPU, what the process holds now on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, which can show widgets."""
    shell = sys.modules.get("IPython")
    current = shell.get_ipython() if shell is not None else None
    return current is not None and type(current).__name__ == "ZMQInteractiveShell"
