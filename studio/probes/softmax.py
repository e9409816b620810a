"""Exact attention of a few queries, outside the fused kernel that shows no map.

Source: softmax attention (Vaswani et al., 2017, arXiv:1706.03762).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["attention_weights", "pool_over_slots", "sample_positions", "token_indices"]

# Weights held at once; 2^25 in float32 are 128 MiB.
_AT_ONCE = 2**25


def sample_positions(rows: int, columns: int, samples: int | None) -> tuple[tuple[int, int], ...]:
    """Choose token positions of a latent frame on an even grid, always the same ones.

    Args:
        rows: Token rows, at least 1.
        columns: Token columns, at least 1.
        samples: Most positions wanted, at least 1; `None` for every token.

    Returns:
        (row, column) of each position, row major. As many as an even grid allows, nearest to the picture's shape.

    Raises:
        ValueError: If a number is below 1.
    """
    if min(rows, columns) < 1 or (samples is not None and samples < 1):
        raise ValueError(f"`rows`, `columns` and `samples` must be at least 1, got {rows}, {columns}, {samples}")
    if samples is None or samples >= rows * columns:
        down, across = rows, columns
    else:
        fitting = [(high, min(columns, samples // high)) for high in range(1, min(rows, samples) + 1)]
        most = max(high * wide for high, wide in fitting)
        full = [pair for pair in fitting if pair[0] * pair[1] == most]
        down, across = min(full, key=lambda pair: abs(math.log(pair[1] * rows / (pair[0] * columns))))
    at_rows = [(2 * i + 1) * rows // (2 * down) for i in range(down)]
    at_columns = [(2 * i + 1) * columns // (2 * across) for i in range(across)]
    return tuple((row, column) for row in at_rows for column in at_columns)


@functools.lru_cache(maxsize=64)
def token_indices(
    positions: tuple[tuple[int, int], ...], frames: int, grid: tuple[int, int], device: torch.device
) -> Tensor:
    """Where the tokens at some positions stand within a pass.

    Args:
        positions: (row, column) of each position in a latent frame.
        frames: Latent frames of the pass.
        grid: Token rows and columns of a latent frame.
        device: Where the indices are wanted.

    Returns:
        `[frames, positions]`, kept for whoever asks again: sending them makes a GPU wait, in every layer of every pass.
    """
    with torch.inference_mode(False):
        within = torch.tensor([row * grid[1] + column for row, column in positions])
        return (torch.arange(frames)[:, None] * (grid[0] * grid[1]) + within).to(device)


@torch.no_grad()
def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention weights with scale 1 / sqrt(D), in float32.

    The product is as exact as torch is told to be: where TF32 is allowed for float32, that holds here as well.

    Args:
        q: Queries `[Q, N, D]`.
        k: Keys `[K, N, D]`.
        mask: `[Q, K]` bool, `True` where a query may look, or `None`.

    Returns:
        `[N, Q, K]` float32; each row sums to 1.
    """
    logits = _products(q.transpose(0, 1), k.permute(1, 2, 0)).mul_(q.shape[-1] ** -0.5)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(dim=-1)


@torch.no_grad()
def pool_over_slots(q: Tensor, k: Tensor, tokens: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of some queries, pooled over the latent frames and the token positions of the keys.

    Args:
        q: Queries `[F, P, N, D]`: P of each of F latent frames.
        k: Keys `[S * tokens, N, D]`: whole latent frames.
        tokens: Tokens of a latent frame.
        mask: `[F, P, S * tokens]` bool, `True` where a query may look, or `None`.

    Returns:
        Mass of each slot by head and asking frame, `[N, F, S]`, the mean over its queries, and mass of each token
        position, `[S, tokens]`, the mean over all queries and heads; both sum to 1 over the keys.
    """
    frames, count, heads, _ = q.shape
    slots = len(k) // tokens
    asked = q.flatten(0, 1)
    seen = None if mask is None else mask.flatten(0, 1)
    stride = max(1, _AT_ONCE // (heads * len(k)))
    by_query, positions = [], q.new_zeros((slots, tokens), dtype=torch.float32)
    for first in range(0, len(asked), stride):
        part = slice(first, first + stride)
        weights = attention_weights(asked[part], k, None if seen is None else seen[part])
        weights = weights.unflatten(-1, (slots, tokens))
        by_query.append(weights.sum(dim=-1))
        positions += weights.sum(dim=(0, 1))
    mass = torch.cat(by_query, dim=1).unflatten(1, (frames, count)).mean(dim=2)
    return mass, positions / (heads * len(asked))


def _products(q: Tensor, k: Tensor) -> Tensor:
    """`[N, Q, D]` times `[N, D, K]`, in float32."""
    if q.is_cuda and q.dtype == k.dtype and q.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(q, k, out_dtype=torch.float32)  # the same sums, without a copy of every key
    return torch.bmm(q.float(), k.float())
