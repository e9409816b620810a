"""Words that reach a block through the cache: which notes it looks at, and what those notes had heard.

The network is given one text at a time, so after a switch no query asks for a word of the old prompt any more. What is
left of that word sits in the cache: keys and values were taken from a residual stream into which the cross-attention
of the layers before had written. The trace follows this one step. It multiplies the share of the block's attention on
a slot by what the pass that wrote the slot had heard of each word.

Source: one step of attention rollout (Abnar & Zuidema, 2020, arXiv:2005.00928), from words through cached keys and
values; the measure belongs to this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.model.attention import Tap
from studio.probes.passes import Pass
from studio.probes.readings import AttentionReading
from studio.probes.softmax import attention_weights, sample_positions, token_indices
from studio.probes.words import Word

__all__ = ["Heard", "TracedWord", "WordTrace", "WordTracer"]


@dataclass(frozen=True, kw_only=True)
class TracedWord:
    """One word and how much of a block's attention reaches it through the cache.

    Args:
        prompt: Number of the prompt that it belongs to.
        index: Its place among that prompt's words.
        text: The word as it was written.
        share: Share of the block's attention, 0 to 1.
    """

    prompt: int
    index: int
    text: str
    share: float


@dataclass(frozen=True, kw_only=True)
class WordTrace:
    """What a block's look into the cache finds there of each word, the word of an old prompt included.

    The share of a word w is the mean, over all layers l but the first, of the sum over the slots s that the block did
    not make itself, of

        attention of layer l on s  *  mean over layers below l of the cross-attention to w in the pass that wrote s.

    Layers are told apart because the keys and values of a layer hold what the layers below it heard; those of the first
    hold no word at all. Attention to a slot is the mean over heads and over sampled queries of the block's last
    denoising step; cross-attention is the mean over heads and over sampled positions of the slot's frame. Sizes of
    values do not enter, nor does what a picture itself still shows: it is how much is looked at, one step back.

    Args:
        block: The block.
        words: Every word of every prompt that a slot in sight was written under, by prompt and place.
        rest: Share on what heard no word: the end of the prompt and padding.
        unheard: Share on slots of which nobody heard how they were written, as where watching began later.
    """

    block: int
    words: tuple[TracedWord, ...]
    rest: float
    unheard: float

    @property
    def looked(self) -> float:
        """Share of the attention on slots that the block did not make: the sum of everything here."""
        return self.rest + self.unheard + sum(word.share for word in self.words)

    def share(self, prompt: int) -> float:
        """Sum over the words of one prompt."""
        return sum((word.share for word in self.words if word.prompt == prompt), 0.0)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each word, ready for a data frame."""
        return [
            {
                "block": self.block,
                "prompt": word.prompt,
                "index": word.index,
                "word": word.text,
                "through_cache": word.share,
            }
            for word in self.words
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """What the notes of one latent frame had heard when they were taken.

    Args:
        prompt: Number of the prompt.
        words: Its words, or `None` where the text encoder does not tell them.
        shares: `[layers - 1, words + 1]` float32: for each layer from the second on, the mean over the layers below of
            the cross-attention to each word, and last what fell on no word.
    """

    prompt: int
    words: tuple[Word, ...] | None
    shares: np.ndarray


class WordTracer:
    """Listens to the passes that write the cache, and traces words through it; a listener of `Watch` over one cache.

    Args:
        samples: Most positions sampled of a latent frame; `None` for every token.
    """

    def __init__(self, *, samples: int | None = 16) -> None:
        self._samples = samples
        self._prompt, self._words = 0, None
        self._side: _Writing | None = None
        self.heard: dict[int, Heard] = {}

    def expect(self, prompt: int, words: Sequence[Word] | None) -> None:
        """Say which prompt is in force from now on.

        Args:
            prompt: Its number.
            words: What `words_of` found in it; `None` where the text encoder does not tell its words.
        """
        self._prompt, self._words = prompt, None if words is None else tuple(words)

    def begin(self, call: Pass) -> Tap | None:
        """See `Listener.begin`."""
        writes = call.cache is not None and call.kind in ("commit", "recache")
        self._side = _Writing(call, self._samples) if writes else None
        return self._side

    def end(self, call: Pass) -> None:
        """See `Listener.end`."""
        side, self._side = self._side, None
        if side is None or call.cache is None:
            return
        told = side.told()
        held = {slot.frame for slot in call.slots}
        self.heard = {frame: heard for frame, heard in self.heard.items() if frame in held}
        for index, frame in enumerate(call.frames):
            if frame in call.stored:
                shares = _below(told[:, index], self._words)
                self.heard[frame] = Heard(prompt=self._prompt, words=self._words, shares=shares)

    def trace(self, reading: AttentionReading) -> WordTrace | None:
        """Trace the words of every slot that a block looked at.

        Args:
            reading: What a denoising step of the block looked at, over all layers.

        Returns:
            The trace; `None` for a network of a single layer, whose notes hear nothing.

        Raises:
            ValueError: If the reading lacks layers that were heard.
        """
        mass = reading.mass.mean(axis=(1, 2))[1:]
        if not len(mass):
            return None
        found: dict[tuple[int, int], tuple[str, float]] = {}
        rest = unheard = 0.0
        for column, slot in enumerate(reading.slots):
            if slot.frame is None or slot.frame in reading.frames:
                continue
            heard = self.heard.get(slot.frame)
            if heard is None or heard.words is None:
                unheard += float(mass[:, column].mean())
                continue
            if len(heard.shares) != len(mass):
                raise ValueError(f"`reading` must be of all {len(heard.shares) + 1} layers, got {len(mass) + 1}")
            reached = (mass[:, column, None] * heard.shares).mean(axis=0)
            rest += float(reached[-1])
            for index, word in enumerate(heard.words):
                before = found.get((heard.prompt, index), ("", 0.0))[1]
                found[heard.prompt, index] = word.text, before + float(reached[index])
        words = tuple(
            TracedWord(prompt=prompt, index=index, text=text, share=share)
            for (prompt, index), (text, share) in sorted(found.items())
        )
        return WordTrace(block=reading.block, words=words, rest=rest, unheard=unheard)


class _Writing:
    """The tap of a pass that writes: its cross-attention, pooled layer by layer on the device."""

    def __init__(self, call: Pass, samples: int | None) -> None:
        self._call, self._positions = call, sample_positions(*call.grid, samples)
        self._layers: list[Tensor] = []

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.self_attention`."""

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.cross_attention`."""
        call = self._call
        asked = token_indices(self._positions, len(call.frames), call.grid, q.device)
        weights = attention_weights(q[0].type_as(v)[asked.flatten()], k[0].type_as(v))
        self._layers.append(weights.mean(dim=0).unflatten(0, tuple(asked.shape)).mean(dim=1))

    def told(self) -> np.ndarray:
        """Cross-attention `[layers, frames, text tokens]`, the mean over heads and sampled positions."""
        return torch.stack(self._layers).cpu().numpy()


def _below(told: np.ndarray, words: Sequence[Word] | None) -> np.ndarray:
    """Mean over the layers below each one, `[layers - 1, words + 1]`, pooled into words and what is none."""
    pooled = [told[:, word.start : word.stop].sum(axis=1) for word in words or ()]
    rest = 1 - sum(pooled, np.zeros(len(told), dtype=np.float32))
    shares = np.stack([*pooled, rest], axis=1)[:-1]
    return (np.cumsum(shares, axis=0) / np.arange(1, len(told))[:, None]).astype(np.float32)
