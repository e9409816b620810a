"""A training that kills itself with SIGKILL: `python -m tests.train.victim FOLDER during-a-step|during-a-save`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from studio.train import snapshots
from studio.train.longtune import LongTuneConfig, LongTuning
from studio.train.running import run
from tests.train import nets

STEPS = 8


def config(folder: Path | str) -> LongTuneConfig:
    """The training that both the victim and the test run."""
    return LongTuneConfig(
        out=str(folder), generator="tiny", teacher="tiny", steps=STEPS, frames=9, new_frames=6, max_length=33,
        switch_frames=(15,), critic_updates=2, generator_rate=1e-3, critic_rate=1e-3, lora=None, average=0.9,
        average_from=3, recompute=False, device="cpu", save_every=2, keep=2,
    )  # fmt: skip


def trainer(folder: Path | str) -> LongTuning:
    """A fresh trainer of it."""
    return LongTuning(config(folder), nets.networks(), nets.PROMPTS)


def die() -> None:
    """End as a machine does that loses power."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, moment: str) -> None:
    """Train until the moment of the sixth step, then die."""
    torch.set_num_threads(1)
    it = trainer(folder)
    if moment == "during-a-step":
        it.networks.teacher.register_forward_hook(lambda *_: die() if it.done == 6 else None)
    else:
        write = snapshots._write

        def half(path, tensors, *more):
            write(path, tensors, *more)
            if it.done == 6 and path.name == "optimizers.safetensors":
                path.write_bytes(path.read_bytes()[:1000])
                die()

        snapshots._write = half
    run(it)


if __name__ == "__main__":
    main(*sys.argv[1:])
