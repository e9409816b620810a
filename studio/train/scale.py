"""What streaming long tuning costs at full size: seconds and memory of its updates, with random weights.

`accelerate launch --num_processes N -m studio.train scale --shard --out FOLDER` measures N GPUs. Clips are counted over
all processes, so one process with a batch of N makes the very clips that N processes make, and the losses must agree.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from studio.model.blank import blank_models
from studio.train import runtime
from studio.train.learner import Learner
from studio.train.longtune import LongTuneConfig, LongTuning
from studio.train.memory import check_memory, free_memory
from studio.train.monitor import used_memory
from studio.train.networks import Networks
from studio.train.recipe import check_whole

__all__ = ["ScaleConfig", "measure_scale"]

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """What is measured.

    Args:
        out: Folder of `scale.json`.
        model: Preset of the generator.
        teacher: Preset of the teacher's transformer.
        critic: Preset of the critic's transformer.
        lora: Rank of the adapters, `None` to tune all weights.
        batch: Clips of one process.
        frames: Latent frames of a clip.
        new_frames: New latent frames of each chunk after the first.
        chunks: Chunks that are timed, after a first one that warms up; each takes a generator and a critic update.
        recompute: Whether activations are computed again in the backward pass.
        precision: "bf16" or "no".
        shard: Whether networks are spread over the processes, by FSDP2.
        optimizer: "adamw" or "adamw8bit".
        seed: Seed of everything.
        device: "cpu" to stay off the accelerator; `None`: whatever there is.

    Raises:
        ValueError: If a value is out of range.
    """

    out: str
    model: str = "longlive-1.3b"
    teacher: str = "wan2.1-t2v-1.3b"
    critic: str = "wan2.1-t2v-1.3b"
    lora: int | None = 256
    batch: int = 1
    frames: int = 21
    new_frames: int = 18
    chunks: int = 2
    recompute: bool = True
    precision: str = "bf16"
    shard: bool = False
    optimizer: str = "adamw"
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        check_whole(self, "chunks", 1)
        self.training()

    def training(self) -> LongTuneConfig:
        """The training that is timed: both updates on every chunk, one video, no switch."""
        return LongTuneConfig(
            out=self.out, generator=self.model, teacher=self.teacher, lora=self.lora, batch=self.batch,
            frames=self.frames, new_frames=self.new_frames, max_length=self.frames + self.chunks * self.new_frames,
            switch_frames=(), critic_updates=1, steps=1 + self.chunks, recompute=self.recompute,
            precision=self.precision, shard=self.shard, optimizer=self.optimizer, seed=self.seed, device=self.device,
        )  # fmt: skip


def measure_scale(config: ScaleConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Time updates of streaming long tuning and write `scale.json` to the folder.

    Args:
        config: What is measured.
        report: Takes a line of progress now and then.

    Returns:
        The measurements, as in `scale.json`: seconds of both updates (median), peak GiB of the first process, clips a
        second over all of them, and the losses of every update.

    Raises:
        MemoryError: If it will not fit, with settings that would.
        ValueError: If a preset is unknown.
    """
    trainer = LongTuning(config.training(), _networks(config))
    need = check_memory(trainer.config, trainer.networks, free_memory(trainer.device))
    report(f"will need about {need}")
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    seconds: dict[str, list[float]] = {}
    for role, learner in trainer.learners.items():
        _time(learner, seconds.setdefault(role, []), trainer.device)
    losses = []
    for chunk in range(1 + config.chunks):
        losses.append(trainer.step())
        report(f"chunk {chunk}: {', '.join(f'{role} {times[-1]:.2f} s' for role, times in seconds.items())}")
    medians = {role: median(times[1:]) for role, times in seconds.items()}
    processes = trainer.accelerator.num_processes
    found = {
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "out"},
        "processes": processes,
        "seconds": {role: round(value, 3) for role, value in medians.items()},
        "clips_per_second": round(processes * config.batch / sum(medians.values()), 4),
        "peak_gib": round(used_memory(trainer.device) / _GIB, 2),
        "estimated_gib": round(need.total / _GIB, 2),
        "losses": losses,
        "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    if trainer.accelerator.is_main_process:
        runtime.write_json(Path(config.out) / "scale.json", found)
    trainer.accelerator.wait_for_everyone()
    return found


def _networks(config: ScaleConfig) -> Networks:
    place = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":
        from accelerate import PartialState

        place = torch.device(PartialState().device or place)
    # With adapters no weight learns by itself, so that none needs more bits than the passes use.
    half = config.precision == "bf16" and config.lora is not None
    kind = torch.bfloat16 if half else torch.float32
    models, teacher, critic = (
        blank_models(name, device=place, dtype=kind, seed=config.seed + number)
        for number, name in enumerate((config.model, config.teacher, config.critic))
    )
    return Networks.of(models, teacher=teacher.dit, critic=critic.dit)


def _time(learner: Learner, seconds: list[float], device: torch.device) -> None:
    update: Callable[..., tuple[float, float]] = learner.update

    def timed(*arguments: Any) -> tuple[float, float]:
        began = time.perf_counter()
        found = update(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        return found

    learner.update = timed  # type: ignore[method-assign]
