"""Embeddings of prompts and of their mixes, each computed once."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from studio.timeline import Mix

TEXTS = 64
MIXES = 16


class Texts:
    """Embeddings of prompts, each computed once.

    Args:
        encoder: has `encode(list of prompts) -> [B, L, D]`.
        size: prompts remembered.
    """

    def __init__(self, encoder: Any, size: int = TEXTS) -> None:
        self._encoder, self._size = encoder, size
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self._mixed: OrderedDict[Mix, Tensor] = OrderedDict()
        self.seconds: float | None = None

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._known

    def __call__(self, prompt: str | Mix) -> Tensor:
        """Embedding `[1, L, D]` of a prompt or a mix; the same tensor each time while it is remembered."""
        if isinstance(prompt, Mix):
            plain = prompt.plain
            return self._of_mix(prompt) if plain is None else self(plain)
        if prompt in self._known:
            self._known.move_to_end(prompt)
            return self._known[prompt]
        started = time.perf_counter()
        with torch.no_grad():
            text = self._encoder.encode([prompt])
        self.seconds = time.perf_counter() - started
        self._known[prompt] = text
        _forget(self._known, self._size)
        return text

    def _of_mix(self, mix: Mix) -> Tensor:
        if mix not in self._mixed:
            with torch.no_grad():
                self._mixed[mix] = self._compute(mix)
            _forget(self._mixed, MIXES)
        self._mixed.move_to_end(mix)
        return self._mixed[mix]

    def _compute(self, mix: Mix) -> Tensor:
        text = self._blend(mix.parts)
        for fold in mix.folds:
            towards = self._blend(fold.parts)
            if fold.kind == "spherical":
                text = slerp(text, towards, fold.share)
            else:
                text = text * (1 - fold.share) + towards * fold.share
        return text.to(self(mix.parts[0][0]).dtype)

    def _blend(self, parts: tuple[tuple[str, float], ...]) -> Tensor:
        return torch.stack([self(prompt).float() * share for prompt, share in parts]).sum(0)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Go a share of the way from one embedding to another on a sphere, token by token.

    Directions turn at an even pace and lengths go over linearly. Tokens that are padding in one of the two, and
    directions that are the same or opposite, go over linearly altogether.

    Args:
        start: `[..., D]` float.
        end: same shape.
        share: share of the way, in [0, 1].

    Returns:
        Same shape.
    """
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    one, two = start / lengths[0].clamp_min(1e-12), end / lengths[1].clamp_min(1e-12)
    angle = (one * two).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    turned = (((1 - share) * angle).sin() * one + (share * angle).sin() * two) / sine.clamp_min(1e-12)
    straight = start * (1 - share) + end * share
    flat = (sine < 1e-4) | (lengths[0] < 1e-12) | (lengths[1] < 1e-12)
    return torch.where(flat, straight, turned * (lengths[0] * (1 - share) + lengths[1] * share))


def _forget(known: OrderedDict[Any, Tensor], size: int) -> None:
    while len(known) > size:
        known.popitem(last=False)
