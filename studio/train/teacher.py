"""Trains the miniature's many-step causal teacher together with its text encoder.

The network learns the flow of each block under the clean blocks that the cache would show it, all blocks of a clip in
one teacher-forced pass; clips with a switch teach it to follow a new prompt from a recached past. What a prompt looks
like is learnt from openings, first blocks that see nothing but their prompt: they come first, and they cost little.

Source: flow matching (arXiv:2210.02747) with teacher forcing as in CausVid (arXiv:2412.07772).
"""

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
from studio.schedule import shift_sigma
from studio.shapes import VideoShape
from studio.train import runtime
from studio.train.latents import ClipKind, LatentBatch, LatentPool, default_kinds
from studio.train.ranks import Ranks
from studio.world import vocabulary

__all__ = ["TeacherTrainConfig", "load_networks", "load_vae", "save_networks", "train_teacher"]


@dataclass(frozen=True, kw_only=True)
class TeacherTrainConfig:
    """Training of the teacher.

    Args:
        out: Folder of the results.
        vae: Folder with `vae.safetensors`.
        resume: Folder with a teacher to go on from, or `None`.
        seconds: Wall-clock budget of the training itself.
        steps: Most steps, or `None`.
        model: Preset that is trained.
        batch: Clips a step and process.
        openings: Openings a step on openings and process.
        opening_phase: Share of the budget spent on openings alone, before any clip.
        opening_every: After that, one step in so many is on openings; 0 for none.
        frames: Latent frames of a clip.
        pool: Clips kept.
        opening_pool: Openings kept.
        fill: Clips made before the first step.
        refill_every: Steps between two renderings.
        chunk: Clips rendered together.
        rate: Peak learning rate.
        floor: Last learning rate, as a share of the peak; high where another leg follows.
        decay: Of the averaged weights.
        drop: Share of prompts left out, for guidance.
        forget: Share of a prompt's words made unknown.
        shift: Of the noise levels drawn in training.
        context_noise: Largest noise level of the clean frames, so that a rollout's own flaws are met in training.
        seed: Seed of everything.
        device: Where it runs; `None`: the GPU if there is one.
        fast: Compile on a GPU.
        kernels: How the network is compiled for clips: a key of `runtime.KERNELS`.
        opening_kernels: The same for openings.
        save_every: Seconds between checkpoints.

    Raises:
        ValueError: If a share or number is out of range.
    """

    out: str
    vae: str
    resume: str | None = None
    seconds: float = 480.0
    steps: int | None = None
    model: str = "miniature"
    batch: int = 48
    openings: int = 384
    opening_phase: float = 0.25
    opening_every: int = 3
    frames: int = 21
    pool: int = 12288
    opening_pool: int = 131072
    fill: int = 1024
    refill_every: int = 40
    chunk: int = 32
    rate: float = 8e-4
    floor: float = 0.01
    decay: float = 0.999
    drop: float = 0.1
    forget: float = 0.02
    shift: float = 3.0
    context_noise: float = 0.15
    seed: int = 0
    device: str | None = None
    fast: bool = True
    kernels: str = "fused"
    opening_kernels: str = "looped"
    save_every: float = 120.0

    def __post_init__(self) -> None:
        for name in ("drop", "forget", "context_noise", "opening_phase"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}; use 0.1")
        runtime.check_kernels(self)
        for name in ("batch", "openings", "frames", "pool", "opening_pool", "fill", "refill_every", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}; use 1 or more")


