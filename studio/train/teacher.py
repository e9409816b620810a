"""Trains the miniature's many-step causal teacher together with its text encoder.

The network learns the flow of each block under the clean blocks that the cache would show it, all blocks of a clip in
one teacher-forced pass; clips with a switch teach it to follow a new prompt from a recached past. What a prompt looks
like is learnt from openings, first blocks that see nothing but their prompt: they come first, and they cost little.

It makes a first model out of nothing, text encoder and all, by the clock and without steps to resume from; with its
student it made the weights that ship. `pretrain` and `initialise` begin with a whole model instead, leave its text
encoder alone and have a teacher that sees all of a clip, as distribution matching wants one.

Source: flow matching (arXiv:2210.02747) with teacher forcing as in CausVid (arXiv:2412.07772).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.model.dit import WanDiT
from studio.model.text import TextEncoder, WordTokenizer
from studio.schedule import shift_sigma
from studio.train import runtime
from studio.train.averages import WeightAverage
from studio.train.byclock import ClockConfig, ClockTrainer, counted, load_networks, save_networks
from studio.train.latents import LatentBatch
from studio.train.recipe import check_shares, check_whole
from studio.world import vocabulary

__all__ = ["TeacherTrainConfig", "train_teacher"]


@dataclass(frozen=True, kw_only=True)
class TeacherTrainConfig(ClockConfig):
    """Training of the teacher; see `ClockConfig` for all other fields.

    Args:
        resume: Folder with a teacher to go on from, or `None`.
        steps: Most steps, or `None`.
        opening_phase: Share of the budget spent on openings alone, before any clip.
        refill_every: Steps between two renderings.
        floor: Last learning rate, as a share of the peak; high where another leg follows.
        drop: Share of prompts left out, for guidance.
        forget: Share of a prompt's words made unknown.
        shift: Of the noise levels drawn in training.
        save_every: Seconds between checkpoints.

    Raises:
        ValueError: If a share or number is out of range.
    """

    seconds: float = 480.0
    pool: int = 12288
    opening_pool: int = 131072
    fill: int = 1024
    rate: float = 8e-4
    decay: float = 0.999
    context_noise: float = 0.15
    resume: str | None = None
    steps: int | None = None
    opening_phase: float = 0.25
    refill_every: int = 40
    floor: float = 0.01
    drop: float = 0.1
    forget: float = 0.02
    shift: float = 3.0
    save_every: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "refill_every", 1)
        check_shares(self, "drop", "forget", "opening_phase")


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


class _Trainer(ClockTrainer):
    config: TeacherTrainConfig

    def __init__(self, config: TeacherTrainConfig, report: runtime.Report) -> None:
        super().__init__(config, report)
        if config.resume:
            self.dit, self.text = load_networks(config.resume, self.model, self.device)
        else:
            self.dit = WanDiT(self.model.dit).to(self.device)
            self.dit.init_weights()
            self.text = TextEncoder(self.model.text, WordTokenizer(vocabulary())).to(self.device)
        self.averages = []
        for network in (self.dit, self.text):
            self.ranks.share(network)
            self.averages.append(WeightAverage(network, config.decay, early=True))
        self.parameters = [*self.dit.parameters(), *self.text.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=self.device.type == "cuda"
        )
        self.pool = self.world(openings=config.opening_pool, seed=0)
        self.forward, self.forward_openings = self.fast(self.dit)

    def run(self) -> None:
        config, budget = self.config, self.begin(self.config.steps)
        saved, recent = 0.0, ([], [])
        for step in budget:
            rate = runtime.cosine(budget.agreed, step, config.rate, warmup=200, floor=config.floor)
            runtime.set_rate(self.optimizer, rate)
            opening = self._opens(step)
            if step % config.refill_every == 0:
                self.pool.refill(plain=budget.agreed < config.opening_phase)
            recent[opening].append(self._step(opening))
            if step % 100 == 0 or step in (1, 5, 20):
                self._log(step, *recent)
                recent = ([], [])
            if budget.elapsed - saved > config.save_every:
                saved = budget.elapsed
                self._save()

    def finish(self) -> dict[str, Any]:
        self._save()
        return self.close(
            "teacher", self.forward_openings, steps=self.budget.step if self.budget else 0,
            clips_rendered=self.pool.rendered * self.ranks.world,
        )  # fmt: skip

    def _save(self) -> None:
        if self.ranks.main:
            dit, text = self.averages
            save_networks(self.out, self.model, dit.twin(self.dit), text.twin(self.text))

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
        for average, network in zip(self.averages, (self.dit, self.text), strict=True):
            average.update(network)
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
        told = " ".join(f"{name} {value}" for name, value in line.items())
        used = self.forward if clips else self.forward_openings
        self.report(f"{told} clips {self.pool.rendered} {memory:.1f} GiB {used.mode} {used.error}")
