"""How well the latest frames show each prompt of a take, by a judge that the session was given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

__all__ = ["Alignment", "Judge"]

logger = logging.getLogger(__name__)

# Prompts judged at a block: the latest ones of the take.
PROMPTS = 4


class Judge(Protocol):
    """Tells how well frames show texts; `studio.evaluate.alignment` has two.

    One that likes to look at several blocks together says at how many frames in an attribute `frames`.
    """

    def __call__(self, frames: np.ndarray, texts: Sequence[str]) -> Sequence[float]:
        """A number a text for uint8 frames `[T, H, W, 3]`; NaN where it cannot tell."""
        ...


class Alignment:
    """Asks a judge at each block, about the frames that it likes to see together.

    A judge that fails is not asked again: what looks on must not stop what it looks at.

    Args:
        judge: The judge, or `None` for none.
    """

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._frames: list[np.ndarray] = []

    def fork(self) -> Alignment:
        """One that goes on by itself after the same frames."""
        other = Alignment(self._judge)
        other._frames = list(self._frames)
        return other

    def forget(self) -> None:
        """Forget the frames so far: another film begins."""
        self._frames = []

    def of(self, frames: np.ndarray, prompts: Mapping[int, str], *, cut: bool = False) -> dict[int, float]:
        """Judge a block.

        Args:
            frames: Its frames, uint8 `[T, H, W, 3]`.
            prompts: The prompts of the take by their number; the last ones are judged.
            cut: Whether another film begins with it.

        Returns:
            The judgement by the prompts' numbers; nothing without a judge or frames.
        """
        if self._judge is None or not len(frames) or not prompts:
            return {}
        self._frames = [] if cut else self._frames
        self._frames.append(frames)
        wanted = getattr(self._judge, "frames", len(frames))
        while len(self._frames) > 1 and sum(map(len, self._frames[1:])) >= wanted:
            del self._frames[0]
        chosen = dict(sorted(prompts.items())[-PROMPTS:])
        texts = list(dict.fromkeys(chosen.values()))
        try:
            found = self._judge(np.concatenate(self._frames)[-max(wanted, 1) :], texts)
        except Exception as error:
            logger.warning("alignment is no longer judged: %s: %s", type(error).__name__, error, exc_info=error)
            self._judge = None
            return {}
        by_text = dict(zip(texts, map(float, found), strict=True))
        return {number: by_text[text] for number, text in chosen.items()}
