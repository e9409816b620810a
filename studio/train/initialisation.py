"""Causal initialisation: a block-causal few-step student learns where its bidirectional teacher's trajectories end.

The teacher walks the guided probability-flow ODE of whole clips. The student sees a clip's clean frames as its cache
would show them and, for each block, the trajectory's state at one of its own few noise levels; it learns to jump from
there to the trajectory's end.

Source: ODE initialisation of CausVid (Yin et al., 2024, arXiv:2412.07772) and Self-Forcing (arXiv:2506.08009).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.config import CacheConfig, ModelConfig
from studio.model.attention import TeacherForcedContext
from studio.schedule import FlowSchedule
from studio.solvers import SOLVERS, Flow, FlowSolver
from studio.train import draws, runtime
from studio.train.dmd import guided
from studio.train.networks import TaughtNetworks, open_generator, open_teacher
from studio.train.prompts import GivenPrompts
from studio.train.recipe import TrainConfig, check_number, check_whole
from studio.train.recompute import recomputed
from studio.train.trainer import LossTrainer
from studio.train.training import Training

__all__ = ["INITIALISE_PRESETS", "Initialisation", "InitialiseConfig", "initialise", "initialise_preset", "trajectory"]


@dataclass(frozen=True, kw_only=True)
class InitialiseConfig(TrainConfig):
    """Causal initialisation; see `TrainConfig` for all other fields.

    Args:
        teacher: Name or folder of the frozen bidirectional model.
        guidance: Scale of the teacher's guidance, prompted + scale * (prompted - negative).
        solver: How the teacher walks: "unipc" or "euler".
        solver_steps: Network calls of a trajectory.
        solver_shift: Flow shift of the trajectory's noise levels; `None`: the student's.
        reuse: Updates that each batch of trajectories serves, with other noise levels drawn for each.

    Raises:
        ValueError: If a value is out of range.
    """

    teacher: str
    steps: int = 6000
    beta1: float = 0.0
    average: float | None = None
    guidance: float = 5.0
    solver: str = "unipc"
    solver_steps: int = 50
    solver_shift: float | None = None
    reuse: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "solver_steps", 1)
        check_whole(self, "reuse", 1)
        check_number(self, "guidance", above=False)
        if self.solver_shift is not None:
            check_number(self, "solver_shift", above=True)
        if self.solver not in SOLVERS:
            raise ValueError(f"`solver` must be one of {', '.join(SOLVERS)}, got {self.solver!r}")

    @property
    def frames_in_pass(self) -> int:
        """Latent frames of one pass: the clean ones and the noisy ones."""
        return 2 * self.frames


# What differs from the defaults; the miniature's preset is for one GPU or more.
INITIALISE_PRESETS: dict[str, dict[str, Any]] = {
    "miniature": {
        "generator": "miniature",
        "steps": 2000,
        "batch": 48,
        "generator_rate": 2e-4,
        "warmup": 100,
        "floor": 0.05,
        "precision": "bf16",
        "compile": True,
        "draw": "process",
        "save_every": 1000,
        "export": True,
        "beta1": 0.9,
        "average": 0.998,
        "average_from": 100,
        "guidance": 1.5,
        "solver": "euler",
        "solver_steps": 20,
        "recompute": False,
    },
    "pocket": {
        "generator": "pocket",
        "steps": 100,
        "batch": 8,
        "frames": 9,
        "generator_rate": 5e-4,
        "beta1": 0.9,
        "average": 0.95,
        "average_from": 10,
        "guidance": 0.5,
        "solver": "euler",
        "solver_steps": 12,
        "recompute": False,
    },
    "wan2.1-t2v-1.3b": {
        "generator": "longlive-1.3b",
        "teacher": "wan2.1-t2v-1.3b",
        "precision": "bf16",
    },
}


@torch.no_grad()
def trajectory(solver: FlowSolver, flow: Flow, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Walk a trajectory and look at it on the way.

    Args:
        solver: The solver; it is reset first.
        flow: Takes latents `[B, ...]` and timesteps `[B]`, gives the flow `[B, ...]`.
        noise: Standard normal latents `[B, ...]`, where the trajectory begins.
        sigmas: `[S]` noise levels above 0 that are looked at; between two of the solver's the trajectory is taken as
            straight, above the first one the noise is the state.

    Returns:
        The states `[S, B, ...]` and the end `[B, ...]`.
    """
    solver.reset()
    x, levels, states = noise, sigmas.tolist(), {}
    for index, timestep in enumerate(solver.timesteps.to(noise.device)):
        following = solver.step(flow(x, timestep.expand(len(x))), x)
        high, low = solver.sigmas[index].item(), solver.sigmas[index + 1].item()
        for place, sigma in enumerate(levels):
            if place not in states and sigma > low:
                states[place] = torch.lerp(x, following, max(0.0, (high - sigma) / (high - low)))
        x = following
    return torch.stack([states[place] for place in range(len(levels))]), x


