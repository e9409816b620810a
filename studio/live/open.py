"""Open a session by the name of a model."""

from __future__ import annotations

import dataclasses
import inspect
import time
from pathlib import Path
from typing import Any, cast

import torch

from studio.live.engine import Models
from studio.live.session import Session
from studio.live.warming import Progress, warm_up
from studio.model.memory import MemoryMode
from studio.model.places import check_device, check_dtype
from studio.timeline import EXAMPLE, Timeline, check_policy, check_prompt, check_seed, check_whole, shorten


def open(
    model: str | Path | Models = "miniature",
    *,
    prompt: str | None = None,
    timeline: Timeline | None = None,
    seed: int | None = None,
    policy: str = "recache",
    lead: int = 1,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    mode: str | MemoryMode | None = "auto",
    progress: Progress | None = None,
    **loading: Any,
) -> Session:
    """Open a live session.

    Args:
        model: name or folder of a model, or networks already loaded.
        prompt: what to see first; None for an example. A `timeline` says it itself.
        timeline: the prompts by block.
        seed: seed of the noise; None for the timeline's own, else 0.
        policy: what a switch does to the cache: "recache", "keep" or "clear".
        lead: blocks generated ahead of the one being shown, at least 1.
        device: where to compute; None for a GPU where there is one.
        dtype: type of the weights, as `torch.bfloat16` or "bfloat16"; None for bfloat16 on a GPU, float32 on a CPU.
        mode: memory mode: "auto" for what fits the card, a name that `studio doctor` lists, or None.
        progress: told what is being done and the share of it that is done, in [0, 1], while a model that is compiled
            warms up.
        **loading: what else `studio.load` takes: `quantization`, `loras`, `merged`, `base`, `ema`, `text_device`,
            `text_quantization`, `text_cache`, `attention`, `compiled`, `recorded`, `report`.

    Returns:
        The session, not playing yet.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a value that makes no sense; nothing was loaded then.
    """
    started = time.perf_counter()
    if prompt is not None and timeline is not None:
        raise ValueError("`prompt` and `timeline` exclude each other; put the prompt into the timeline")
    if timeline is not None and not isinstance(timeline, Timeline):
        raise ValueError(f"`timeline` must be a studio.Timeline, got {shorten(timeline)}; see Timeline.of(prompt)")
    check_prompt(EXAMPLE if prompt is None else prompt)
    check_policy(policy)
    check_whole(lead, "lead", 1, 64)
    if seed is not None:
        seed = check_seed(seed)
    models = load_models(model, check_device(device), check_dtype(dtype), mode, **loading)
    if timeline is None or timeline.length is None:
        models = endless(models)
    if models.dit.fused is not None:
        warm_up(models, progress)
    if timeline is None:
        timeline = Session.plain_timeline(models, EXAMPLE if prompt is None else prompt, seed or 0)
    elif seed is not None:
        timeline = timeline.with_seed(seed)
    return Session(models, timeline=timeline, policy=policy, lead=lead, load_s=time.perf_counter() - started)


def endless(models: Models) -> Models:
    """The networks for a video without an end: of a cache that keeps everything, only what is looked at is kept.

    Args:
        models: networks.

    Returns:
        The same ones, with a configuration whose cache is bounded.
    """
    cache = models.config.cache
    if cache.window is not None or cache.attend is None:
        return models
    bounded = dataclasses.replace(cache, window=cache.attend, sink=0, attend=None)
    return dataclasses.replace(cast(Any, models), config=dataclasses.replace(models.config, cache=bounded))


def load_models(
    model: str | Path | Models,
    device: torch.device,
    dtype: torch.dtype | None,
    mode: str | MemoryMode | None,
    **loading: Any,
) -> Models:
    """Load what a caller named, or take the networks that it gave.

    Args:
        model: name or folder of a model, or networks already loaded.
        device: where to compute.
        dtype: type of the weights; None for the device's own.
        mode: memory mode.
        **loading: what else `studio.load` takes.

    Returns:
        The networks.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an option that there is none of, or that cannot change loaded networks.
    """
    if not isinstance(model, (str, Path)):
        if loading or dtype is not None:
            named = ", ".join(f"`{name}`" for name in (*loading, *(["dtype"] if dtype is not None else [])))
            raise ValueError(f"{named} cannot change networks that are loaded already; give it to `studio.load`")
        return model
    from studio.model.weights import load

    known = list(inspect.signature(load).parameters)[3:]
    for name in loading:
        if name not in known:
            raise ValueError(f"`{name}` is no option of a model; use one of {', '.join(known)}")
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    return load(model, device=device, dtype=dtype, mode=mode, **loading)
