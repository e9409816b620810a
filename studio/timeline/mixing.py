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
    while fold := _fold(timeline, i, block):
        folds.append(fold)
        i, block = i - 1, timeline.segments[i].start - 1
    return _collapsed(timeline.segments[i].parts, folds[::-1])


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
    if start >= stop:
        return []
    i, block, begun = timeline.index_at(start), start, []
    while _fold(timeline, i, block):
        i, block = i - 1, timeline.segments[i].start - 1
        begun.append(block)
    # Forward from the latest segment that no transition reaches into: every mix is made of the one just before it.
    before = now = _Shares(timeline.segments[i].parts)
    found = []
    for block in [*reversed(begun), *range(start, stop)]:
        if i + 1 < len(timeline.segments) and timeline.segments[i + 1].start <= block:
            before, i = now, i + 1
        fold = _fold(timeline, i, block)
        now = before.folded(fold) if fold else _Shares(timeline.segments[i].parts)
        found.append(now.shares)
    return found[len(begun) :]


class _Shares:
    """The shares of `Mix.weights`, to the bit, made a fold at a time.

    Args:
        parts: prompts and shares, which add up to 1.
        linear: whether only linear transitions were folded in so far.
    """

    def __init__(self, parts: Parts, linear: bool = True) -> None:
        self.shares, self.linear = dict(parts), linear

    def folded(self, fold: Fold) -> _Shares:
        """The shares after one more fold."""
        linear = self.linear and fold.kind == "linear"
        blended = _blend(self.shares, fold.parts, fold.share)
        return _Shares(normalised(blended) if linear else tuple(blended.items()), linear)


def _fold(timeline: Timeline, i: int, block: int) -> Fold | None:
    """What a segment folds into the mix before it at one of its blocks; None past its transition."""
    segment = timeline.segments[i]
    transition, done = segment.transition, block - segment.start
    if transition is None or not i or done >= transition.blocks:
        return None
    return Fold(segment.parts, (done + 1) / (transition.blocks + 1), transition.kind)


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