class Initialisation(LossTrainer):
    """The trainer of the causal initialisation; see `Trainer`."""

    config: InitialiseConfig
    networks: TaughtNetworks

    def __init__(self, config: InitialiseConfig, networks: TaughtNetworks, prompts: GivenPrompts | None = None) -> None:
        super().__init__(config, networks, prompts)
        model = networks.config
        self.schedule = FlowSchedule(shift=model.sampler.shift).to(self.device)
        self.timesteps = self.schedule.warp(model.sampler.steps).to(self.device)
        self.solver = SOLVERS[config.solver](config.solver_steps, shift=config.solver_shift or model.sampler.shift)
        self.context = TeacherForcedContext(
            _windowed(model, config.frames),
            frames=config.frames,
            block=model.sampler.block,
            grid=self.shape.grid,
            head_dim=model.dit.head_dim,
            device=self.device,
        )
        self._student, self._teacher = self.fast(networks.generator), self.fast(networks.teacher)
        self._walked: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def loss(self, micro: int) -> Tensor:
        """Squared distance of the student's jumps from the ends of the trajectories.

        Args:
            micro: Micro-batch of the update.

        Returns:
            A scalar.
        """
        states, end, text = self.walked(self.done // self.config.reuse * self.config.accumulate + micro)
        frames, sampler = end.shape[1], self.networks.config.sampler
        parts = (self.config.seed, "levels", self.done, micro)
        blocks = frames // sampler.block
        drawn = [torch.randint(len(states), (1, blocks), generator=draws.generator(*parts, row)) for row in self.rows]
        level = runtime.sent(torch.cat(drawn), self.device).repeat_interleave(sampler.block, 1)
        x = torch.gather(states, 0, level[None, :, :, None, None, None].expand(1, *end.shape))[0]
        timestep = self.timesteps[level]
        both = torch.cat([end, x], dim=1)
        times = torch.cat([torch.full_like(timestep, sampler.context_timestep), timestep], dim=1)
        with self.autocast(), recomputed(self.networks.generator, self.config.recompute):
            flow = self._student(both, times, text, context=self.context)[:, frames:]
        return (self.schedule.x0_from_flow(flow.float(), x, timestep) - end).square().mean()

    def walked(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """The trajectories of a batch, kept while they are in use; a resumed run walks them again.

        Args:
            index: Which batch of prompts.

        Returns:
            States `[S, B, F, C, H, W]` at the student's noise levels, ends `[B, F, C, H, W]`, and text embeddings.
        """
        if index not in self._walked:
            first = index - index % self.config.accumulate
            self._walked = {kept: found for kept, found in self._walked.items() if kept >= first}
            text, _ = self.encoded(index)
            noise = self.drawn(self.config.frames, "trajectory", index)
            states, end = trajectory(self.solver, self._flow(text), noise, self.timesteps / 1000)
            self._walked[index] = states, end, text
        return self._walked[index]

    def release(self) -> None:
        """See `Trainer.release`."""
        super().release()
        self._walked = {}

    def _flow(self, text: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        scale, blank = self.config.guidance, self.negative.expand_as(text)

        def flow(x: Tensor, timestep: Tensor) -> Tensor:
            times = timestep.float()[:, None].expand(x.shape[:2])
            with self.autocast():
                if scale == 0:
                    return self._teacher(x, times, text).float()
                pair = self._teacher(x.repeat(2, 1, 1, 1, 1), times.repeat(2, 1), torch.cat([text, blank]))
            prompted, unprompted = pair.float().chunk(2)
            return guided(prompted, unprompted, scale)

        return flow


def _windowed(model: ModelConfig, frames: int) -> CacheConfig:
    """The cache's rules with a window, which for one clip say the same."""
    cache = model.cache
    if cache.window is not None:
        return cache
    return dataclasses.replace(cache, window=min(frames, cache.attend or frames), attend=None)


def _open(config: InitialiseConfig) -> TaughtNetworks:
    models = open_generator(config.generator)
    # The teacher's own folder will do: the classes are the same, and what comes out goes block by block.
    models = dataclasses.replace(models, config=dataclasses.replace(models.config, causal=True))
    return TaughtNetworks.of(models, teacher=open_teacher(config))


initialise = Training(
    name="initialise",
    teaches="a causal few-step student where its teacher's trajectories end",
    config=InitialiseConfig,
    trainer=Initialisation,
    opens=_open,
    presets=INITIALISE_PRESETS,
)
initialise_preset = initialise.preset
