"""Distils the teacher into the causal few-step student by regression on the teacher's own trajectories.

The teacher solves the probability-flow ODE of every block of a clip at once, against clean frames that are rendered
ones or, from the second round on, the student's own rollouts. The student learns to jump from the states at its few
timesteps to the end of the trajectory, under the attention rules of the cache.

Its teacher is the causal one of `studio.train.teacher`, so that trajectories go on from the student's own past and
through switches, and first blocks are learnt apart. `initialise` takes a bidirectional teacher of any size, whose
trajectories are of whole clips and know no past but their own.

Source: ODE initialisation as in CausVid (arXiv:2412.07772) and Self-Forcing (arXiv:2506.08009).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.model.attention import Context
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.schedule import FlowSchedule, shift_sigma
from studio.shapes import VideoShape
from studio.train import runtime
from studio.train.averages import WeightAverage
from studio.train.byclock import ClockConfig, ClockTrainer, counted, load_networks, save_networks
from studio.train.latents import ClipKind, LatentBatch
from studio.train.recipe import check_whole
from studio.train.runtime import sent

__all__ = ["StudentTrainConfig", "train_student"]


@dataclass(frozen=True, kw_only=True)
class StudentTrainConfig(ClockConfig):
    """Distillation of the student; see `ClockConfig` for all other fields.

    Args:
        teacher: Folder with the teacher.
        resume: Folder with a student to go on from, or `None` to begin with the teacher's weights.
        rounds: Rounds of collecting trajectories and learning them.
        collect: Share of each round's time spent on collecting.
        own: Share of trajectories against the student's own rollouts, from the second round on, or at once on `resume`.
        collect_batch: Clips solved together.
        collect_openings: Openings solved together.
        trajectories: Clips whose trajectories are kept.
        opening_trajectories: Openings whose trajectories are kept.
        solver_steps: Euler steps of a trajectory; a multiple of the student's spacing.
        guidance: Classifier-free guidance of the teacher: 1 is none.
        own_noise: Largest noise level of the student's own frames.

    Raises:
        ValueError: If a share or number is out of range.
    """

    teacher: str
    seconds: float = 420.0
    resume: str | None = None
    rounds: int = 3
    collect: float = 0.4
    own: float = 0.6
    collect_batch: int = 128
    collect_openings: int = 768
    trajectories: int = 16384
    opening_trajectories: int = 65536
    solver_steps: int = 20
    guidance: float = 2.5
    own_noise: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.collect < 1 or not 0 <= self.own <= 1:
            raise ValueError(f"`collect` must lie in (0, 1) and `own` in [0, 1], got {self.collect} and {self.own}")
        for name in ("rounds", "solver_steps"):
            check_whole(self, name, 1)


def train_student(config: StudentTrainConfig, report: runtime.Report = runtime.silent) -> dict[str, Any]:
    """Distil a student and write its networks and `student.json` to the folder.

    Args:
        config: Sizes and budget.
        report: Takes a line of progress now and then.

    Returns:
        The metrics, as in `student.json`.
    """
    trainer = _Trainer(config, report)
    trainer.run()
    return trainer.finish()


class _Trajectories:
    """A ring of trajectories: the clean frames, the states at the student's timesteps, the end, and the prompt.

    Args:
        room: Trajectories kept.
        states: States of each.
        size: Shape of a state.
        text: Shape of a prompt's embeddings.
        device: Where they are kept.
        clean: Whether there are clean frames; openings have none.
    """

    def __init__(
        self,
        room: int,
        states: int,
        size: tuple[int, ...],
        text: tuple[int, ...],
        device: torch.device,
        *,
        clean: bool = True,
    ) -> None:
        kind = torch.float16 if device.type == "cuda" else torch.float32
        self.clean = torch.zeros(room if clean else 0, *size, dtype=kind, device=device)
        self.states = torch.zeros(states, room, *size, dtype=kind, device=device)
        self.end = torch.zeros(room, *size, dtype=kind, device=device)
        self.text = torch.zeros(room, *text, dtype=kind, device=device)
        self.rows: dict[ClipKind, list[int]] = {}
        self.room, self.written = room, 0

    def add(self, kind: ClipKind, clean: Tensor | None, states: Tensor, end: Tensor, text: Tensor) -> None:
        count = len(end)
        start = self.written % self.room
        if start + count > self.room:
            self.written += self.room - start
            start = 0
        span = slice(start, start + count)
        taken = set(range(start, start + count))
        for other in self.rows:
            self.rows[other] = [row for row in self.rows[other] if row not in taken]
        self.states[:, span], self.end[span], self.text[span] = states, end, text
        if clean is not None:
            self.clean[span] = clean
        self.rows.setdefault(kind, []).extend(range(start, start + count))
        self.written += count

    def draw(self, kind: ClipKind, count: int) -> Tensor:
        """Rows of a kind, on the device."""
        rows = self.rows[kind]
        return sent(torch.tensor([rows[i] for i in torch.randint(len(rows), (count,)).tolist()]), self.end.device)

    def kinds(self) -> list[ClipKind]:
        return [kind for kind, rows in self.rows.items() if rows]


class _Trainer(ClockTrainer):
    config: StudentTrainConfig

    def __init__(self, config: StudentTrainConfig, report: runtime.Report) -> None:
        super().__init__(config, report)
        self.sampler = self.model.sampler
        self.teacher, self.text = load_networks(config.teacher, self.model, self.device)
        self.teacher.eval().requires_grad_(False)
        self.text.eval().requires_grad_(False)
        self.student, _ = load_networks(config.resume or config.teacher, self.model, self.device)
        self.average = WeightAverage(self.student, config.decay, early=True)
        self.averaged = self.average.twin(self.student)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=config.rate, betas=(0.9, 0.98), weight_decay=0.0,
            fused=self.device.type == "cuda",
        )  # fmt: skip
        self.schedule = FlowSchedule(shift=self.sampler.shift).to(self.device)
        self.timesteps = self.schedule.warp(self.sampler.steps).to(self.device)
        self.grid = self._grid()
        self.pool = self.world(openings=config.opening_pool if config.opening_every else 0, seed=7)
        size = VideoShape.of(self.model).latents(1, config.frames)[1:]
        text = (self.model.text.text_len, self.model.text.dim)
        self.store = _Trajectories(config.trajectories, len(self.timesteps), size, text, self.device)
        size = VideoShape.of(self.model).latents(1, self.block)[1:]
        room = config.opening_trajectories if config.opening_every else 0
        self.opening_store = _Trajectories(room, len(self.timesteps), size, text, self.device, clean=False)
        self.solve, self.solve_openings = self.fast(self.teacher)
        self.forward, self.forward_openings = self.fast(self.student)
        self.blank = self.text.encode([""])
        self.steps, self.collected = 0, 0

    def _grid(self) -> Tensor:
        """Noise levels of a trajectory, in which every one of the student's occurs."""
        line = torch.linspace(1, 0, self.config.solver_steps + 1)
        grid = shift_sigma(line, self.sampler.shift)
        for timestep in self.timesteps.cpu() / 1000:
            if (grid - timestep).abs().min() > 1e-3:
                raise ValueError(
                    f"`solver_steps` {self.config.solver_steps} does not meet the student's steps "
                    f"{self.sampler.steps}; use a multiple of 4"
                )
        return grid.to(self.device)

    def run(self) -> None:
        config = self.config
        self.begin()
        for index in range(config.rounds):
            # The first round also pays for compiling, the last is the longest: later trajectories are the better ones.
            share = [(i + 2) for i in range(config.rounds)]
            end = sum(share[: index + 1]) / sum(share)
            begin = sum(share[:index]) / sum(share)
            own = config.own if index or config.resume else 0.0
            self._collect(begin + (end - begin) * config.collect, own=own)
            self._learn(end)
            self._save()

    def finish(self) -> dict[str, Any]:
        self._save()
        return self.close(
            "student", self.solve, steps=self.steps, trajectories=self.collected * self.ranks.world
        )  # fmt: skip

    def _save(self) -> None:
        if self.ranks.main:
            save_networks(self.out, self.model, self.averaged, self.text)

    # -- collecting -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, until: float, own: float) -> None:
        assert self.budget is not None
        first, began = self.collected, self.budget.elapsed
        while self.collected == first or self.budget.progress < until:
            self.pool.refill()
            batch = self.pool.batch(self.config.collect_batch)
            text = self.text.encode(batch.captions)
            if torch.rand(()).item() < own:
                clean, noise = self._roll_out(batch, text), self.config.own_noise
            else:
                clean, noise = batch.latents, self.config.context_noise
            smudge = torch.rand(len(clean), 1, 1, 1, 1, device=self.device) * noise
            clean = (1 - smudge) * clean + smudge * torch.randn_like(clean)
            states, end = self._trajectory(clean, text, batch.kind)
            self.store.add(batch.kind, clean, states, end, text)
            self.collected += len(clean)
            if self.config.opening_every:
                self._collect_openings()
        seconds = self.budget.elapsed - began
        self.report(f"collected {self.collected - first} clips' trajectories in {seconds:.0f}s, own {own}, "
                    f"{self.solve.mode} {self.solve.error}")  # fmt: skip

    def _collect_openings(self) -> None:
        batch = self.pool.opening(self.config.collect_openings)
        text = self.text.encode(batch.captions)
        texts = torch.cat([text, self.blank.expand_as(text)])
        states, end = self._solve(torch.randn_like(batch.latents), texts, None)
        self.opening_store.add(batch.kind, None, states, end, text)

    def _trajectory(self, clean: Tensor, text: Tensor, kind: ClipKind) -> tuple[Tensor, Tensor]:
        """States `[S, B, F, C, H, W]` at the student's timesteps and the end of the guided trajectory."""
        context = self.contexts.of(kind)
        frames = clean.shape[1]
        x = torch.randn_like(clean)
        # Guidance runs both prompts in one batch; the clean frames are passed once and then remembered.
        texts = torch.cat([text, self.blank.expand_as(text)])
        context.remember()
        zeros = clean.new_zeros(2 * len(clean), 2 * frames)
        with runtime.autocast(self.device):
            self.teacher(torch.cat([clean, x], dim=1).repeat(2, 1, 1, 1, 1), zeros, texts, context=context)
        noisy = context.noisy_only()
        context.memory = None
        return self._solve(x, texts, noisy)

    def _solve(self, x: Tensor, texts: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
        """Follow the guided flow from noise `[B, F, C, H, W]` under texts of the prompts and then of none."""
        solve = self.solve_openings if context is None else self.solve
        states: list[Tensor] = []
        for sigma, following in zip(self.grid, self.grid[1:], strict=False):
            if (self.timesteps / 1000 - sigma).abs().min() < 1e-3:
                states.append(x)
            timestep = (1000 * sigma).expand(2 * len(x), x.shape[1])
            with runtime.autocast(self.device):
                flow = solve(x.repeat(2, 1, 1, 1, 1), timestep, texts, context=context).float()
            prompted, blank = flow.chunk(2)
            x = x + (following - sigma) * (blank + self.config.guidance * (prompted - blank))
        return torch.stack(states), x

    def _roll_out(self, batch: LatentBatch, text: Tensor) -> Tensor:
        """The student's own clip under the batch's prompts, by the rollout that plays it."""
        cache = make_cache(self.model, batch=len(batch.latents), device=self.device)
        shape = VideoShape.of(self.model).latents(len(batch.latents), self.block)
        noise = NoiseSource(int(torch.randint(2**31, ())), shape, device=self.device)
        old = self.text.encode(batch.before)

        def plan() -> Iterator[BlockPlan]:
            for first in range(0, self.config.frames, self.block):
                switch = batch.kind.switch
                policy = "recache" if switch == first else None
                yield BlockPlan(text=old if switch is not None and first < switch else text, policy=policy)

        with runtime.autocast(self.device):
            blocks = rollout(self.averaged, cache, plan(), noise, self.sampler, schedule=self.schedule, timed=False)
            return torch.cat([block.latents.float() for block in blocks], dim=1)

    # -- learning -------------------------------------------------------------------------------------------------

    def _learn(self, until: float) -> None:
        assert self.budget is not None
        recent: list[Tensor] = []
        first = self.steps
        while self.budget.shared_progress() < until or self.steps == first:
            self.steps += 1
            rate = runtime.cosine(self.budget.agreed, self.steps, self.config.rate)
            runtime.set_rate(self.optimizer, rate)
            recent.append(self._step())
            if self.steps % 100 == 0 or self.steps in (1, 5):
                loss = torch.stack(recent).mean().item()
                recent = []
                self.history.append({"step": self.steps, "seconds": round(self.budget.elapsed, 1), "loss": loss})
                self.report(f"step {self.steps} {self.budget.elapsed:.0f}s loss {loss:.4f} {self.forward.mode} "
                            f"{self.forward.error}")  # fmt: skip

    def _step(self) -> Tensor:
        config = self.config
        opening = bool(config.opening_every) and self.steps % config.opening_every == 0
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._opening_loss() if opening else self._clip_loss()
        loss.backward()
        self.ranks.average(self.student.parameters())
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.student)
        return loss.detach()

    def _clip_loss(self) -> Tensor:
        store, config = self.store, self.config
        kinds = store.kinds()
        weights = torch.tensor([float(len(store.rows[kind])) for kind in kinds])
        kind = kinds[int(torch.multinomial(weights, 1))]
        rows = store.draw(kind, config.batch)
        clean, text = store.clean[rows].float(), store.text[rows].float()
        frames = clean.shape[1]
        x, target, sigma = self._jump(store, rows)
        both = torch.cat([clean, x], dim=1)
        timestep = torch.cat([torch.zeros_like(sigma), 1000 * sigma], dim=1)
        with runtime.autocast(self.device):
            flow = self.forward(both, timestep, text, context=self.contexts.of(kind))[:, frames:]
        return ((flow.float() - target).square() * counted(kind, frames, self.device)).mean()

    def _opening_loss(self) -> Tensor:
        store = self.opening_store
        rows = store.draw(store.kinds()[0], self.config.openings)
        x, target, sigma = self._jump(store, rows)
        with runtime.autocast(self.device):
            flow = self.forward_openings(x, 1000 * sigma, store.text[rows].float())
        return (flow.float() - target).square().mean()

    def _jump(self, store: _Trajectories, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States at random steps, one a block, the flow that leads from each to its end, and the noise levels."""
        states, end = store.states[:, rows].float(), store.end[rows].float()
        frames = end.shape[1]
        step = torch.randint(len(self.timesteps), (len(rows), frames // self.block), device=self.device)
        step = step.repeat_interleave(self.block, 1)
        x = torch.gather(states, 0, step[None, :, :, None, None, None].expand(1, *states.shape[1:]))[0]
        sigma = self.timesteps[step] / 1000
        return x, (x - end) / sigma[..., None, None, None], sigma
