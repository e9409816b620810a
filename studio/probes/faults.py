"""What can be wrong with a cache, in words: each fault with what it means and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CacheFault", "CacheWarning", "FaultKind"]

FaultKind = Literal["zero_slot", "stale_slot", "wrong_text", "position_past_table", "not_finite", "exploding_norm"]


class CacheFault(UserWarning):
    """The category under which a fault of the cache is warned of in Python."""


@dataclass(frozen=True, kw_only=True)
class CacheWarning:
    """One fault of a take, reported when it appears.

    Args:
        kind: What is wrong.
        block: Block that is made with it.
        layer: First layer concerned (of the slot, where one is named), or `None` where no layer is.
        slot: First visible slot concerned, counted sink first and then from old to new, or `None`.
        message: What it means and what to do.
    """

    kind: FaultKind
    block: int
    layer: int | None
    slot: int | None
    message: str
