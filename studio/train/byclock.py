"""What the miniature's causal teacher and its student share: time as budget, latents of its world, their folders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.config import ModelConfig, VAEConfig, from_dict, preset, to_dict
from studio.model.attention import TeacherForcedContext
from studio.model.dit import WanDiT
from studio.model.shards import read_shards, write_shards
from studio.model.text import TextEncoder, WordTokenizer
from studio.model.vae import VideoVAE, set_convolutions
from studio.model.weights import read
from studio.shapes import VideoShape
from studio.train import runtime
from studio.train.latents import ClipKind, LatentPool, default_kinds
from studio.train.ranks import Ranks
from studio.train.recipe import check_shares, check_whole
from studio.world import vocabulary

__all__ = [
    "ClockConfig",
    "ClockTrainer",
    "ContextTable",
    "counted",
    "load_networks",
    "load_vae",
    "save_networks",
    "sized",
]


def load_vae(folder: Path | str, device: torch.device) -> VideoVAE:
    """The VAE of a training folder, frozen, on the device."""
    sizes, state = read(Path(folder) / "vae.safetensors", kind="vae")
    vae = VideoVAE(from_dict(VAEConfig, dict(sizes)))
    vae.load_state_dict({key: value.float() for key, value in state.items()})
    if device.type == "cuda":
        set_convolutions(vae, "volume")
    return vae.to(device).eval().requires_grad_(False)


def sized(config: ModelConfig, vae: VAEConfig) -> ModelConfig:
    """The model with its VAE's measured statistics and with the vocabulary's size."""
    text = dataclasses.replace(config.text, vocab=WordTokenizer(vocabulary()).size)
    return dataclasses.replace(config, vae=vae, text=text)


def save_networks(folder: Path | str, config: ModelConfig, dit: nn.Module, text: TextEncoder) -> None:
    """Write transformer and text encoder in half precision, with the configuration and the tokenizer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, "dit", runtime.halves(dit.state_dict()), metadata={"kind": "dit"})
    write_shards(folder, "text", runtime.halves(text.state_dict()), metadata={"kind": "text"})
    runtime.write_json(folder / "config.json", to_dict(config))
    if isinstance(text.tokenizer, WordTokenizer):
        text.tokenizer.save(folder / "tokenizer.json")


def load_networks(folder: Path | str, config: ModelConfig, device: torch.device) -> tuple[WanDiT, TextEncoder]:
    """Read what `save_networks` wrote, in float32."""
    folder = Path(folder)
    dit = WanDiT(config.dit)
    dit.load_state_dict({key: value.float() for key, value in read_shards(folder, "dit").items()})
    text = TextEncoder(config.text, WordTokenizer.load(folder / "tokenizer.json"))
    text.load_state_dict({key: value.float() for key, value in read_shards(folder, "text").items()})
    return dit.to(device), text.to(device)


class ContextTable:
    """Teacher-forced contexts by kind of clip, each made once."""

    def __init__(self, config: ModelConfig, frames: int, device: torch.device) -> None:
        shape = VideoShape.of(config)
        self._make = lambda switch: TeacherForcedContext(
            config.cache,
            frames=frames,
            block=config.sampler.block,
            grid=shape.grid,
            head_dim=config.dit.head_dim,
            recached=switch,
            device=device,
        )
        self._made: dict[int | None, TeacherForcedContext] = {}

    def of(self, kind: ClipKind) -> TeacherForcedContext:
        """The context of a kind."""
        if kind.switch not in self._made:
            self._made[kind.switch] = self._make(kind.switch)
        return self._made[kind.switch]


