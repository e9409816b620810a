"""Runs a trainer: step after step, interrupted only between two, with a checkpoint now and then and at the end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from studio.config import to_dict
from studio.model.shards import write_shards
from studio.train import runtime
from studio.train.learner import WeightAverage
from studio.train.lora import lora_state
from studio.train.matching import MatchingTrainer
from studio.train.memory import check_memory, free_memory
from studio.train.networks import Networks
from studio.train.recipe import MatchingConfig
from studio.train.snapshots import load_snapshot, newest, save_snapshot

__all__ = ["Run", "run"]


class Run:
    """A training that can be stopped and gone on with.

    Args:
        trainer: The trainer; takes over the newest checkpoint of its folder.
        report: Takes a line of progress now and then.

    Raises:
        MemoryError: If it will not fit, with settings that would.
        ValueError: If the checkpoint is damaged or of another training.

    Attributes:
        history: One row a step, ready for a data frame: step, seconds, losses and gradient norms.
        interrupted: Whether the last `go` ended before its last step.
    """

    def __init__(self, trainer: MatchingTrainer, report: Callable[[str], None] = runtime.silent) -> None:
        self.trainer, self.report = trainer, report
        self.folder = Path(trainer.config.out)
        self.history: list[dict[str, float]] = []
        self.interrupted = False
        self._stop = threading.Event()
        need = check_memory(trainer.config, trainer.networks, free_memory(trainer.device))
        self.report(f"will need about {need}")
        found = newest(self.folder / "checkpoints")
        if found is not None:
            self.history = load_snapshot(trainer, found)
            self.report(f"goes on from step {trainer.done}")

    @property
    def config(self) -> MatchingConfig:
        """The training's configuration."""
        return self.trainer.config

    @property
    def networks(self) -> Networks:
        """The networks as they are now."""
        return self.trainer.networks

    def stop(self) -> None:
        """End after the current step, with a checkpoint; may be called from any thread."""
        self._stop.set()

    def go(self) -> Run:
        """Train until the configuration's last step, or until it is stopped or interrupted.

        Returns:
            Itself.

        Raises:
            RuntimeError: If the training diverges; the last checkpoint is from before.
        """
        self._stop.clear()
        with _ending_between_steps(self._stop):
            while self.trainer.done < self.config.steps and not self._stopping():
                self._one()
        self.interrupted = self.trainer.done < self.config.steps
        self._save()
        return self

    def export(self) -> list[Path]:
        """Write the generator, averaged where there is an average, and the configuration.

        Returns:
            The files: `generator*.safetensors` with all weights, or with the adapters alone under LongLive's names.
        """
        dit = self.networks.generator
        with _averaged(dit, self.trainer.average):
            kind, state = ("dit", dit.state_dict()) if self.config.lora is None else ("lora", lora_state(dit))
            files = write_shards(self.folder, "generator", state, metadata={"kind": kind})
        runtime.write_json(self.folder / "config.json", to_dict(self.config))
        return [*files, self.folder / "config.json"]

    def _stopping(self) -> bool:
        """Whether any process was asked to stop; all of them end after the same step."""
        accelerator = self.trainer.accelerator
        asked = self._stop.is_set()
        if accelerator.num_processes == 1:
            return asked
        return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)

    def _one(self) -> None:
        began = time.perf_counter()
        metrics = self.trainer.step()
        done = self.trainer.done
        self.history.append({"step": done, "seconds": time.perf_counter() - began, **metrics})
        if done % 10 == 0 or done == self.config.steps:
            self.report(f"step {done} " + " ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        if done % self.config.save_every == 0:
            self._save()

    def _save(self) -> None:
        folder = self.folder / "checkpoints"
        found = newest(folder)
        if found is None or not found.name.endswith(f"-{self.trainer.done:08d}"):
            save_snapshot(self.trainer, folder, self.history)


def run(trainer: MatchingTrainer, report: Callable[[str], None] = runtime.silent) -> Run:
    """Train to the end, or to the interruption, and write the generator.

    Args:
        trainer: The trainer.
        report: Takes a line of progress now and then.

    Returns:
        The run.

    Raises:
        MemoryError: If it will not fit, with settings that would.
        RuntimeError: If the training diverges.
        ValueError: If a checkpoint in the folder is damaged or of another training.
    """
    current = Run(trainer, report).go()
    if trainer.accelerator.is_main_process:
        current.export()
    return current


@contextmanager
def _ending_between_steps(stop: threading.Event) -> Iterator[None]:
    """Turn the first interrupt into a request to stop; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
@torch.no_grad()
def _averaged(dit: torch.nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """The network with its averaged weights, put back afterwards."""
    mine = dict(dit.named_parameters())
    kept: dict[str, Tensor] = {}
    for name, value in (average.weights if average is not None else {}).items():
        kept[name] = mine[name].detach().clone()
        mine[name].copy_(value)
    try:
        yield
    finally:
        for name, value in kept.items():
            mine[name].copy_(value)
