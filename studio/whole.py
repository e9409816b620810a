"""Loop: whole clips by a bidirectional network, every frame denoised together with all others, under guidance.

Shared by what shows such clips and what reads them. There is no cache and no switch.

Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314), text to video; classifier-free guidance (arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.sampler import NoiseSource
from studio.shapes import VideoShape
from studio.solvers import FlowSolver, solve

__all__ = ["check_guidance", "whole_clips"]


def check_guidance(guidance: float) -> float:
    """Refuse a weight of guidance that is negative or not finite.

    Args:
        guidance: Weight of the prompt against the negative one.

    Returns:
        The weight.

    Raises:
        ValueError: If it makes no sense.
    """
    if not 0 <= guidance < float("inf"):
        raise ValueError(f"`guidance` must be finite and at least 0, got {guidance}; use 5.0, or 1 for none")
    return guidance


@torch.no_grad()
def whole_clips(
    models: Any,
    prompts: Sequence[str],
    *,
    frames: int,
    solver: FlowSolver,
    negative: str = "",
    guidance: float = 5.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[Tensor]:
    """Generate clips side by side and decode them part by part, so that length costs no memory.

    Args:
        models: The networks, `dit` a bidirectional one.
        prompts: B prompts.
        frames: Latent frames of each clip, at least 1.
        solver: The walk from noise to clip.
        negative: What not to see, the other side of guidance.
        guidance: g in negative + g * (prompt - negative); 1 is none and costs half. Trainings say g - 1.
        seed: Seed of the noise.
        progress: Told the network calls done and their number after each.

    Yields:
        `[B, T, 3, H, W]` in about [-1, 1]: the first frames, then the next.

    Raises:
        ValueError: If the model goes block by block, or the guidance makes no sense.
    """
    if models.config.causal:
        raise ValueError(f"`{models.config.name}` goes block by block and can be steered; use studio.open")
    check_guidance(guidance)
    shape, parameter = VideoShape.of(models.config), next(models.vae.parameters())
    sides = [prompts] if guidance == 1 else [prompts, [negative] * len(prompts)]
    # One condition a side, so that both run one after the other: a clip is large and memory is not.
    conditions = [models.dit.condition(models.text.encode(list(texts))) for texts in sides]

    def flow(x: Tensor, timestep: Tensor) -> Tensor:
        times = timestep[:, None].expand(x.shape[:2])
        flows = [models.dit(x, times, condition).float() for condition in conditions]
        progress(solver.done + 1, solver.steps)
        return flows[0] if len(flows) == 1 else flows[1] + guidance * (flows[0] - flows[1])

    device = next(models.dit.parameters()).device
    latents = solve(solver, flow, NoiseSource(seed, shape.latents(len(prompts), frames), device=device)(0, 0))
    stream = models.vae.stream()
    for part in latents.split(shape.block, dim=1):
        yield models.vae.decode(part.to(parameter), stream).float()
