"""What is opened by name, with the probe that a model ships to judge what it makes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from studio.evaluate.alignment import ProbeJudge
from studio.evaluate.flicker import measure_flicker
from studio.live import Session
from studio.live import open as open_session
from studio.live.lab import Lab, LabSettings, Policies
from studio.live.open import check_device, check_dtype, load_models
from studio.model.weights import folder_of

__all__ = ["compare", "open"]


@functools.wraps(open_session)
def open(model: Any = "miniature", **options: Any) -> Session:
    """Open a live session whose judge is the probe that the model ships; see `studio.live.open`."""
    session = open_session(model, **options)
    session.judge = _judge_of(model, session.models)
    return session


def compare(
    model: Any = "miniature",
    first: str = "a red fox sleeps in the snow",
    then: str = "the red fox runs in the snow",
    *,
    at: int = 6,
    blocks: int = 10,
    seed: int = 0,
    policies: Policies = ("clear", "keep", "recache"),
    device: Any = None,
    dtype: Any = None,
    judge: Any = None,
) -> Lab:
    """Make one take under several policies, side by side; show it with `studio.RecacheLab`.

    Args:
        model: Name or folder of a model, or networks already loaded.
        first: The first prompt.
        then: The second one.
        at: First block under the second, from 1.
        blocks: Length of the take in blocks, above `at`.
        seed: Seed of the noise, the same for all.
        policies: Two to four: "clear", "keep", "recache", or ("recache", "keep" or "rewrite") with what the recache
            does to the sink.
        device: Where to compute; `None` for a GPU where there is one.
        dtype: Type of the weights; `None` for the device's own.
        judge: Tells how well frames show a prompt; `None` for the probe that the model ships.

    Returns:
        The lab, at work already.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a value makes no sense; nothing was loaded then.
    """
    settings = LabSettings(first=first, then=then, at=at, blocks=blocks, seed=seed, policies=tuple(policies))
    models = load_models(model, check_device(device), check_dtype(dtype), "auto")
    return Lab(models, settings, judge=judge or _judge_of(model, models), jump=jump_at)


def jump_at(film: np.ndarray, frame: int) -> float:
    """How much a film jumps at a frame, 1 being the mean difference of two frames elsewhere.

    Args:
        film: uint8 `[T, H, W, 3]`.
        frame: The frame, in 1..T - 1.

    Returns:
        The quotient; infinity in a film that stands still otherwise.
    """
    found = measure_flicker(film, [frame])
    return found.at_boundaries / found.inside if found.inside else float("inf")


def _judge_of(model: Any, models: Any) -> ProbeJudge | None:
    named = model if isinstance(model, (str, Path)) else models.config.name
    try:
        folder = folder_of(named)
    except (FileNotFoundError, ValueError):
        return None
    device = next(models.vae.parameters()).device
    return ProbeJudge.of(folder, device) if (folder / "probe.safetensors").exists() else None
