"""A whole clip at a time, by a bidirectional network: what Wan2.1 itself does, and what a teacher shows.

There is no cache and nothing to steer: every frame is denoised together with all others under one prompt.

Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314), text to video; classifier-free guidance (arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studio.live.engine import Models, to_uint8
from studio.live.open import check_device, check_dtype, load_models
from studio.model.memory import MemoryMode
from studio.sampler import NoiseSource
from studio.shapes import VideoShape
from studio.solvers import SOLVERS, FlowSolver, solve
from studio.timeline import check_prompt, check_seed

_SECONDS = 5.0


def clip(
    model: str | Path | Models,
    prompt: str,
    *,
    negative: str = "",
    seconds: float = _SECONDS,
    steps: int = 50,
    guidance: float = 5.0,
    shift: float = 5.0,
    solver: str = "unipc",
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    mode: str | MemoryMode | None = "auto",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> np.ndarray:
    """Generate a clip with a bidirectional model.

    Args:
        model: name or folder of a model, or networks already loaded.
        prompt: what to see.
        negative: what not to see, the other side of guidance.
        seconds: at least this long; clips are whole latent frames long.
        steps: network calls of the solver, each for both sides of guidance.
        guidance: weight of the prompt against `negative`; 1 is none and costs half.
        shift: flow shift of the noise levels; Wan2.1 takes 3 to 8 by size.
        solver: "unipc" or "euler".
        seed: seed of the noise.
        device: where to compute; None for a GPU where there is one.
        dtype: type of the weights; None for the device's own.
        mode: memory mode, as for `studio.open`.
        progress: told the steps done and their number after each.

    Returns:
        uint8 `[T, H, W, 3]`, read-only.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a value that makes no sense, or a model that goes block by block.
    """
    for text in (prompt, *([negative] if negative else [])):
        check_prompt(text)
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if not 0 < seconds < float("inf") or not 0 <= guidance < float("inf"):
        raise ValueError(f"`seconds` must be positive and `guidance` at least 0, got {seconds} and {guidance}")
    walk = SOLVERS[solver](steps, shift=shift)
    seed = check_seed(seed)
    models = load_models(model, check_device(device), check_dtype(dtype), mode)
    if models.config.causal:
        raise ValueError(f"`{models.config.name}` goes block by block and can be steered; use studio.open")
    return to_uint8(_pixels(models, _Guided(models, prompt, negative, guidance, progress, steps), walk, seconds, seed))


class _Guided:
    """The flow that a solver follows: the prompt's, led away from the negative one's."""

    def __init__(
        self,
        models: Models,
        prompt: str,
        negative: str,
        guidance: float,
        progress: Callable[[int, int], None],
        steps: int,
    ) -> None:
        self._dit, self._guidance, self._progress, self._steps, self._done = models.dit, guidance, progress, steps, 0
        texts = [prompt] if guidance == 1 else [prompt, negative]
        with torch.no_grad():
            # One condition a side, so that both run one after the other: a clip is large and memory is not.
            self._sides = [models.dit.condition(models.text.encode([text])) for text in texts]

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        times = timestep[:, None].expand(x.shape[:2])
        flows = [self._dit(x, times, side).float() for side in self._sides]
        self._done += 1
        self._progress(self._done, self._steps)
        if len(flows) == 1:
            return flows[0]
        return flows[1] + self._guidance * (flows[0] - flows[1])


@torch.inference_mode()
def _pixels(models: Models, flow: _Guided, walk: FlowSolver, seconds: float, seed: int) -> Tensor:
    config, parameter = models.config, next(models.vae.parameters())
    shape = VideoShape.of(config)
    count = shape.latent_frame_at(max(0, round(seconds * shape.fps) - 1)) + 1
    device = next(models.dit.parameters()).device
    noise = NoiseSource(seed, shape.latents(1, count), device=device)(0, 0)
    latents = solve(walk, flow, noise)
    stream = models.vae.stream()
    # Block by block, so that a long clip needs no more memory than a short one.
    parts = [models.vae.decode(part.to(parameter), stream).float().cpu() for part in latents.split(shape.block, dim=1)]
    return torch.cat(parts, dim=1)
