"""What the measurements are asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.config import POLICIES

__all__ = ["check_policies", "check_seconds", "check_seeds", "check_whole"]


def check_whole(name: str, value: Any, *, least: int | None, use: int) -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: The argument's name.
        value: Its value.
        least: The smallest that makes sense; `None` for any.
        use: One that makes sense, for the message.

    Raises:
        ValueError: Naming both.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}; use {use}")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}; use {use}")


def check_seconds(name: str, value: float, *, use: float) -> None:
    """Refuse a length that is not positive and finite.

    Args:
        name: The argument's name.
        value: Its value.
        use: One that makes sense, for the message.

    Raises:
        ValueError: Naming both.
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name}` must be positive and finite, got {value}; use {use:g}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are none, no whole numbers, or named twice: a seed counted twice would narrow the spread.

    Args:
        seeds: The seeds.

    Raises:
        ValueError: Naming what is wrong.
    """
    if not seeds:
        raise ValueError("`seeds` must name at least one seed, got none; use 0")
    for seed in seeds:
        check_whole("seeds", seed, least=None, use=0)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be different ones, got {', '.join(map(str, seeds))}; name each once")


def check_policies(policies: Sequence[str], *, least: int) -> None:
    """Refuse policies that no switch knows, which would be measured as `keep` under another name.

    Args:
        policies: The policies.
        least: How many there must be.

    Raises:
        ValueError: Naming the known ones.
    """
    known = ", ".join(POLICIES)
    if isinstance(policies, str):
        raise ValueError(f"`policies` must be several of {known}, got {policies!r}; put it into a list")
    if len(policies) < least:
        raise ValueError(f"`policies` must name at least {least} of {known}, got none")
    for policy in policies:
        if policy not in POLICIES:
            raise ValueError(f"`policies` must be some of {known}, got {policy!r}")
    if len(set(policies)) < len(policies):
        raise ValueError(f"`policies` must be different ones, got {', '.join(policies)}; name each once")
