"""Rotary positions over frame, row and column.

A head's channels are pairs; the first pairs turn with the frame index, the next with the row, the last with the
column. Angles are computed in float64 from the positions themselves, so that no table ends.

Source: RoFormer (Su et al., 2021, arXiv:2104.09864) in Wan2.1's split over three axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Rotary", "axis_pairs", "rotary", "rotate"]

Rotary = tuple[Tensor, Tensor]  # cosine and sine, each [L, 1, head_dim / 2] float32

THETA = 10000.0


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs that turn with frame, row and column.

    Args:
        head_dim: Even channels of a head.

    Returns:
        Three counts that sum to half of `head_dim`.
    """
    third = head_dim // 2 // 3
    return head_dim // 2 - 2 * third, third, third


def rotary(frames: Tensor, rows: int, columns: int, head_dim: int) -> Rotary:
    """Cosines and sines for the tokens of some latent frames.

    Args:
        frames: `[F]` position of each latent frame; any order, any size.
        rows: Token rows of a latent frame.
        columns: Token columns of a latent frame.
        head_dim: Even channels of a head.

    Returns:
        Cosine and sine, each `[F * rows * columns, 1, head_dim / 2]` float32, frames outermost, row major.
    """
    device = frames.device
    cells = (torch.arange(count, device=device).double() for count in (rows, columns))
    positions = (frames.double(), *cells)
    shape = (len(frames), rows, columns)
    angles = []
    for axis, (position, pairs) in enumerate(zip(positions, axis_pairs(head_dim), strict=True)):
        rates = THETA ** (-torch.arange(pairs, device=device).double() / pairs)
        view = [1, 1, 1, pairs]
        view[axis] = len(position)
        angles.append(torch.outer(position, rates).view(view).expand(*shape, pairs))
    angle = torch.cat(angles, dim=-1).reshape(-1, 1, head_dim // 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, turn: Rotary) -> Tensor:
    """Turn the channel pairs of queries or keys.

    Args:
        x: `[B, L, N, D]`.
        turn: Cosine and sine `[L, 1, D / 2]`.

    Returns:
        The rotated tensor, same shape and type.
    """
    cosine, sine = turn
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).type_as(x)
