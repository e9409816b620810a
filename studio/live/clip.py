"""A whole clip at a time, by a bidirectional network: what Wan2.1 itself does, and what a teacher shows.

There is no cache and nothing to steer: every frame is denoised together with all others under one prompt.

Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314), text to video; classifier-free guidance (arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from studio.live.engine import Models, to_uint8
from studio.live.open import check_device, check_dtype, load_models
from studio.model.memory import MemoryMode
from studio.shapes import VideoShape
from studio.solvers import SOLVERS
from studio.timeline import check_prompt, check_seed
from studio.whole import check_guidance, whole_clips

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
    if not 0 < seconds < float("inf"):
        raise ValueError(f"`seconds` must be positive and finite, got {seconds}; use 5.0")
    walk = SOLVERS[solver](steps, shift=shift)
    seed, guidance = check_seed(seed), check_guidance(guidance)
    models = load_models(model, check_device(device), check_dtype(dtype), mode)
    shape = VideoShape.of(models.config)
    parts = whole_clips(
        models, [prompt], frames=shape.latent_frame_at(max(0, round(seconds * shape.fps) - 1)) + 1, solver=walk,
        negative=negative, guidance=guidance, seed=seed, progress=progress,
    )  # fmt: skip
    return to_uint8(torch.cat([part.cpu() for part in parts], dim=1))