def train_teacher(config: TeacherTrainConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Train a teacher and write its networks and `teacher.json` to the folder.

    Args:
        config: Sizes and budget.
        report: Takes a line of progress now and then.

    Returns:
        The metrics, as in `teacher.json`.
    """
    trainer = _Trainer(config, report)
    trainer.run()
    return trainer.finish()


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


class _Trainer:
    def __init__(self, config: TeacherTrainConfig, report: runtime.Report) -> None:
        self.config, self.report, self.out = config, report, Path(config.out)
        self.ranks = Ranks(config.device)
        self.device = self.ranks.device
        seed = self.ranks.seed(config.seed)
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        vae = load_vae(config.vae, self.device)
        self.model = sized(preset(config.model), vae.config)
        if config.resume:
            self.dit, self.text = load_networks(config.resume, self.model, self.device)
        else:
            self.dit = WanDiT(self.model.dit).to(self.device)
            self.dit.init_weights()
            self.text = TextEncoder(self.model.text, WordTokenizer(vocabulary())).to(self.device)
        for network in (self.dit, self.text):
            self.ranks.share(network)
        self.dit_average = runtime.EMA(self.dit, config.decay)
        self.text_average = runtime.EMA(self.text, config.decay)
        self.parameters = [*self.dit.parameters(), *self.text.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=self.device.type == "cuda"
        )
        self.contexts = ContextTable(self.model, config.frames, self.device)
        capacity = self.model.cache.capacity or config.frames
        kinds = default_kinds(min(capacity, config.frames - self.model.sampler.block), self.model.sampler.block)
        self.pool = LatentPool(
            self.model, vae, frames=config.frames, kinds=kinds, capacity=config.pool, seed=seed,
            openings=config.opening_pool, chunk=config.chunk, fast=config.fast,
        )  # fmt: skip
        self.forward = runtime.compiled(self.dit, self.device, config.fast, config.kernels)
        self.forward_openings = runtime.compiled(self.dit, self.device, config.fast, config.opening_kernels)
        self.history: list[dict[str, float]] = []
        self.budget: runtime.Budget | None = None

    def run(self) -> None:
        config = self.config
        while self.pool.rendered < config.fill:
            self.pool.refill()
        self.report(f"pool of {self.pool.rendered} clips")
        self.budget = runtime.Budget(config.seconds, config.steps, self.ranks.agree)
        saved, recent = 0.0, ([], [])
        for step in self.budget:
            rate = runtime.cosine(self.budget.agreed, step, config.rate, warmup=200, floor=config.floor)
            runtime.set_rate(self.optimizer, rate)
            opening = self._opens(step)
            if step % config.refill_every == 0:
                self.pool.refill(plain=self.budget.agreed < config.opening_phase)
            recent[opening].append(self._step(opening))
            if step % 100 == 0 or step in (1, 5, 20):
                self._log(step, *recent)
                recent = ([], [])
            if self.budget.elapsed - saved > config.save_every:
                saved = self.budget.elapsed
                self._save()

    def finish(self) -> dict[str, Any]:
        self._save()
        budget = self.budget
        metrics = {
            "recipe": runtime.recipe(self.config),
            "steps": budget.step if budget else 0,
            "seconds": round(budget.elapsed, 1) if budget else 0.0,
            "clips_rendered": self.pool.rendered * self.ranks.world,
            "processes": self.ranks.world,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "mode": self.forward.mode,
            "error": self.forward.error or self.forward_openings.error,
            "history": self.history,
        }
        if self.ranks.main:
            runtime.write_json(self.out / "teacher.json", metrics)
        self.ranks.leave()
        return metrics

    def _save(self) -> None:
        if self.ranks.main:
            save_networks(self.out, self.model, self.dit_average.network, self.text_average.network)  # type: ignore[arg-type]

    def _opens(self, step: int) -> bool:
        config = self.config
        assert self.budget is not None
        return self.budget.agreed < config.opening_phase or bool(
            config.opening_every and step % config.opening_every == 0
        )

    def _step(self, opening: bool) -> Tensor:
        config = self.config
        batch = self.pool.opening(config.openings) if opening else self.pool.batch(config.batch)
        ids, mask = self._prompts(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._opening_loss(batch, ids, mask) if opening else self._loss(batch, ids, mask)
        loss.backward()
        self.ranks.average(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.dit_average.update(self.dit)
        self.text_average.update(self.text)
        return loss.detach()

    def _prompts(self, batch: LatentBatch) -> tuple[Tensor, Tensor]:
        ids, mask = self.text.tokenizer(batch.captions, self.model.text.text_len)  # type: ignore[misc]
        words = ids > WordTokenizer.UNKNOWN
        ids = torch.where(words & (torch.rand(ids.shape) < self.config.forget), WordTokenizer.UNKNOWN, ids)
        dropped = torch.rand(len(ids), 1) < self.config.drop
        blank_ids, blank_mask = self.text.tokenizer([""], self.model.text.text_len)  # type: ignore[misc]
        ids, mask = torch.where(dropped, blank_ids, ids), torch.where(dropped, blank_mask, mask)
        return runtime.sent(ids, self.device), runtime.sent(mask, self.device)

    def _opening_loss(self, batch: LatentBatch, ids: Tensor, mask: Tensor) -> Tensor:
        x0 = batch.latents
        sigma = shift_sigma(torch.rand(len(x0), 1, device=self.device), self.config.shift).expand(x0.shape[:2])
        noise = torch.randn_like(x0)
        level = sigma[..., None, None, None]
        with runtime.autocast(self.device):
            flow = self.forward_openings((1 - level) * x0 + level * noise, 1000 * sigma, self.text(ids, mask))
        return (flow.float() - (noise - x0)).square().mean()

    def _loss(self, batch: LatentBatch, ids: Tensor, mask: Tensor) -> Tensor:
        x0, block = batch.latents, self.model.sampler.block
        size, frames = x0.shape[:2]
        sigma = shift_sigma(torch.rand(size, frames // block, device=self.device), self.config.shift)
        sigma = sigma.repeat_interleave(block, 1)
        noise = torch.randn_like(x0)
        level = sigma[..., None, None, None]
        noisy = (1 - level) * x0 + level * noise
        smudge = torch.rand(size, 1, 1, 1, 1, device=self.device) * self.config.context_noise
        clean = (1 - smudge) * x0 + smudge * torch.randn_like(x0)
        both = torch.cat([clean, noisy], dim=1)
        timestep = torch.cat([torch.zeros_like(sigma), 1000 * sigma], dim=1)
        with runtime.autocast(self.device):
            text = self.text(ids, mask)
            flow = self.forward(both, timestep, text, context=self.contexts.of(batch.kind))[:, frames:]
        error = (flow.float() - (noise - x0)).square()
        return (error * counted(batch.kind, frames, self.device)).mean()

    def _log(self, step: int, clips: list[Tensor], openings: list[Tensor]) -> None:
        elapsed = self.budget.elapsed if self.budget else 0.0
        line = {"step": step, "seconds": round(elapsed, 1)}
        for name, losses in (("loss", clips), ("opening_loss", openings)):
            if losses:
                line[name] = round(torch.stack(losses).mean().item(), 4)
        self.history.append(line)
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        if self.ranks.main:
            told = " ".join(f"{name} {value}" for name, value in line.items())
            used = self.forward if clips else self.forward_openings
            self.report(f"{told} clips {self.pool.rendered} {memory:.1f} GiB {used.mode} {used.error}")
