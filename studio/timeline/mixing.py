"""Which prompts are in force at a block and with what shares, through blends and transitions: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from studio.timeline.segment import TransitionKind, normalised
from studio.timeline.value import Timeline

Parts = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Fold:
    """A step of a mix: what came before goes over into a blend.

    Args:
        parts: prompts of the blend and their shares, which add up to 1.
        share: how far it has come, in (0, 1).
        kind: "linear" or "spherical".
    """

    parts: Parts
    share: float
    kind: TransitionKind


@dataclass(frozen=True)
class Mix:
    """What is in force at a block.

    The embedding is the sum of the parts' embeddings times their shares, then folded into each of `folds` in turn.

    Args:
        parts: prompts and shares, which add up to 1.
        folds: spherical transitions under way, and whatever lies on top of them.
    """

    parts: Parts
    folds: tuple[Fold, ...] = ()

    @property
    def plain(self) -> str | None:
        """The prompt, where it is one alone; else None."""
        return self.parts[0][0] if len(self.parts) == 1 and not self.folds else None

    @property
    def weights(self) -> dict[str, float]:
        """The share of every prompt; on a sphere it is the share of the way."""
        shares = dict(self.parts)
        for fold in self.folds:
            shares = _blend(shares, fold.parts, fold.share)
        return shares


def mix_at(timeline: Timeline, block: int) -> Mix:
    """What is in force at a block.

    A transition begins with what was in force just before it: where a segment ends before its own transition does, the
    next one goes on from the mix that was reached.

    Args:
        timeline: the prompts.
        block: block number, from 0.

    Returns:
        The mix; linear transitions are already shares of its parts.

    Raises:
        ValueError: a negative block.
    """
    i, folds = timeline.index_at(block), []
    while True:
        segment = timeline.segments[i]
        mixed = segment.transition.blocks if segment.transition is not None and i else 0
        done = block - segment.start
        if segment.transition is None or done >= mixed:
            break
        folds.append(Fold(segment.parts, (done + 1) / (mixed + 1), segment.transition.kind))
        i, block = i - 1, segment.start - 1
    return _collapsed(segment.parts, folds[::-1])


def changes_at(timeline: Timeline, block: int) -> bool:
    """Whether what is in force at a block differs from the block before; never at block 0."""
    return block > 0 and mix_at(timeline, block) != mix_at(timeline, block - 1)


def weights_over(timeline: Timeline, start: int, stop: int) -> list[dict[str, float]]:
    """The share of every prompt at each block of a stretch, for a preview.

    Args:
        timeline: the prompts.
        start: first block.
        stop: block just past the last.

    Returns:
        One dictionary a block; the shares of each add up to 1.
    """
    return [mix_at(timeline, block).weights for block in range(start, stop)]


def _collapsed(parts: Parts, folds: list[Fold]) -> Mix:
    """Turn leading linear folds into shares, so that equal mixes are equal values."""
    while folds and folds[0].kind == "linear":
        parts = normalised(_blend(dict(parts), folds[0].parts, folds[0].share))
        folds = folds[1:]
    return Mix(parts, tuple(folds))


def _blend(shares: dict[str, float], parts: Parts, share: float) -> dict[str, float]:
    out = {prompt: weight * (1 - share) for prompt, weight in shares.items()}
    for prompt, weight in parts:
        out[prompt] = out.get(prompt, 0.0) + weight * share
    return out