def counted(kind: ClipKind, frames: int, device: torch.device) -> Tensor:
    """`[1, F, 1, 1, 1]` weights of mean 1 over the latent frames whose loss counts: those after the switch."""
    weight = torch.ones(frames, device=device)
    if kind.switch is not None:
        weight[: kind.switch] = 0
    return (weight * frames / weight.sum()).view(1, -1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ClockConfig:
    """What both trainings by the clock are told.

    Args:
        out: Folder of the results.
        vae: Folder with `vae.safetensors`.
        seconds: Wall-clock budget of the training itself.
        model: Preset that is trained.
        batch: Clips a step and process.
        openings: Openings a step on openings and process.
        opening_every: One step in so many is on openings; 0 for none.
        frames: Latent frames of a clip.
        pool: Rendered clips kept.
        opening_pool: Rendered openings kept.
        fill: Clips rendered before the first step.
        chunk: Clips rendered together.
        rate: Peak learning rate.
        decay: Of the averaged weights.
        context_noise: Largest noise level of rendered clean frames, so that a rollout's own flaws are met in training.
        seed: Seed of everything.
        device: Where it runs; `None`: the GPU if there is one.
        fast: Compile on a GPU.
        kernels: How networks are compiled for clips: a key of `runtime.KERNELS`.
        opening_kernels: The same for openings.

    Raises:
        ValueError: If a share or number is out of range.
    """

    out: str
    vae: str
    seconds: float
    model: str = "miniature"
    batch: int = 48
    openings: int = 384
    opening_every: int = 3
    frames: int = 21
    pool: int = 4096
    opening_pool: int = 65536
    fill: int = 2048
    chunk: int = 32
    rate: float = 3e-4
    decay: float = 0.998
    context_noise: float = 0.1
    seed: int = 0
    device: str | None = None
    fast: bool = True
    kernels: str = "fused"
    opening_kernels: str = "looped"

    def __post_init__(self) -> None:
        runtime.check_kernels(self)
        for name in ("batch", "openings", "frames", "pool", "opening_pool", "fill", "chunk"):
            check_whole(self, name, 1)
        check_shares(self, "context_noise")


class ClockTrainer:
    """A training of the miniature's transformer by wall-clock time, in one process or several.

    Args:
        config: The training.
        report: Takes a line of progress now and then, of the first process.

    Attributes:
        forward: The network that learns, for clips; a subclass makes it by `fast`.
        forward_openings: The same for openings.
        pool: Clips of the world, which a subclass makes by `world`.
        history: One row for each line of progress.
        budget: The time, once it has begun to run.
    """

    config: ClockConfig
    forward: runtime.Compiled
    forward_openings: runtime.Compiled
    pool: LatentPool

    def __init__(self, config: ClockConfig, report: runtime.Report) -> None:
        self.config, self.out = config, Path(config.out)
        self.ranks = Ranks(config.device)
        self.report = report if self.ranks.main else runtime.silent
        self.device = self.ranks.device
        torch.manual_seed(self.ranks.seed(config.seed))
        torch.set_float32_matmul_precision("high")
        self.vae = load_vae(config.vae, self.device)
        self.model = sized(preset(config.model), self.vae.config)
        self.block = self.model.sampler.block
        self.contexts = ContextTable(self.model, config.frames, self.device)
        self.history: list[dict[str, float]] = []
        self.budget: runtime.Budget | None = None

    def fast(self, network: nn.Module) -> tuple[runtime.Compiled, runtime.Compiled]:
        """A network for clips and for openings, each compiled as the configuration wants it."""
        config = self.config
        return (
            runtime.compiled(network, self.device, config.fast, config.kernels),
            runtime.compiled(network, self.device, config.fast, config.opening_kernels),
        )

    def world(self, openings: int, seed: int) -> LatentPool:
        """The pool of latents, of clips with and without a switch.

        Args:
            openings: Openings kept; 0 for none.
            seed: Seed of what is drawn, before each process makes it its own.
        """
        config = self.config
        capacity = min(self.model.cache.capacity or config.frames, config.frames - self.block)
        return LatentPool(
            self.model, self.vae, frames=config.frames, kinds=default_kinds(capacity, self.block),
            capacity=config.pool, seed=self.ranks.seed(config.seed) + seed, openings=openings, chunk=config.chunk,
            fast=config.fast,
        )  # fmt: skip

    def begin(self, steps: int | None = None) -> runtime.Budget:
        """Fill the pool, and let the time run.

        Args:
            steps: Most steps, `None` for no limit.
        """
        while self.pool.rendered < self.config.fill:
            self.pool.refill()
        self.report(f"pool of {self.pool.rendered} clips")
        self.budget = runtime.Budget(self.config.seconds, steps, self.ranks.agree)
        return self.budget

    def close(self, name: str, compiled: runtime.Compiled, **found: Any) -> dict[str, Any]:
        """Write what came of it as `NAME.json`, and leave the other processes.

        Args:
            name: Of the file.
            compiled: What may have fallen back besides `forward`.
            found: What the training has to say itself.

        Returns:
            The metrics.
        """
        metrics = {
            "recipe": runtime.recipe(self.config),
            **found,
            "seconds": round(self.budget.elapsed, 1) if self.budget else 0.0,
            "processes": self.ranks.world,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "mode": self.forward.mode,
            "error": self.forward.error or compiled.error,
            "history": self.history,
        }
        if self.ranks.main:
            runtime.write_json(self.out / f"{name}.json", metrics)
        self.ranks.leave()
        return metrics
