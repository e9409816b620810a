"""Whether two models read the same text and the same latents, told from samples of their files before they are loaded.

A teacher whose text encoder or VAE is another one than the student's has the right shapes and would teach nonsense.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from studio.model.layouts import Layout
from studio.model.sources import Source
from studio.model.weights import layout_of

__all__ = ["check_kin"]

# Values of each tensor that are compared, and how far they may differ: two half precisions of one number do by so much.
_SAMPLES, _TOLERANCE = 64, 0.01


def check_kin(generator: str, teacher: str, *, called: str | None = None) -> None:
    """Refuse a teacher that reads other text embeddings or latents than the generator.

    Args:
        generator: Name or folder of the model that learns.
        teacher: Name or folder of the model that teaches.
        called: What errors call the generator; `None`: as `generator` does.

    Raises:
        FileNotFoundError: If one is not there.
        ValueError: If text encoder, tokenizer or VAE differ, naming where.
    """
    mine, its = (layout_of(name)[0] for name in (generator, teacher))
    for part, what in (("vae", "VAE"), ("text", "text encoder")):
        fault = _difference(getattr(mine, part), getattr(its, part))
        if not fault and part == "vae" and not _alike(*(_statistics(layout) for layout in (mine, its))):
            fault = "the statistics of its latents"
        if not fault and part == "text" and _words(mine.tokenizer) != _words(its.tokenizer):
            fault = "its tokenizer"
        if fault:
            raise ValueError(
                f"`teacher` must have the {what} of `generator` {called or generator!r}, got another in {teacher!r} "
                f"({fault} differs); teach one from that generator by `studio.train.pretrain`"
            )


def _difference(mine: Source, its: Source) -> str:
    """The name of a tensor that differs, or nothing."""
    if [file.resolve() for file in mine.files] == [file.resolve() for file in its.files]:
        return ""
    if mine.shapes != its.shapes:
        names = mine.shapes.keys() | its.shapes.keys()
        return next(name for name in sorted(names) if mine.shapes.get(name) != its.shapes.get(name))
    samples = {name: _sample(value) for name, value in mine.tensors()}
    return next((name for name, value in its.tensors() if not _alike(samples[name], _sample(value))), "")


def _sample(value: Tensor) -> Tensor:
    flat = value.flatten()
    return flat[:: max(1, len(flat) // _SAMPLES)].float()


def _alike(one: Tensor, two: Tensor) -> bool:
    near = _TOLERANCE * float(one.std(correction=0))
    return one.shape == two.shape and torch.allclose(one, two, rtol=_TOLERANCE, atol=near)


def _statistics(layout: Layout) -> Tensor:
    return torch.tensor([layout.config.vae.mean, layout.config.vae.std])


def _words(tokenizer: Path) -> dict[str, bytes]:
    files = sorted(tokenizer.rglob("*")) if tokenizer.is_dir() else [tokenizer]
    return {file.name: file.read_bytes() for file in files if file.is_file()}
