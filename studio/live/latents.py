"""Latents as files, with the event log that made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from studio.live.log import TakeLog
from studio.timeline import Timeline, shorten
from studio.writing import check_place, written


def check_out(path: str | Path, *, force: bool) -> Path:
    """Check that latents may be written to a path, before anything is made.

    Args:
        path: the file.
        force: whether it may replace another one.

    Returns:
        The path.

    Raises:
        FileExistsError: it exists, and `force` is not set.
        FileNotFoundError: its folder does not exist.
        ValueError: it does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"latents must end in .safetensors, got {shorten(str(path))}; name it {path.stem}.safetensors")
    return check_place(path, force=force, remedy="replace it")


def save_latents(
    path: str | Path, latents: Sequence[Tensor], log: TakeLog, timeline: Timeline | None = None, *, first: int = 0
) -> None:
    """Write the latents of a take, whole or not at all, with its log and its timeline in the metadata.

    Args:
        path: the file; replaced when it exists.
        latents: of each block, `[1, f, C, H, W]`; they stand in the file as `latents`, `[1, F, C, H, W]`.
        log: the event log.
        timeline: the timeline.
        first: number of the first block, where they begin later; it stands in the metadata as "first_block".

    Raises:
        ValueError: no block.
    """
    if not len(latents):
        raise ValueError("latents must hold at least one block, got none; play first")
    path = Path(path)
    tags = {"log": log.to_json()}
    if timeline is not None:
        tags["timeline"] = timeline.to_json()
    if first:
        tags["first_block"] = str(first)
    with written(path) as aside:
        save_file({"latents": torch.cat(list(latents), dim=1).contiguous()}, aside, metadata=tags)
