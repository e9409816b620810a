"""Randomness by counting: every draw is a function of the seed and of what it is for.

No generator's state is carried along, so that the number of the step is all that a resumed run needs, and ranks agree
on a draw by leaving their rank out of its key.
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist

from studio.train.ranks import shared_sum

__all__ = ["agreed", "choice", "generator", "key"]

_BITS = 63


def key(*parts: int | str) -> int:
    """A seed for one purpose.

    Args:
        parts: The run's seed, the purpose, the step and whatever else tells two draws apart.

    Returns:
        A whole number of 63 bits; other parts give another one.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)


def generator(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator for one purpose, see `key`."""
    return torch.Generator().manual_seed(key(*parts))


def choice(count: int, *parts: int | str) -> int:
    """One of `count` numbers, uniformly.

    Args:
        count: At least 1.
        parts: See `key`.

    Returns:
        A number in 0..count - 1.

    Raises:
        ValueError: If there is nothing to choose from.
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}")
    return int(torch.randint(count, (), generator=generator(*parts)))


def agreed(value: int) -> int:
    """The first rank's number, on every rank.

    Args:
        value: This rank's number.

    Returns:
        Rank 0's number, or `value` itself in a single process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    return int(shared_sum(value if dist.get_rank() == 0 else 0))
